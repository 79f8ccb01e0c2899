"""Stochastic policies: which distribution a space gets, and how its actions reach the environment."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agents.policies import StochasticPolicy
from agents.policies.categorical import Bernoulli, MultiCategorical
from agents.policies.gaussian import Gaussian
from agents.policies.stochastic import action_field_shape

OBS = spaces.Box(-1, 1, (3,))
SPACES = {
    Gaussian: [spaces.Box(-1, 2, (2,)), spaces.Box(-1, 1, (2, 3), np.float64), spaces.Box(-np.inf, np.inf, ())],
    MultiCategorical: [spaces.Discrete(4, start=-1), spaces.MultiDiscrete([3, 2], start=[2, 0])],
    Bernoulli: [spaces.MultiBinary(3), spaces.MultiBinary((2, 2))],
}


@pytest.mark.parametrize(("kind", "space"), [(kind, space) for kind, found in SPACES.items() for space in found])
def test_actions_lie_in_their_space(kind, space):
    policy = StochasticPolicy(OBS, space, log_std_init=1.0)
    distribution = policy(torch.randn(16, 3))
    assert isinstance(distribution, kind)
    action, log_prob = distribution.sample_with_log_prob(torch.Generator().manual_seed(0))
    shape, dtype = action_field_shape(space)
    assert action.shape == (16, *shape)
    assert action.dtype == dtype
    assert log_prob.shape == distribution.entropy().shape == (16,)
    taken = policy.to_env(action.detach(), None)
    assert len(taken) == 16
    assert all(space.contains(a) for a in taken)
    if kind is MultiCategorical:
        seen = {tuple(np.atleast_1d(a)) for a in taken}
        assert len(seen) > 3


def test_box_actions_are_clipped_and_the_stored_ones_are_not():
    low, high = np.array([-1.0, 0.0], np.float32), np.array([0.5, 3.0], np.float32)
    policy = StochasticPolicy(OBS, spaces.Box(low, high))
    action = torch.tensor([[-9.0, -9.0], [9.0, 9.0], [0.25, 1.0]])
    assert policy.to_env(action, None).tolist() == [low.tolist(), high.tolist(), [0.25, 1.0]]
    assert action[0].tolist() == [-9.0, -9.0]


def test_the_first_policy_is_nearly_indifferent():
    policy = StochasticPolicy(OBS, spaces.Discrete(4))
    probabilities = policy(torch.randn(100, 3)).logits.detach().softmax(-1)
    assert float((probabilities - 0.25).abs().max()) < 0.02


@pytest.mark.parametrize("space", [spaces.Text(5), spaces.Box(0, 9, (2,), np.int64), spaces.Dict({"a": OBS})])
def test_other_actions_are_refused(space):
    with pytest.raises(ValueError, match="Box, Discrete, MultiDiscrete and MultiBinary"):
        StochasticPolicy(OBS, space)


@pytest.mark.parametrize("space", [found[0] for found in SPACES.values()], ids=str)
def test_gradients_through_a_policy_are_autograd_s(space):
    policy, obs = StochasticPolicy(OBS, space, hidden=(5,), output_gain=1.0), torch.randn(6, 3)
    outputs = policy(obs).parameters
    grads = tuple(torch.randn_like(out) for out in outputs)
    expected = torch.autograd.grad(outputs, list(policy.parameters()), grads)
    for p in policy.parameters():
        p.grad = torch.full_like(p, 123.0)
    distribution, backward = policy.with_backward(obs)
    for ours, theirs in zip(distribution.parameters, outputs, strict=True):
        assert not ours.requires_grad
        torch.testing.assert_close(ours, theirs.detach())
    backward(grads)
    for p, g in zip(policy.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)
