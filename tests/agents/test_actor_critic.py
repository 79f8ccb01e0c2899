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
from agents.actor_critic import importance, policy_gradient, policy_loss, sarsa_targets
from agents.core.buffer import Batch
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
    found = -mdp.gradient(policy_loss(log_prob, weight * adv * importance(log_prob, behaviour, 1e9)))
    torch.testing.assert_close(found, mdp.gradient(mdp.objective()))
    log_prob = mdp.policy(STATES).log_prob(ACTIONS)
    clipped = -mdp.gradient(policy_loss(log_prob, weight * adv * importance(log_prob, behaviour, 1.0)))
    assert float((clipped - found).norm()) > 1e-2


def test_no_gradient_goes_through_advantages_or_weights():
    log_prob, adv = torch.randn(5, requires_grad=True), torch.randn(5, requires_grad=True)
    rho = importance(log_prob, torch.zeros(5), 2.0)
    assert not rho.requires_grad
    policy_loss(log_prob, adv * rho).backward()
    assert adv.grad is None
    torch.testing.assert_close(log_prob.grad, -(adv * rho).detach() / 5)


def test_the_gradient_by_hand_is_that_of_the_loss():
    mdp, adv = Exact(), torch.randn(4, dtype=torch.float64)
    distribution = mdp.policy(STATES)
    (expected,) = torch.autograd.grad(policy_loss(distribution.log_prob(ACTIONS), adv), distribution.parameters)
    (found,) = policy_gradient(distribution.detach().score(ACTIONS), adv)
    torch.testing.assert_close(found, expected)


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

    def record(obs, batch, adv, values, targets, critic_backward):
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
    """Observations, a batch as stored, advantages, targets."""
    obs = torch.randn(n, 4)
    with torch.no_grad():
        action, log_prob = agent.policy(obs).sample_with_log_prob(agent.generator)
    batch = {"action": action, "log_prob": log_prob - 0.3, "reward": torch.zeros(n)}
    return obs, Batch(batch), torch.randn(n), torch.randn(n)


def descend(agent, obs, batch, adv, targets):
    values, backward = agent.critic.with_backward(obs)
    agent._descend(obs, batch, adv, values, targets, backward)


def parameters(agent):
    return [*agent.policy.parameters(), *agent.critic.parameters()]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("kind", ["on-policy", "off-policy", "reset steps"])
@pytest.mark.parametrize("action", [None, spaces.Box(-1, 1, (2,)), spaces.MultiBinary(2)], ids=str)
def test_the_step_descends_the_whole_loss(kind, action, normalize):
    env = vector(Counting if action is None else lambda: Fixed(spaces.Box(-9, 9, (4,)), action), 2)
    config = {"entropy_coef": 0.1, "value_coef": 0.7, "max_grad_norm": 1e9, "max_importance": 1.2}
    variant = "off-policy" if kind == "off-policy" else "a2c"
    agent = agents.ActorCritic(env, variant=variant, hidden=(4,), normalize_advantage=normalize, **config)
    obs, batch, adv, targets = step_data(agent)
    kept = torch.ones(12, dtype=torch.bool)
    if kind == "reset steps":
        kept[[2, 3, 11]] = False
        batch["valid"] = kept.to(torch.uint8)
    distribution, values = agent.policy(obs[kept]), agent.critic(obs[kept])
    log_prob = distribution.log_prob(batch["action"][kept])
    rho = importance(log_prob, batch["log_prob"][kept], 1.2) if kind == "off-policy" else 1.0
    weighed = (adv[kept] - adv[kept].mean()) / (adv[kept].std() + 1e-8) if normalize else adv[kept]
    loss = policy_loss(log_prob, rho * weighed) + 0.7 * (rho * (values - targets[kept]) ** 2).mean()
    loss = loss - 0.1 * distribution.entropy().mean()
    expected = torch.autograd.grad(loss, parameters(agent))
    descend(agent, obs, batch, adv, targets)
    for p, g in zip(parameters(agent), expected, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{}, {"normalize_advantage": True, "entropy_coef": 0.1, "normalize_rewards": True}]
)
@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP])
def test_short_rollouts_teach_the_same_in_numpy_as_in_torch(mode, settings):
    box = spaces.Box(-1, 1, (2,))
    found = []
    for in_numpy in (True, False):
        env = vector(lambda: Fixed(spaces.Box(-9, 9, (4,)), box, length=7), 3, mode)
        agent = agents.ActorCritic(env, seed=0, hidden=(4,), n_steps=20, log_std_init=-0.5, **settings)
        agent.prepare()
        assert agent.arrays
        agent.collector.collect(20)
        assert float(agent.buffer.rollout()["truncated"].sum() + agent.buffer.rollout()["terminated"].sum()) >= 3
        agent.arrays, agent.log_due = in_numpy, True
        metrics = agent.update()
        found.append((agent.flat.grad.clone(), {name: float(value) for name, value in metrics.items()}))
    (ours, ours_metrics), (theirs, their_metrics) = found
    assert float(theirs.norm()) > 1e-3
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    assert ours_metrics == pytest.approx(their_metrics, rel=1e-4, abs=1e-5)


def test_long_gradients_are_scaled_down():
    agent = agents.ActorCritic(vector(Counting, 2), hidden=(4,), max_grad_norm=0.01)
    obs, batch, adv, targets = step_data(agent)
    descend(agent, obs, batch, 100 * adv, targets)
    assert float(agent.flat.grad.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("variant", ["a2c", "qac"])
def test_reset_steps_of_the_environment_teach_nothing(variant):
    """What lies in the rows of an environment's own resets does not matter."""
    config = {"variant": variant, "hidden": (4,), "n_steps": 20, "normalize_advantage": True}
    found = []
    for garbage in (0.0, 50.0):
        agent = agents.ActorCritic(vector(Counting, 3, AutoresetMode.NEXT_STEP), seed=0, **config)
        agent.prepare()
        agent.collector.collect(20)
        invalid = agent.buffer.data["valid"] == 0
        assert 3 < int(invalid.sum()) < 30
        for name in ("obs", "reward"):
            agent.buffer.data[name][invalid] += garbage
        agent.update()
        found.append(agent.flat.vector.detach().clone())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["rmsprop", "adam"])
def test_the_learning_rate_falls_to_zero_over_the_run(optimizer):
    agent = agents.ActorCritic(vector(Counting, 2), hidden=(4,), anneal=True, learning_rate=0.1, optimizer=optimizer)
    rates = []
    update = agent.update
    agent.update = lambda: [update(), rates.append(agent.optimizer.lr)][0]
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
        ({"optimizer": "sgd"}, "optimizer is one of"),
        ({"gamma": 1.01}, "gamma must lie between 0 and 1"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm must be positive"),
        ({"log_std_init": float("nan")}, "log_std_init must be a number"),
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
