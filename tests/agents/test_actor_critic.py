"""The actor-critic family: exact policy gradients on a two-state MDP, targets by hand, importance weights."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import agents
from agents.actor_critic import importance, off_policy_loss, policy_loss, sarsa_targets
from agents.core.returns import gae, n_step
from agents.policies import StochasticPolicy
from tests.agents.toys import Counting, Fixed, vector

GAMMA = 0.9
# A two-state, two-action MDP: P[s, a, s'], r[s, a], first state distribution.
P = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.5, 0.5], [0.0, 1.0]]], dtype=torch.float64)
R = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)
RHO = torch.tensor([0.7, 0.3], dtype=torch.float64)
STATES = torch.tensor([0, 0, 1, 1])
ACTIONS = torch.tensor([0, 1, 0, 1])


class Exact:
    """The MDP solved for a softmax policy over its two states."""

    def __init__(self):
        self.policy = StochasticPolicy(spaces.Discrete(2), spaces.Discrete(2), hidden=(), output_gain=1.0).double()
        self.policy.encoder.forward = lambda obs: F.one_hot(obs, 2).double()
        self.params = list(self.policy.parameters())

    def pi(self):
        return self.policy(torch.tensor([0, 1])).logits.softmax(-1)

    def objective(self):
        """J = rho' (I - gamma P_pi)^-1 r_pi, differentiable: its gradient is the analytic policy gradient."""
        pi = self.pi()
        P_pi, r_pi = torch.einsum("sa,sat->st", pi, P), (pi * R).sum(1)
        return RHO @ torch.linalg.solve(torch.eye(2, dtype=torch.float64) - GAMMA * P_pi, r_pi)

    def solved(self):
        """Q [s, a], V [s] and the discounted visits d [s] = sum_t gamma^t P(s_t = s)."""
        with torch.no_grad():
            pi = self.pi()
            P_pi, eye = torch.einsum("sa,sat->st", pi, P), torch.eye(2, dtype=torch.float64)
            V = torch.linalg.solve(eye - GAMMA * P_pi, (pi * R).sum(1))
            return R + GAMMA * P @ V, V, torch.linalg.solve(eye - GAMMA * P_pi.T, RHO)

    def gradient(self, loss):
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, self.params)])


@pytest.mark.parametrize("baseline", ["Q", "A"])
def test_the_expected_gradient_is_the_analytic_policy_gradient(baseline):
    mdp = Exact()
    Q, V, visits = mdp.solved()
    weight = (visits[:, None] * mdp.pi().detach())[STATES, ACTIONS] * 4  # the loss is a mean over four rows
    critic = Q if baseline == "Q" else Q - V[:, None]
    log_prob = mdp.policy(STATES).log_prob(ACTIONS)
    found = -mdp.gradient(policy_loss(log_prob, weight * critic[STATES, ACTIONS]))
    torch.testing.assert_close(found, mdp.gradient(mdp.objective()))
    assert float(found.norm()) > 0.1


def test_importance_weights_turn_another_policy_s_data_into_the_policy_gradient():
    mdp = Exact()
    Q, V, visits = mdp.solved()
    beta = torch.tensor([[0.2, 0.8], [0.6, 0.4]], dtype=torch.float64)
    weight = (visits[:, None] * beta)[STATES, ACTIONS] * 4
    adv = (Q - V[:, None])[STATES, ACTIONS]
    log_prob = mdp.policy(STATES).log_prob(ACTIONS)
    behaviour = beta.log()[STATES, ACTIONS]
    found = -mdp.gradient(off_policy_loss(log_prob, behaviour, weight * adv, max_importance=1e9))
    torch.testing.assert_close(found, mdp.gradient(mdp.objective()))
    log_prob = mdp.policy(STATES).log_prob(ACTIONS)
    clipped = -mdp.gradient(off_policy_loss(log_prob, behaviour, weight * adv, max_importance=1.0))
    assert float((clipped - found).norm()) > 1e-2


def test_no_gradient_goes_through_advantages_or_weights():
    log_prob = torch.randn(5, requires_grad=True)
    adv = torch.randn(5, requires_grad=True)
    off_policy_loss(log_prob, torch.randn(5), adv, 2.0).backward()
    assert adv.grad is None
    rho = importance(log_prob, torch.zeros(5), 2.0)
    assert not rho.requires_grad
    torch.testing.assert_close(torch.autograd.grad(policy_loss(log_prob, adv), log_prob)[0], -adv.detach() / 5)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=1, max_size=6), st.floats(0.1, 10))
def test_importance_is_the_clipped_ratio(pairs, maximum):
    new, old = (torch.tensor(x, dtype=torch.float64) for x in zip(*pairs, strict=True))
    expected = np.minimum(np.exp(new.numpy()) / np.exp(old.numpy()), maximum)
    np.testing.assert_allclose(importance(new, old, maximum), expected)


def test_sarsa_targets_by_hand():
    found = sarsa_targets(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 10.0]), torch.tensor([0.0, 1.0]), 0.5)
    assert found.tolist() == [6.0, 2.0]


# --- what an update learns from -------------------------------------------------------------------------------------


def collected(monkeypatch, mode=AutoresetMode.DISABLED, **config):
    """An agent that has collected one rollout, and what its update hands to the gradient step."""
    agent = agents.ActorCritic(
        vector(Counting, 3, mode), hidden=(4,), normalize_observations=False, n_steps=20, gamma=GAMMA, **config
    )
    seen = {}

    def record(obs, batch, adv, values, targets, **kwargs):
        seen.update(obs=obs, batch=batch, adv=adv, values=values, targets=targets)
        return {}

    monkeypatch.setattr(agent, "_descend", record)
    agent.prepare()
    agent.collector.collect(20)
    rollout = agent.buffer.rollout()
    assert rollout["terminated"].sum() > 3
    assert rollout["truncated"].sum() > 3
    copy = {name: value.clone() for name, value in rollout.items()}
    agent.update()
    return agent, type(rollout)(copy), seen


CLOSE = {"rtol": 1e-4, "atol": 1e-2}


@pytest.mark.parametrize("advantage", ["gae", "td", "n-step"])
def test_a2c_advantages(monkeypatch, advantage):
    agent, rollout, seen = collected(monkeypatch, advantage=advantage, lam=0.8, lookahead=3)
    with torch.no_grad():
        values, successors = agent.critic(rollout.obs), agent.critic(rollout.next_obs)
    ends = rollout["terminated"], rollout["truncated"]
    match advantage:
        case "n-step":
            expected = n_step(rollout["reward"], successors, *ends, GAMMA, 3) - values
        case "gae":
            expected = gae(rollout["reward"], values, successors, *ends, GAMMA, 0.8)
        case "td":
            expected = rollout["reward"] + GAMMA * successors * (1 - ends[0]) - values
    torch.testing.assert_close(seen["adv"], expected.flatten(), **CLOSE)
    torch.testing.assert_close(seen["targets"], (expected + values).flatten(), **CLOSE)
    torch.testing.assert_close(seen["values"].detach(), values.flatten(), **CLOSE)


@pytest.mark.parametrize("variant", ["a2c", "qac"])
def test_reset_steps_of_the_environment_teach_nothing(monkeypatch, variant):
    _, rollout, seen = collected(monkeypatch, AutoresetMode.NEXT_STEP, variant=variant)
    valid = rollout["valid"].flatten() > 0
    assert not bool(valid.all())
    for name in ("adv", "values", "targets"):
        assert len(seen[name]) == int(valid.sum())
    assert torch.equal(seen["obs"], rollout.obs.flatten(0, 1)[valid])
    assert torch.equal(seen["batch"]["action"], rollout["action"].flatten()[valid])


def test_qac_targets_take_the_next_action_really_taken(monkeypatch):
    agent, rollout, seen = collected(monkeypatch, variant="qac")
    ended = (rollout["terminated"] + rollout["truncated"]) > 0
    with torch.no_grad():
        goes_on = ~ended[:-1]
        next_q = agent.critic(rollout.next_obs[:-1], F.one_hot(rollout["action"][1:], 3).float())
        expected = rollout["reward"][:-1] + GAMMA * next_q
        every = torch.stack(
            [agent.critic(rollout.next_obs, F.one_hot(torch.full((20, 3), a), 3).float()) for a in range(3)]
        )
    targets = seen["targets"].view(20, 3)
    torch.testing.assert_close(targets[:-1][goes_on], expected[goes_on], **CLOSE)
    over = rollout["terminated"] > 0
    torch.testing.assert_close(targets[over], rollout["reward"][over])
    # A truncated episode goes on with some action of the policy.
    cut = (rollout["truncated"] > 0) & ~over
    gaps = (rollout["reward"] + GAMMA * every - targets).abs().min(0).values
    assert float(gaps[cut].max()) < 1e-2
    q = agent.critic(rollout.obs, F.one_hot(rollout["action"], 3).float()).detach().flatten()
    torch.testing.assert_close(seen["adv"], q, **CLOSE)


def test_off_policy_learns_from_replayed_steps(monkeypatch):
    agent, rollout, seen = collected(monkeypatch, variant="off-policy", batch_size=60, buffer_size=600)
    batch = seen["batch"]
    with torch.no_grad():
        target = batch["reward"] + GAMMA * (1 - batch["terminated"]) * agent.critic(batch.next_obs)
    torch.testing.assert_close(seen["targets"], target, **CLOSE)
    torch.testing.assert_close(seen["adv"], target - agent.critic(batch.obs).detach(), **CLOSE)
    stored = {tuple(row) for row in rollout.obs.flatten(0, 1).tolist()}
    assert {tuple(row) for row in batch.obs.tolist()} <= stored


# --- the gradient step ----------------------------------------------------------------------------------------------


def step_data(agent, n=12):
    obs = torch.randn(n, 4)
    with torch.no_grad():
        action, log_prob = agent.policy(obs).sample_with_log_prob(agent.generator)
    return obs, {"action": action, "log_prob": log_prob - 0.3}, torch.randn(n), torch.randn(n)


@pytest.mark.parametrize("off_policy", [False, True])
def test_the_step_descends_the_whole_loss(off_policy):
    agent = agents.ActorCritic(
        vector(Counting, 2), hidden=(4,), entropy_coef=0.1, value_coef=0.7, max_grad_norm=1e9, max_importance=1.2
    )
    obs, batch, adv, targets = step_data(agent)
    distribution, values = agent.policy(obs), agent.critic(obs)
    log_prob = distribution.log_prob(batch["action"])
    rho = (log_prob - batch["log_prob"]).exp().clamp(max=1.2).detach() if off_policy else torch.ones(12)
    loss = -(rho * adv * log_prob).mean() + 0.7 * (rho * (values - targets) ** 2).mean()
    loss = loss - 0.1 * distribution.entropy().mean()
    params = [*agent.policy.parameters(), *agent.critic.parameters()]
    expected = torch.autograd.grad(loss, params)
    agent._descend(obs, batch, adv, agent.critic(obs), targets, off_policy=off_policy)
    for p, g in zip(params, expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)


def test_long_gradients_are_scaled_down():
    agent = agents.ActorCritic(vector(Counting, 2), hidden=(4,), max_grad_norm=0.01)
    obs, batch, adv, targets = step_data(agent)
    agent._descend(obs, batch, 100 * adv, agent.critic(obs), targets)
    assert float(agent.flat.grad.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_the_learning_rate_falls_to_zero_over_the_run(optimizer):
    agent = agents.ActorCritic(vector(Counting, 2), hidden=(4,), anneal=True, learning_rate=0.1, optimizer=optimizer)
    rates = []
    update = agent.update
    agent.update = lambda: [update(), rates.append(agent.optimizer.param_groups[0]["lr"])][0]
    agent.learn(50)
    np.testing.assert_allclose(rates, [0.08, 0.06, 0.04, 0.02, 0.0], atol=1e-12)


def test_parameters_and_gradients_lie_in_one_vector():
    agent = agents.ActorCritic(vector(Counting, 2), hidden=(4,))
    total = 0
    for p in [*agent.policy.parameters(), *agent.critic.parameters()]:
        assert p.untyped_storage().data_ptr() == agent.flat.vector.untyped_storage().data_ptr()
        assert p.grad.untyped_storage().data_ptr() == agent.flat.grad.untyped_storage().data_ptr()
        total += float(p.detach().square().sum())
    assert float(agent.flat.vector.detach().square().sum()) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "n_steps must be positive"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"variant": "a3c"}, "variant is one of"),
        ({"advantage": "vtrace"}, "advantage is one of"),
        ({"variant": "off-policy", "batch_size": 100, "buffer_size": 50}, "larger than buffer_size"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        agents.ActorCritic(vector(Counting, 2), **settings)


def test_a_buffer_no_larger_than_the_batch_is_filled_and_learned_from():
    box = spaces.Box(-1, 1, (2,))
    agent = agents.ActorCritic(
        vector(lambda: Fixed(box, box), 3), variant="off-policy", batch_size=16, buffer_size=16, hidden=(4,)
    )
    before = agent.flat.vector.detach().clone()
    agent.learn(90)
    assert not torch.equal(agent.flat.vector, before)
