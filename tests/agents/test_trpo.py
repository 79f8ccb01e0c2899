"""TRPO: exact Fisher products, conjugate gradient, and a step that never leaves its trust region."""

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st
from torch.func import functional_call

import agents
from agents.core.buffer import Batch
from agents.core.returns import gae
from agents.policies import StochasticPolicy
from agents.policies.gaussian import Gaussian
from agents.trpo import conjugate_gradient, fisher_vector_product, flatten, surrogate, unflatten
from tests.agents.toys import Counting, Fixed, vector

OBS = spaces.Box(-1, 1, (3,))
ACTIONS = {
    "gaussian": spaces.Box(-1, 1, (2,)),
    "categorical": spaces.Discrete(4),
    "multi-categorical": spaces.MultiDiscrete([2, 3]),
    "bernoulli": spaces.MultiBinary(3),
}
each_action = pytest.mark.parametrize("action", ACTIONS.values(), ids=ACTIONS.keys())


def make(action=ACTIONS["categorical"], **config):
    settings = {"n_steps": 32, "hidden": (8,), "critic_epochs": 2, **config}
    return agents.TRPO(vector(lambda: Fixed(OBS, action), 2), seed=0, **settings)


def batch(agent, n=64, seed=0):
    """Steps: observations, actions drawn from the policy, their log-probabilities, random advantages."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(n, 3, generator=generator)
    with torch.no_grad():
        action, log_prob = agent.policy(obs).sample_with_log_prob(generator)
    return Batch(obs=obs, action=action, log_prob=log_prob, adv=torch.randn(n, generator=generator))


def parameters(agent):
    return [p.detach().clone() for p in agent.policy.parameters()]


def distribution_now(agent, obs):
    """The policy's distribution, sharing nothing with the parameters that an update will change in place."""
    return copy.deepcopy(agent.policy)(obs).detach()


def unchanged(agent, before):
    return all(a.numpy().tobytes() == b.numpy().tobytes() for a, b in zip(parameters(agent), before, strict=True))


# --- Fisher-vector products -----------------------------------------------------------------------------------------


def test_the_fisher_matrix_of_a_linear_gaussian_policy():
    """F = E[x x'] (x = observation and 1) kron diag(1 / sigma^2) for the mean's weights, 2 I for log sigma."""
    policy = StochasticPolicy(OBS, ACTIONS["gaussian"], hidden=(), output_gain=1.0)
    log_std = torch.tensor([0.4, -0.7])
    policy.log_std.data.copy_(log_std)
    obs = torch.randn(50, 3)
    names = [name for name, _ in policy.named_parameters()]
    params = list(policy.parameters())
    product = fisher_vector_product(policy(obs), params)
    v = [torch.randn_like(p) for p in params]
    found = dict(zip(names, unflatten(product(flatten(v)), params), strict=True))
    tangent = dict(zip(names, v, strict=True))

    x = torch.cat([obs, torch.ones(50, 1)], 1)
    second_moment = x.t() @ x / 50
    weight = next(name for name in names if name.endswith("weight"))
    bias = weight.removesuffix("weight") + "bias"
    augmented = torch.cat([tangent[weight], tangent[bias][:, None]], 1)
    expected = (-2 * log_std).exp()[:, None] * (augmented @ second_moment)
    torch.testing.assert_close(found[weight], expected[:, :3])
    torch.testing.assert_close(found[bias], expected[:, 3])
    torch.testing.assert_close(found["log_std"], 2 * tangent["log_std"])


@each_action
def test_fisher_products_are_the_hessian_of_mean_kl(action):
    policy = StochasticPolicy(OBS, action, hidden=(6, 5), output_gain=1.0)
    obs = torch.randn(40, 3)
    params = list(policy.parameters())
    names = [name for name, _ in policy.named_parameters()]
    old = policy(obs).detach()

    def mean_kl(*values):
        return old.kl(functional_call(policy, dict(zip(names, values, strict=True)), (obs,))).mean()

    product = fisher_vector_product(policy(obs), params)
    for _ in range(3):
        v = [torch.randn_like(p) for p in params]
        _, expected = torch.autograd.functional.hvp(mean_kl, tuple(p.detach() for p in params), tuple(v))
        torch.testing.assert_close(product(flatten(v)), flatten(expected), atol=1e-5, rtol=1e-3)


@each_action
def test_the_fisher_matrix_is_symmetric_and_positive(action):
    policy = StochasticPolicy(OBS, action, hidden=(4,), output_gain=1.0)
    params = list(policy.parameters())
    product = fisher_vector_product(policy(torch.randn(30, 3)), params)
    n = sum(p.numel() for p in params)
    F = torch.stack([product(row) for row in torch.eye(n)])
    torch.testing.assert_close(F, F.t(), atol=1e-6, rtol=1e-4)
    assert float(torch.linalg.eigvalsh(F).min()) > -1e-5
    assert float(F.diagonal().max()) > 1e-3


# --- conjugate gradient ---------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 2**31))
def test_conjugate_gradient_solves_spd_systems(n, seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(n, n, generator=generator, dtype=torch.float64)
    A = root @ root.t() + torch.eye(n, dtype=torch.float64)
    x = torch.randn(n, generator=generator, dtype=torch.float64)
    found = conjugate_gradient(lambda v: A @ v, A @ x, iterations=3 * n, tol=1e-24)
    torch.testing.assert_close(found, x, atol=1e-6, rtol=1e-6)


def test_conjugate_gradient_needs_one_iteration_per_distinct_eigenvalue():
    d = torch.tensor([1.0, 1.0, 4.0, 4.0, 9.0], dtype=torch.float64)
    b = torch.randn(5, dtype=torch.float64)
    assert float((conjugate_gradient(lambda v: d * v, b, 3) - b / d).norm()) < 1e-12
    assert float((conjugate_gradient(lambda v: d * v, b, 2) - b / d).norm()) > 1e-6


# --- the step -------------------------------------------------------------------------------------------------------


@each_action
def test_every_update_stays_in_the_trust_region_and_improves(action):
    delta = 0.01
    agent = make(action, delta=delta)
    for seed in range(8):
        steps = batch(agent, seed=seed)
        old = distribution_now(agent, steps.obs)
        before = parameters(agent)
        metrics = agent.improve_policy(steps)
        with torch.no_grad():
            new = agent.policy(steps.obs)
            kl = float(old.kl(new).mean())
            normal = (steps["adv"] - steps["adv"].mean()) / (steps["adv"].std() + 1e-8)
            gain = float(surrogate(new.log_prob(steps["action"]), steps["log_prob"], normal))
        assert metrics["is_line_search_success"] == 1.0
        assert not unchanged(agent, before)
        assert 0.1 * delta < kl <= delta
        assert kl == metrics["kl_divergence_loss"]
        assert gain > float(normal.mean()) + 1e-4


def test_updates_in_training_stay_in_the_trust_region():
    agent = agents.TRPO("CartPole-v1", n_steps=32, hidden=(8,), critic_epochs=1)
    found = []
    improve = agent.improve_policy

    def measured(steps):
        old = distribution_now(agent, steps.obs)
        metrics = improve(steps)
        found.append((float(old.kl(agent.policy(steps.obs)).mean().detach()), metrics["is_line_search_success"]))
        return metrics

    agent.improve_policy = measured
    agent.learn(5 * 32 * 16)
    assert len(found) == 5
    assert all(kl <= agent.config.delta for kl, _ in found)
    assert sum(success for _, success in found) >= 4


def test_the_full_step_is_the_natural_gradient_of_length_delta():
    """For small delta the KL is quadratic in the step, so that the first step tried has KL = delta."""
    agent = make(ACTIONS["gaussian"], hidden=(), damping=0.0, cg_iterations=50, delta=1e-4, normalize_advantage=False)
    steps = batch(agent, 400)
    params = list(agent.policy.parameters())
    start = flatten(parameters(agent))
    log_prob = agent.policy(steps.obs).log_prob(steps["action"])
    g = flatten(torch.autograd.grad(surrogate(log_prob, steps["log_prob"], steps["adv"]), params))
    product = fisher_vector_product(agent.policy(steps.obs), params)
    F = torch.stack([product(row) for row in torch.eye(len(g))]).double()
    s = torch.linalg.solve(F, g.double())
    expected = s * (2 * 1e-4 / (s @ F @ s)).sqrt()
    metrics = agent.improve_policy(steps)
    step = (flatten(parameters(agent)) - start).double()
    torch.testing.assert_close(step, metrics["step_fraction"] * expected, rtol=2e-2, atol=1e-5)
    assert abs(metrics["kl_divergence_loss"] / (metrics["step_fraction"] ** 2 * 1e-4) - 1) < 0.02


def test_without_any_advantage_nothing_moves():
    agent = make()
    steps = batch(agent)
    before = parameters(agent)
    for constant in (0.0, 3.0):  # a constant advantage is none after normalisation
        metrics = agent.improve_policy(Batch({**steps, "adv": torch.full((64,), constant)}))
        assert unchanged(agent, before)
        assert metrics["is_line_search_success"] == metrics["policy_objective"] == metrics["kl_divergence_loss"] == 0.0


@pytest.mark.parametrize("kl", [float("inf"), float("nan"), 0.011])
def test_a_step_that_always_leaves_the_trust_region_is_undone(monkeypatch, kl):
    agent = make(ACTIONS["gaussian"])
    before = parameters(agent)
    monkeypatch.setattr(Gaussian, "kl", lambda self, other: torch.full((len(self.mean),), kl))
    metrics = agent.improve_policy(batch(agent))
    assert unchanged(agent, before)
    assert metrics["is_line_search_success"] == metrics["step_fraction"] == 0.0


def test_a_surrogate_that_never_improves_is_undone(monkeypatch):
    agent = make()
    data, before, calls = batch(agent), parameters(agent), []

    def worse(log_prob, old_log_prob, adv):
        calls.append(1)
        return surrogate(log_prob, old_log_prob, adv) - 10.0 * (len(calls) > 1)

    monkeypatch.setattr("agents.trpo.surrogate", worse)
    agent.improve_policy(data)
    assert len(calls) == 1 + agent.config.line_search_steps
    assert unchanged(agent, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("normalize", [True, False])
def test_gradients_that_are_not_finite_change_nothing(bad, normalize):
    agent = make(normalize_advantage=normalize)
    steps = batch(agent)
    steps["adv"][3] = bad
    before = parameters(agent)
    metrics = agent.improve_policy(steps)
    assert unchanged(agent, before)
    assert metrics["is_line_search_success"] == 0.0


def test_the_line_search_goes_back_step_by_step(monkeypatch):
    agent = make()
    tried = []

    def counted(log_prob, old_log_prob, adv):
        tried.append(1)
        return surrogate(log_prob, old_log_prob, adv) + (1.0 if len(tried) == 5 else -1.0 if len(tried) > 1 else 0.0)

    data = batch(agent)
    monkeypatch.setattr("agents.trpo.surrogate", counted)
    assert agent.improve_policy(data)["step_fraction"] == pytest.approx(agent.config.backtrack**3)


# --- the critic and the whole update --------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_the_critic_learns_its_returns(activation):
    agent = make(activation=activation, critic_epochs=150, critic_batch_size=16, hidden=(16,))
    obs = torch.randn(128, 3)
    ret = obs[:, 0] - 2 * obs[:, 1]
    loss = agent.fit_critic(obs, ret)
    assert loss < 0.05 * float(ret.var())
    assert float((agent.critic(obs) - ret).square().mean().detach()) < 0.05 * float(ret.var())


def test_advantages_of_an_update_are_those_of_its_rollout(monkeypatch):
    agent = agents.TRPO(
        vector(Counting, 3), n_steps=24, hidden=(4,), normalize_rewards=False, normalize_observations=False
    )
    seen = {}
    monkeypatch.setattr(agent, "improve_policy", lambda steps: seen.update(steps) or {})
    monkeypatch.setattr(agent, "fit_critic", lambda obs, ret: seen.update(ret=ret) or 0.0)
    agent.prepare()
    agent.collector.collect(24)
    rollout = agent.buffer.rollout()
    assert rollout["terminated"].sum() > 3
    assert rollout["truncated"].sum() > 3
    with torch.no_grad():
        values, successors = agent.critic(rollout.obs), agent.critic(rollout.next_obs)
    ends = rollout["terminated"], rollout["truncated"]
    adv = gae(rollout["reward"], values, successors, *ends, agent.config.gamma, agent.config.lam)
    agent.update()
    torch.testing.assert_close(seen["adv"], adv.flatten(), rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(seen["ret"], (adv + values).flatten(), rtol=1e-4, atol=1e-2)


def test_learning_anew_forgets_the_returns_of_the_episodes_that_were_going_on():
    agent = agents.TRPO(vector(Counting, 3), n_steps=23, hidden=(4,), normalize_rewards=True)
    agent.learn(23 * 3)
    assert agent.reward_scaler.running.any()
    agent.learn(23 * 3, reset_num_timesteps=False)
    kept, found = agent.reward_scaler.update, []

    def update(rollout):
        found.append(agent.reward_scaler.running)
        kept(rollout)

    agent.reward_scaler.update = update
    agent.learn(23 * 3, reset_num_timesteps=False)
    agent.learn(23 * 3)
    assert found[0].any()
    assert found[1] is None


def test_reset_steps_of_the_environment_teach_nothing(monkeypatch):
    agent = agents.TRPO(vector(Counting, 3, AutoresetMode.NEXT_STEP), n_steps=24, hidden=(4,))
    rows = []
    monkeypatch.setattr(agent, "improve_policy", lambda steps: rows.append(len(steps["adv"])) or {})
    agent.learn(24 * 3)
    assert rows[0] < 24 * 3
    assert rows[0] == agent.num_timesteps or len(rows) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_steps": 0}, "n_steps must be positive"),
        ({"delta": float("nan")}, "delta must be positive"),
        ({"critic_batch_size": -1}, "critic_batch_size must be positive"),
        ({"gamma": 1.5}, "gamma must lie between 0 and 1"),
        ({"backtrack": 2.0}, "backtrack must lie between 0 and 1"),
    ],
)
def test_impossible_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_rows_shuffle_but_stay_whole():
    """Minibatches pair every observation with its own return."""
    agent = make(critic_epochs=1, critic_batch_size=10)
    seen = []

    def record(obs):
        return torch.zeros(len(obs)), lambda grad: seen.append((obs, grad * len(obs) / -2.0))  # (0 - ret) * 2 / n

    agent.critic.with_backward = record
    obs = torch.randn(37, 3)
    agent.fit_critic(obs, obs.sum(1))
    assert [len(ret) for _, ret in seen] == [10, 10, 10, 7]
    for o, ret in seen:
        torch.testing.assert_close(o.sum(1), ret)
    assert np.array_equal(np.sort(torch.cat([o for o, _ in seen]).numpy(), 0), np.sort(obs.numpy(), 0))
