"""Values of a rollout: successors are looked up once, and truncations see the true one."""

import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from agents.core.buffer import Batch
from agents.policies.value import ActionValue, ValueFunction, explained_variance, map_split, next_values

OBS = spaces.Box(-1, 1, (3,))


@given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 2**31))
def test_next_values_are_those_of_the_true_successors(T, N, seed):
    generator = torch.Generator().manual_seed(seed)
    ends = torch.randint(0, 5, (T, N), generator=generator)
    obs, next_obs = torch.randn(2, T, N, 2, generator=generator)
    inside = (ends[:-1] < 3)[..., None]
    next_obs[:-1] = torch.where(inside, obs[1:], next_obs[:-1])
    looked = []

    def value(x):
        looked.append(len(x))
        return x.sum(-1)

    rollout = Batch(obs=obs, next_obs=next_obs, terminated=(ends == 3).float(), truncated=(ends == 4).float())
    found = next_values(value, value(obs), rollout)
    expected = next_obs.sum(-1) * (ends != 3)
    torch.testing.assert_close(found, expected)
    in_numpy = next_values(value, value(obs).numpy(), rollout.numpy())
    torch.testing.assert_close(torch.from_numpy(in_numpy), expected)
    half = len(looked) // 2
    assert looked[:half] == looked[half:]
    looked = looked[:half]
    assert sum(looked[1:]) == int((ends == 4).sum()) + int((ends[-1] < 3).sum())


@pytest.mark.parametrize("space", [OBS, spaces.Dict({"a": OBS, "b": spaces.Discrete(2)})], ids=["flat", "dict"])
@pytest.mark.parametrize("kind", [ValueFunction, ActionValue])
def test_gradients_of_critics_are_autograd_s(space, kind):
    more = () if kind is ValueFunction else (torch.randn(6, 2),)
    value = kind(space, *([2] if more else []), hidden=(5,))
    obs = torch.randn(6, 3) if space is OBS else {"a": torch.randn(6, 3), "b": torch.arange(6) % 2}
    grad = torch.randn(6)
    expected = torch.autograd.grad(value(obs, *more), list(value.parameters()), grad)
    for p in value.parameters():
        p.grad = torch.full_like(p, 123.0)
    out, backward = value.with_backward(obs, *more)
    torch.testing.assert_close(out, value(obs, *more).detach())
    backward(grad)
    for p, g in zip(value.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, g)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("space", [OBS, spaces.Dict({"a": OBS, "b": spaces.Discrete(2)})], ids=["flat", "dict"])
def test_the_action_s_gradient_is_autograd_s_and_leaves_the_parameters_alone(space, activation):
    critic = ActionValue(space, 2, hidden=(5, 4), activation=activation)
    obs = torch.randn(6, 3) if space is OBS else {"a": torch.randn(6, 3), "b": torch.arange(6) % 2}
    action = torch.randn(6, 2)
    for p in critic.parameters():
        p.grad = torch.full_like(p, 123.0)
    varied = action.clone().requires_grad_()
    (expected,) = torch.autograd.grad(critic(obs, varied).sum(), varied)
    q, slope = critic.action_gradient(obs, action)
    torch.testing.assert_close(q, critic(obs, action).detach())
    torch.testing.assert_close(slope, expected)
    assert all(bool((p.grad == 123.0).all()) for p in critic.parameters())


def test_the_chords_of_a_linear_critic_are_its_tangent_less_what_was_chosen():
    critic = ActionValue(OBS, 5, hidden=(), sizes=(2, 3))
    action = torch.tensor([[1.0, 0.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0, 0.0]])
    q, rise = critic.action_gradient(torch.randn(2, 3), action)
    w = critic.net.layers[0].weight[0, 3:].detach()
    torch.testing.assert_close(rise, torch.stack([w - w[[0, 0, 4, 4, 4]], w - w[[1, 1, 3, 3, 3]]]))
    assert q.shape == (2,)


def test_explained_variance():
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert float(explained_variance(returns, returns)) == 1.0
    assert float(explained_variance(torch.full((4,), 9.0), returns)) == 0.0
    assert float(explained_variance(-returns, returns)) == -3.0


def test_minibatches_cover_the_batch():
    tree = {"a": torch.arange(7), "b": torch.arange(14).view(7, 2)}
    parts = map_split(tree, 3)
    assert [len(part["a"]) for part in parts] == [3, 3, 1]
    for name, whole in tree.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), whole)
    assert torch.equal(torch.cat(map_split(tree["a"], 4)), tree["a"])


def test_shapes():
    assert ValueFunction(OBS)(torch.randn(5, 3)).shape == (5,)
    assert ActionValue(OBS, 2)(torch.randn(5, 3), torch.randn(5, 2)).shape == (5,)
