"""Deterministic policies: bounds are met exactly, one-hot actions are exactly that, gradients are the soft ones."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from agents.core.flat import FlatParameters
from agents.policies import DeterministicPolicy

OBS = spaces.Box(-1, 1, (3,))


thousandths = st.integers(-(10**6), 10**6).map(lambda k: k / 1000)


@given(st.lists(st.tuples(thousandths, thousandths.map(abs)), min_size=1, max_size=5))
def test_bounds_are_met_exactly_in_every_dimension(bounds):
    low = np.array([a for a, _ in bounds], np.float32)
    high = low + np.array([b for _, b in bounds], np.float32)
    policy = DeterministicPolicy(OBS, spaces.Box(low, high), hidden=())
    n = len(bounds)
    assert np.array_equal(policy.to_env(torch.ones(1, n))[0], high)
    assert np.array_equal(policy.to_env(-torch.ones(1, n))[0], low)
    assert np.array_equal(policy.to_env(torch.full((1, n), 7.0))[0], high)
    middle = policy.to_env(torch.zeros(1, n))[0]
    np.testing.assert_allclose(middle, (low.astype(np.float64) + high) / 2, rtol=1e-6, atol=1e-6)


def test_symmetric_unit_bounds_change_nothing():
    policy = DeterministicPolicy(OBS, spaces.Box(-1, 1, (2,)))
    action = torch.rand(100, 2) * 2 - 1
    assert np.array_equal(policy.to_env(action), action.numpy())


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32)),
        spaces.Box(-2, 2, (2, 2), np.float64),
        spaces.Discrete(5, start=3),
        spaces.MultiDiscrete([2, 3], start=[1, 0]),
        spaces.MultiBinary([2, 2]),
    ],
    ids=str,
)
def test_actions_lie_in_their_space(space):
    policy, generator = DeterministicPolicy(OBS, space), torch.Generator().manual_seed(0)
    obs = torch.randn(16, 3)
    found = [policy(obs), policy.random(16, generator), policy.predict(obs)]
    found.append(policy.with_backward(obs, policy.noise(16, generator))[0])
    if policy.sizes:
        found.append(policy.explore(obs, generator))
    for action in found:
        assert action.shape == (16, policy.dim)
        assert all(space.contains(a) for a in policy.to_env(action.detach()))


def test_uniform_random_actions():
    generator = torch.Generator().manual_seed(0)
    box = DeterministicPolicy(OBS, spaces.Box(-1, 1, (1,))).random(20_000, generator)
    assert abs(float(box.mean())) < 4.5 * (1 / 3 / 20_000) ** 0.5
    assert -1 <= float(box.min()) < -0.99 < 0.99 < float(box.max()) <= 1
    discrete = DeterministicPolicy(OBS, spaces.Discrete(4)).random(20_000, generator)
    assert bool((discrete.mean(0) - 0.25).abs().max() < 4.5 * (3 / 16 / 20_000) ** 0.5)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
@pytest.mark.parametrize("space", [spaces.Discrete(4), spaces.MultiDiscrete([2, 3])])
def test_straight_through_is_one_hot_forward_and_soft_backward(space, temperature):
    policy = DeterministicPolicy(OBS, space, hidden=(8,), output_range=2.0)
    FlatParameters(policy)
    obs, weight = torch.randn(500, 3), torch.randn(500, policy.dim)
    action, backward = policy.with_backward(obs, policy.noise(500, torch.Generator().manual_seed(1)), temperature)
    assert bool(((action == 0) | (action == 1)).all())
    for block in action.split(policy.sizes, -1):
        assert bool((block.sum(-1) == 1).all())
    backward(weight)
    found = [p.grad for p in policy.parameters()]

    # The same noise by hand: Gumbel(0, 1) = -log E, E ~ Exp(1).
    noise = -torch.empty(500, policy.dim).exponential_(generator=torch.Generator().manual_seed(1)).log()
    scores = (policy.net(policy.encoder(obs)) + noise) / temperature
    soft = [block.softmax(-1) for block in scores.split(policy.sizes, -1)]
    assert torch.equal(torch.cat([s.argmax(-1, keepdim=True) for s in soft], -1),
                       torch.cat([a.argmax(-1, keepdim=True) for a in action.split(policy.sizes, -1)], -1))  # fmt: skip
    expected = torch.autograd.grad((torch.cat(soft, -1) * weight).sum(), list(policy.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_exploration_samples_the_softmax():
    policy = DeterministicPolicy(OBS, spaces.Discrete(3), hidden=(8,), output_range=2.0)
    obs, n = torch.randn(1, 3), 40_000
    p = policy.net(policy.encoder(obs)).softmax(-1)[0]
    found = policy.explore(obs.expand(n, 3), torch.Generator().manual_seed(0)).mean(0)
    assert bool(((found - p).abs() < 4.5 * (p * (1 - p) / n).sqrt()).all())
    assert policy(obs).argmax() == p.argmax()


@pytest.mark.parametrize("space", [spaces.Box(0, np.inf, (2,)), spaces.Box(-np.inf, np.inf, (1,))])
def test_infinite_bounds_are_refused(space):
    with pytest.raises(ValueError, match="finite bounds"):
        DeterministicPolicy(OBS, space)


@pytest.mark.parametrize("space", [spaces.Text(4), spaces.Box(0, 9, (2,), np.int64)])
def test_other_actions_are_refused(space):
    with pytest.raises(ValueError, match="Box, Discrete, MultiDiscrete or MultiBinary"):
        DeterministicPolicy(OBS, space)
