"""DDPG: the deterministic policy gradient in closed form, targets, polyak averaging, exploration."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import agents
from agents.ddpg import Transitions, actor_loss, critic_loss, critic_target
from tests.agents.toys import Fixed, vector

OBS = spaces.Box(-1, 1, (3,))
BOX = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([3.0, 0.5], np.float32))


def make(action=BOX, num_envs=2, **config):
    settings = {"hidden": (8,), "batch_size": 8, "buffer_size": 64, "learning_starts": 8, **config}
    return agents.DDPG(vector(lambda: Fixed(OBS, action), num_envs), seed=0, **settings)


def copied(module):
    """The parameters of a module as one vector of their own."""
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def batch(agent, n=32):
    generator = torch.Generator().manual_seed(1)
    return Transitions(
        torch.randn(n, 3, generator=generator),
        agent.actor.random(n, generator),
        torch.randn(n, generator=generator),
        torch.randn(n, 3, generator=generator),
        (torch.rand(n, generator=generator) < 0.3).float(),
        agent.actor.noise(n, generator),
    )


class Quadratic(nn.Module):
    """Q(s, a) = -(a - W s)' diag(c) (a - W s), which does not learn."""

    def __init__(self):
        super().__init__()
        self.W = nn.Parameter(torch.tensor([[0.5, -0.2, 0.1], [0.3, 0.0, -0.4]]))
        self.c = torch.tensor([1.0, 2.0])

    def forward(self, obs, action):
        return -((action - obs @ self.W.t()).square() * self.c).sum(-1)

    def with_backward(self, obs, action):
        return self(obs, action), lambda grad: None

    def action_gradient(self, obs, action):
        return self(obs, action), -2 * self.c * (action - obs @ self.W.t())


def quadratic(**config):
    """An agent whose critic is the quadratic."""
    agent = make(hidden=(), **config)
    agent.target_critic = Quadratic()
    agent.critic = agent.target_critic
    return agent


def test_the_deterministic_policy_gradient_on_a_quadratic_q():
    """mu(s) = tanh(K s + b):  dJ/dK = E[ dQ/da * (1 - mu^2) s' ],  dQ/da = -2 c (mu - W s)."""
    agent = quadratic()
    data = batch(agent)
    (layer,) = agent.actor.net.layers
    nn.init.normal_(layer.weight)
    obs, critic = data.obs, agent.critic
    with torch.no_grad():
        mu = torch.tanh(obs @ layer.weight.t() + layer.bias)
        slope = -2 * critic.c * (mu - obs @ critic.W.t()) * (1 - mu**2)
    expected = {"weight": slope.t() @ obs / len(obs), "bias": slope.mean(0)}
    agent.train_step(data)
    torch.testing.assert_close(-layer.weight.grad, expected["weight"])
    torch.testing.assert_close(-layer.bias.grad, expected["bias"])


def chords(critic, obs, action, sizes):
    """By how much each choice would raise Q, one choice at a time."""
    rise, q, start = torch.zeros_like(action), critic(obs, action).detach(), 0
    for size in sizes:
        for j in range(start, start + size):
            other = action.clone()
            other[:, start : start + size] = 0.0
            other[:, j] = 1.0
            rise[:, j] = critic(obs, other).detach() - q
        start += size
    return rise


SPACES = [BOX, spaces.Discrete(3), spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(2)]


@pytest.mark.parametrize("action", SPACES, ids=str)
@pytest.mark.parametrize("activation", ["relu", "gelu"], ids=["own passes", "autograd's passes"])
def test_gradients_are_those_of_the_losses_by_autograd(action, activation):
    agent = make(action, activation=activation, temperature=0.7)
    data, c = batch(agent), agent.config
    with torch.no_grad():
        next_q = agent.target_critic(data.next_obs, agent.target_actor(data.next_obs))
        target = critic_target(data.reward, next_q, data.terminated, c.gamma)
    actor, critic = copy.deepcopy(agent.actor), copy.deepcopy(agent.critic)
    q_loss = (critic(data.obs, data.action) - target).square().mean()
    q_loss.backward()
    torch.optim.Adam(critic.parameters(), lr=c.critic_lr).step()
    gradient = [p.grad.clone() for p in critic.parameters()]

    out = actor.net(actor.encoder(data.obs))
    if action is BOX:
        mu_loss = -critic(data.obs, out.tanh()).mean()
        mu_loss.backward()
    else:
        blocks = ((out + data.noise) / c.temperature).split(actor.sizes, -1)
        soft = torch.cat([block.softmax(-1) for block in blocks], -1)
        hard = torch.cat([nn.functional.one_hot(block.argmax(-1), block.shape[-1]) for block in blocks], -1).float()
        mu_loss = -critic(data.obs, hard).mean()
        (-soft * chords(critic, data.obs, hard, actor.sizes)).sum(-1).mean().backward()

    metrics = agent.train_step(data)
    torch.testing.assert_close(metrics["critic_loss"], q_loss.detach())
    torch.testing.assert_close(metrics["actor_loss"], mu_loss.detach(), rtol=1e-4, atol=1e-6)
    for p, q in zip(agent.actor.parameters(), actor.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-7)
    # The critic holds its own loss's gradient, and nothing of the actor's step.
    for p, g in zip(agent.critic.parameters(), gradient, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-7)
    assert not any(p.requires_grad for net in (agent.target_actor, agent.target_critic) for p in net.parameters())


def test_repeated_steps_find_the_maximum_of_a_quadratic():
    agent = quadratic(actor_lr=0.05)
    data = batch(agent, 256)
    for _ in range(300):
        agent.train_step(data)
    best = data.obs @ agent.target_critic.W.t()
    inside = (best.abs() < 0.5).all(1)
    assert float((agent.actor(data.obs) - best)[inside].abs().max().detach()) < 0.1


def test_targets_by_hand():
    found = critic_target(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 10.0]), torch.tensor([0.0, 1.0]), 0.5)
    assert found.tolist() == [6.0, 2.0]
    loss, dloss_dq = critic_loss(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]))
    assert (float(loss), dloss_dq.tolist()) == (2.0, [-2.0, 0.0])
    loss, dloss_da = actor_loss(torch.tensor([1.0, 2.0]), torch.tensor([[4.0], [-6.0]]))
    assert (float(loss), dloss_da.tolist()) == (-1.5, [[-2.0], [3.0]])


def learned(flag, value):
    """The parameters after one update from a buffer whose rows all have `flag` set to `value`."""
    agent = make(num_envs=2)
    agent.prepare()
    generator = np.random.default_rng(0)
    for _ in range(16):
        for name, field in agent.buffer.schema.items():
            agent.buffer.put(name, generator.uniform(-1, 1, (2, *field.shape)))
        for name in ("terminated", "truncated"):
            agent.buffer.put(name, [value if name == flag else 0.0] * 2)
        agent.buffer.advance()
    agent.update()
    return copied(agent.critic)


def test_a_truncation_bootstraps_and_a_termination_does_not():
    plain = learned("truncated", 0.0)
    assert torch.equal(plain, learned("truncated", 1.0))
    assert not torch.equal(plain, learned("terminated", 1.0))


def test_target_networks_follow_by_polyak_averaging_in_place():
    agent = make(tau=0.1)
    pairs = [(agent.target_actor, agent.actor), (agent.target_critic, agent.critic)]
    data = batch(agent)
    agent.train_step(data)
    before = [[p.detach().clone() for p in slow.parameters()] for slow, _ in pairs]
    places = [[p.data_ptr() for p in slow.parameters()] for slow, _ in pairs]
    agent.train_step(data)
    for (slow, fast), old, place in zip(pairs, before, places, strict=True):
        for p, q, b, pointer in zip(slow.parameters(), fast.parameters(), old, place, strict=True):
            torch.testing.assert_close(p.detach(), 0.1 * q.detach() + 0.9 * b, rtol=1e-6, atol=1e-7)
            assert p.data_ptr() == pointer
            assert not p.requires_grad


def test_target_networks_start_equal():
    agent = make()
    obs, action = torch.randn(4, 3), torch.randn(4, 2)
    assert torch.equal(agent.actor(obs), agent.target_actor(obs))
    assert torch.equal(agent.critic(obs, action), agent.target_critic(obs, action))


# --- acting ---------------------------------------------------------------------------------------------------------


def acted(agent, steps):
    agent.prepare()
    agent.collector.collect(steps)
    return agent.buffer.rollout()


def test_the_warm_up_is_uniform_and_ends_on_time():
    agent = make(learning_starts=40, buffer_size=4000, noise_std=1e-6)
    rollout = acted(agent, 30)
    warm, later = rollout["action"][:20], rollout["action"][20:]
    assert float(warm.std()) > 0.4
    greedy = agent.actor(rollout.obs[20:].flatten(0, 1)).detach().view_as(later)
    torch.testing.assert_close(later, greedy, atol=1e-4, rtol=0)


@pytest.mark.parametrize("noise", ["gaussian", "ou"])
def test_exploration_adds_noise_inside_the_bounds(noise):
    agent = make(learning_starts=0, noise=noise, noise_std=0.5, buffer_size=4000)
    rollout = acted(agent, 300)
    gap = rollout["action"].flatten(0, 1) - agent.actor(rollout.obs.flatten(0, 1)).detach()
    assert float(rollout["action"].abs().max()) <= 1.0
    if noise == "gaussian":
        inside = gap[rollout["action"].flatten(0, 1).abs() < 1]
        assert 0.35 < float(inside.std()) < 0.55
    else:
        first, later = gap.view(60, 5, 2, 2)[:, 0], gap.view(60, 5, 2, 2)[:, 4]  # episodes of five steps
        assert float(first.std()) == pytest.approx(0.05, rel=0.2)
        assert float(later.std()) == pytest.approx(0.05 * 5**0.5, rel=0.2)


def test_discrete_exploration_draws_from_the_softmax_and_evaluation_takes_the_best():
    agent = make(spaces.Discrete(3, start=5), learning_starts=0, buffer_size=4000)
    rollout = acted(agent, 400)
    found = rollout["action"].flatten(0, 1)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert bool((found.sum(1) == 1).all())
    assert bool((found.mean(0) - 1 / 3).abs().max() < 0.08)  # an untrained actor is nearly indifferent
    obs = np.zeros((50, 3), np.float32)
    best, _ = agent.predict(obs, deterministic=True)
    assert len(set(best.tolist())) == 1
    assert set(best.tolist()) <= {5, 6, 7}
    assert len(set(agent.predict(obs)[0].tolist())) == 3


def test_a_share_epsilon_of_discrete_actions_is_uniform():
    agent = make(spaces.MultiDiscrete([2, 4]), learning_starts=0, buffer_size=4000, epsilon=0.4)
    with torch.no_grad():
        agent.actor.net.layers[-1].bias.copy_(torch.tensor([0.0, 50.0, 50.0, 0.0, 0.0, 0.0]))
    found = acted(agent, 1000)["action"].flatten(0, 1)  # 2000 actions of an actor that would always choose 1 and 0
    expected = torch.tensor([0.2, 0.8, 0.7, 0.1, 0.1, 0.1])
    assert bool((found.mean(0) - expected).abs().max() < 4.5 * (0.25 / 2000) ** 0.5)
    both = (found[:, 0] * (1 - found[:, 2])).mean()  # each block draws for itself: neither choice is the actor's
    assert abs(float(both) - 0.2 * 0.3) < 4.5 * (0.06 / 2000) ** 0.5


def test_updates_match_environment_steps():
    agent = make(learning_starts=10, gradient_steps=-1, train_freq=3)
    calls = []
    step = agent.train_step
    agent.train_step = lambda *a, **k: calls.append(agent.num_timesteps) or step(*a, **k)
    agent.learn(30)
    # Rounds of 3 vector steps of 2 environments; the first two (6 and 12 steps stored) end below and above 10.
    assert len(calls) == 24
    agent = make(learning_starts=0, gradient_steps=2)
    agent.train_step = lambda *a, **k: calls.append(0) or {}
    calls.clear()
    agent.learn(20)
    assert len(calls) == 2 * 7  # 8 rows of 2 are needed for the first batch of 8


def test_a_buffer_no_larger_than_the_batch_is_filled_and_learned_from():
    agent = make(num_envs=3, buffer_size=16, batch_size=16, learning_starts=0)
    before = copied(agent.critic)
    agent.learn(30)
    assert not torch.equal(copied(agent.critic), before)


def test_observations_are_normalised_on_request():
    agent = make(normalize_observations=True, gradient_steps=1).learn(40)
    sample, raw, seen = agent.buffer.sample, [], []
    agent.buffer.sample = lambda *a: raw.append(sample(*a)) or raw[-1]
    agent.train_step = lambda batch, **k: seen.append((batch.obs, batch.next_obs)) or {}
    agent.learn(2, reset_num_timesteps=False)
    statistics = agent.normalizer.state_dict()
    mean, var = (torch.from_numpy(statistics[""][name]).float() for name in ("mean", "var"))
    assert statistics[""]["count"] == 42
    for found, stored in zip(seen[0], (raw[0].obs, raw[0].next_obs), strict=True):
        torch.testing.assert_close(found, (stored - mean) / (var + 1e-8).sqrt())
        assert float((found - stored).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 100, "buffer_size": 50}, "larger than buffer_size"),
        ({"noise": "pink"}, "noise is one of gaussian, ou; got 'pink'"),
        ({"noise_std": float("nan")}, "noise_std must be 0 or above; got nan"),
        ({"tau": 0.0}, "tau must be positive"),
        ({"tau": 1.5}, "tau must lie between 0 and 1"),
        ({"gamma": -0.1}, "gamma must lie between 0 and 1"),
        ({"epsilon": 1.5}, "epsilon must lie between 0 and 1"),
        ({"temperature": -1.0}, "temperature must be positive"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_spaces_it_cannot_serve():
    for action, message in (
        (spaces.Box(-np.inf, np.inf, (1,)), "finite bounds"),
        (spaces.Box(0, 9, (2,), np.int64), "DDPG needs Box, Discrete, MultiDiscrete or MultiBinary actions"),
    ):
        with pytest.raises(ValueError, match=message):
            make(action)


def test_text_is_refused_by_name():
    message = r"DDPG needs Box or Discrete actions; reasoning/addition-v0 takes text\. Use kimi, trpo or actor-critic\."
    with pytest.raises(ValueError, match=f"^{message}$"):
        agents.DDPG("reasoning/addition-v0")
