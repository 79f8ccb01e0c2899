"""Kimi against the paper: gradient and minimiser in closed form, groups, old segments, switches, resume, learning."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

import agents
import envs
from agents.core.evaluation import evaluate
from agents.core.returns import length_reward
from agents.kimi import kimi_loss
from tests.agents.toys import Fixed, vector

# --- the loss -------------------------------------------------------------------------------------------------------


def tabular(groups, size, arms, seed):
    """A softmax bandit for each group, its samples [E], rewards [E] and group numbers [E], in double precision."""
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(groups, arms))).requires_grad_()
    reference = torch.from_numpy(rng.normal(size=(groups, arms))).log_softmax(-1)
    group = torch.arange(groups).repeat_interleave(size)
    arm = torch.from_numpy(rng.integers(0, arms, groups * size))
    return logits, reference, group, arm, torch.from_numpy(rng.normal(size=groups * size))


@pytest.mark.parametrize("tau", [0.03, 0.5, 2.0])
@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_is_minus_2_tau_equation_3(tau, seed):
    groups, size = 3, 5
    logits, reference, group, arm, reward = tabular(groups, size, 4, seed)
    log_prob = logits.log_softmax(-1)[group, arm]
    kimi_loss(log_prob, reference[group, arm], reward, group, tau).backward()

    # 1/k sum_j [ grad log pi(y_j) (r_j - r_bar) - tau/2 grad (log pi(y_j) / pi_i(y_j))^2 ], averaged over the tasks,
    # with grad log pi(y) = onehot(y) - pi and grad (log ratio)^2 = 2 log ratio grad log pi.
    equation = np.zeros((groups, 4))
    pi, log_pi, log_ref = (
        logits.detach().softmax(-1).numpy(),
        logits.detach().log_softmax(-1).numpy(),
        reference.numpy(),
    )
    for x in range(groups):
        mine = (group == x).numpy()
        r_bar = reward.numpy()[mine].mean()
        for y, r in zip(arm.numpy()[mine], reward.numpy()[mine], strict=True):
            grad = np.eye(4)[y] - pi[x]
            ratio = log_pi[x, y] - log_ref[x, y]
            equation[x] += (grad * (r - r_bar) - tau / 2 * 2 * ratio * grad) / size / groups
    np.testing.assert_allclose(logits.grad.numpy(), -2 * tau * equation, atol=1e-6 * min(1.0, tau))


def test_the_minimiser_of_the_log_z_form_is_the_closed_form():
    tau, reward = 0.4, torch.tensor([0.3, -1.0, 1.2], dtype=torch.float64)
    # Ten samples that are distributed exactly as pi_i = (0.5, 0.3, 0.2), so that the estimate of Z is Z.
    arm = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    logits = reference.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-16)

    def loss():
        optimizer.zero_grad()
        found = kimi_loss(
            logits.log_softmax(-1)[arm], reference.log()[arm], reward[arm], torch.zeros(10).long(), tau, "log-z"
        )
        found.backward()
        return found

    optimizer.step(loss)
    closed = reference * (reward / tau).exp()
    torch.testing.assert_close(logits.softmax(-1), closed / closed.sum(), atol=1e-7, rtol=0)
    assert float(loss().detach()) < 1e-12


@pytest.mark.parametrize("tau", [0.01, 3.0])
def test_at_the_reference_tau_has_no_gradient(tau):
    _, reference, group, arm, reward = tabular(4, 6, 3, 0)
    logits = reference.clone().requires_grad_()
    kimi_loss(logits.log_softmax(-1)[group, arm], reference[group, arm], reward, group, tau).backward()
    again = reference.clone().requires_grad_()
    adv = reward - reward.view(4, 6).mean(1)[group]
    (-(again.log_softmax(-1)[group, arm] * adv).mean()).backward()  # plain policy gradient
    torch.testing.assert_close(logits.grad / (2 * tau), again.grad, atol=1e-12, rtol=0)


# --- the agent ------------------------------------------------------------------------------------------------------


def spied(agent):
    """(iteration, episodes) of every iteration, as they come to be learned from."""
    seen, improve = [], agent.improve_policy
    agent.improve_policy = lambda episodes: seen.append((agent.iterations, episodes)) or improve(episodes)
    return seen


def cartpole(**fields):
    settings = {"group_size": 4, "groups_per_iteration": 3, "seed": 0, "device": "cpu", "hidden": (16,)}
    return agents.Kimi(envs.make_vec("CartPole-v1", num_envs=6), **{**settings, **fields})


@pytest.mark.parametrize("partial", [True, False])
def test_every_group_is_learned_from_whole_and_once(partial):
    agent = cartpole(partial_rollouts=partial)
    seen = spied(agent)
    agent.learn(4000)
    groups = []
    for iteration, episodes in seen:
        first = episodes.length.cumsum(0) - episodes.length
        for group in episodes.group_id.unique().tolist():
            start = episodes.steps.obs[first[episodes.group_id == group]]
            assert len(start) == 4
            assert bool((start == start[0]).all())
            groups.append(group)
        assert bool((episodes.steps["version"] <= iteration).all())
        if not partial:
            assert len(episodes) == 12
            assert bool((episodes.steps["version"] == iteration).all())
    assert len(seen) == agent.iterations > 5
    assert len(set(groups)) == len(groups)
    if partial:  # nothing is lost: only groups at work are missing
        assert len(groups) > 0.9 * max(groups)
        assert any(bool((episodes.steps["version"] < i).any()) for i, episodes in seen)


def test_the_step_descends_kimis_loss_of_whole_sequences():
    agent = cartpole(max_grad_norm=1e9, reset_optimizer=False)
    seen = spied(agent)
    agent.learn(1500)
    _, episodes = seen[-1]
    with torch.no_grad():  # away from the reference, so that tau matters
        agent.flat.vector.add_(0.05 * torch.randn(agent.flat.vector.shape))
    reward = torch.randn(len(episodes))
    log_probs, references = [], []
    for i in range(len(episodes)):
        log_prob = reference = 0.0
        for t in (episodes.segment == i).nonzero().squeeze(1).tolist():
            step = episodes.steps.take(torch.tensor([t]))
            log_prob = log_prob + agent.policy(agent.normalizer(step.obs)).log_prob(step["action"])[0]
            reference = reference + step["log_prob"][0]
        log_probs.append(log_prob)
        references.append(reference)
    tau = agent.config.tau
    loss = kimi_loss(torch.stack(log_probs), torch.stack(references), reward, episodes.group_id, tau)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss / (2 * tau), list(agent.policy.parameters()))])
    adv = reward.clone()
    for group in episodes.group_id.unique():
        adv[episodes.group_id == group] -= reward[episodes.group_id == group].mean()
    found = agent.train_step(episodes, adv)
    grads = torch.cat([p.grad.flatten() for p in agent.policy.parameters()])
    torch.testing.assert_close(grads, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found[0], loss.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[3], expected.norm(), rtol=1e-3, atol=1e-4)


def test_a_budget_ends_the_collection_and_parks_episodes_with_their_log_probabilities():
    agent = cartpole(step_budget=60, normalize_observations=False)
    seen, behaviour = spied(agent), {}
    act = agent.act

    def acting(obs, start):
        fields = act(obs, start)
        for row, log_prob in zip(obs, fields["log_prob"], strict=True):
            behaviour.setdefault(row.numpy().tobytes(), set()).add((float(log_prob), agent.iterations))
        return fields

    agent.act = acting
    agent.learn(1800)
    assert agent.iterations == 30  # of 60 steps each
    checked = 0
    for _, episodes in seen:
        rows = zip(episodes.steps.obs, episodes.steps["log_prob"], episodes.steps["version"], strict=True)
        for obs, log_prob, version in rows:
            assert (float(log_prob), int(version)) in behaviour[obs.numpy().tobytes()]
            checked += 1
    versions = [e.steps["version"][e.segment == i] for _, e in seen for i in range(len(e))]
    assert all(bool((v.diff() >= 0).all()) for v in versions)
    assert max(len(v.unique()) for v in versions) > 2
    assert checked > 1000


def gradient(agent, episodes, adv):
    """The gradient of one step, which is then taken back."""
    before = agent.flat.vector.detach().clone()
    agent.train_step(episodes, adv)
    agent.flat.vector.data.copy_(before)
    return agent.flat.grad.clone()


@pytest.mark.parametrize("drop", [True, False])
def test_old_segments_can_be_left_out(drop):
    agent = cartpole(step_budget=60, drop_old_segments=drop, max_grad_norm=1e9)
    seen = spied(agent)
    agent.learn(1800)
    agent.iterations, episodes = next((i, e) for i, e in seen if bool((e.steps["version"] < i).any()))
    adv = torch.randn(len(episodes))
    before = gradient(agent, episodes, adv)
    old = episodes.steps["version"] < agent.iterations
    assert not bool(old.all())
    episodes.steps["log_prob"][old] += 1.0
    episodes.steps["action"][old] = 1 - episodes.steps["action"][old]
    assert torch.equal(gradient(agent, episodes, adv), before) == drop


def test_what_a_fresh_step_is_compared_with_is_what_acted():
    agent = cartpole(partial_rollouts=False)
    ratios, decisions = [], agent.policy.decisions

    def watched(steps):
        found = decisions(steps)
        ratios.append(float((found.log_prob - found.behaviour).detach().abs().max()))
        return found

    agent.policy.decisions = watched
    seen = spied(agent)
    agent.learn(2000)
    per_iteration = len(ratios) // len(seen)
    assert max(ratios[::per_iteration]) < 1e-5  # the first step of an iteration starts at the reference
    assert min(ratios[per_iteration - 1 :: per_iteration]) > 1e-3


def test_groups_without_variance_leave_the_parameters_alone():
    space = spaces.Discrete(3)
    env = vector(lambda: Constant(spaces.Box(-1, 1, (2,)), space), 4)
    agent = agents.Kimi(env, group_size=2, groups_per_iteration=2, device="cpu")
    before = agent.flat.vector.detach().clone()
    agent.learn(60)
    assert agent.iterations >= 3
    assert torch.equal(agent.flat.vector, before)


class Constant(Fixed):
    """Every step pays 1."""

    def step(self, action):
        obs, _, terminated, truncated, info = super().step(action)
        return obs, 1.0, terminated, truncated, info


def test_rest_learns_from_what_is_above_the_baseline_alone():
    every, positive = cartpole(), cartpole(positives_only=True)
    advs = {id(every): [], id(positive): []}
    for agent in (every, positive):
        step = agent.train_step
        agent.train_step = lambda e, adv, a=agent, f=step: advs[id(a)].append((e.episode_id, adv)) or f(e, adv)
        agent.learn(600)
    assert min(float(adv.min()) for _, adv in advs[id(every)]) < 0
    assert min(float(adv.min()) for _, adv in advs[id(positive)]) > 0
    # In the first iteration both saw the same episodes: ReST used exactly the better ones of them.
    better = {int(i) for ids, adv in advs[id(every)][:1] for i, a in zip(ids, adv, strict=True) if a > 0}
    used = {int(i) for ids, _ in advs[id(positive)][:4] for i in ids}
    assert better <= used


def test_episodes_are_shuffled_within_groups_and_groups_among_each_other():
    agent, group = cartpole(), torch.tensor([5, 2, 5, 9, 2, 9, 5, 2, 9])
    seen = {tuple(agent.shuffled(group).tolist()) for _ in range(20_000)}
    assert len(seen) == 6**4  # 3! orders of the groups, and 3! within each
    assert all(sorted(order) == list(range(9)) for order in seen)
    assert all(len(set(group[list(order[i : i + 3])].tolist())) == 1 for order in seen for i in (0, 3, 6))


def test_rewards_are_scaled_returns_and_the_length_reward_after_its_warm_up():
    agent = cartpole(length_reward_weight=0.5, length_reward_warmup=2, success_return=20.0)
    seen = spied(agent)
    agent.learn(1000)
    for iteration, episodes in seen[:4]:
        agent.iterations = iteration
        found = agent.rewards(episodes)
        expected = episodes.ret / float(agent.returns.var**0.5)
        bonus = length_reward(episodes.length, episodes.ret >= 20.0, episodes.group_id)
        torch.testing.assert_close(found, expected + (0.5 * bonus if iteration >= 2 else 0.0))
        assert float(bonus.abs().max()) == 0.5
    assert agent.returns.count >= 48


def test_success_reaches_the_sampler():
    agent = cartpole(sampling="prioritised", task_pool=2, success_return=1e9)
    agent.learn(500)
    assert agent.sampler.success_rate(0) == agent.sampler.success_rate(1) == 0.0
    always = cartpole(sampling="prioritised", task_pool=2, success_return=0.0)
    always.learn(500)
    assert always.sampler.success_rate(0) == always.sampler.success_rate(1) == 1.0


# --- resume ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling": "prioritised", "task_pool": 9, "success_return": 25.0},
        {"step_budget": 120, "reset_optimizer": False, "length_reward_weight": 0.1},
        {"partial_rollouts": False},
    ],
    ids=["prioritised", "parked", "on-policy"],
)
def test_exact_resume_is_bit_identical(fields, tmp_path):
    whole = cartpole(**fields).learn(1500)
    whole.save(tmp_path / "middle", exact=True)
    whole.learn(1500, reset_num_timesteps=False)
    resumed = agents.load(tmp_path / "middle", envs.make_vec("CartPole-v1", num_envs=6), device="cpu")
    assert resumed.restored_exactly
    resumed.learn(1500, reset_num_timesteps=False)
    one, other = whole.save(tmp_path / "one", exact=True), resumed.save(tmp_path / "other", exact=True)
    assert one.read_bytes() == other.read_bytes()


def test_without_its_environments_state_an_agent_starts_fresh_groups(tmp_path):
    agent = cartpole(sampling="prioritised", task_pool=5, success_return=20.0)
    agent.learn(1000)
    agent.save(tmp_path / "agent")
    loaded = agents.load(tmp_path / "agent", envs.make_vec("CartPole-v1", num_envs=5), device="cpu")
    seen = spied(loaded)
    loaded.learn(1000)
    assert all(len(episodes) % 4 == 0 for _, episodes in seen)
    assert len(seen) > 2
    assert loaded.buffer.capacity <= 512


# --- every kind of action; learning ---------------------------------------------------------------------------------


class Target(gym.Env):
    """One step an episode; the nearer the action to the target, the better."""

    def __init__(self, space, target):
        self.observation_space, self.action_space = spaces.Box(-1, 1, (2,)), space
        self.target = np.asarray(target)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.zeros(2, np.float32), -float(np.abs(action - self.target).sum()), True, False, {}


@pytest.mark.parametrize(("baseline", "tau"), [("mean", 0.1), ("log-z", 1.0)])
@pytest.mark.parametrize(
    ("space", "target"),
    [
        (spaces.Discrete(4, start=-1), 2),
        (spaces.MultiDiscrete([3, 4]), [2, 1]),
        (spaces.MultiBinary(3), [1, 0, 1]),
        (spaces.Box(-1, 1, (2,)), [0.5, -0.25]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_best_action_is_found_in_every_space(space, target, baseline, tau):
    env = vector(lambda: Target(space, target), 16)
    agent = agents.make("kimi", env, device="cpu", baseline=baseline, tau=tau, learning_rate=3e-3)
    agent.learn(64 * 60)
    obs = np.random.default_rng(0).uniform(-1, 1, (20, 2)).astype(np.float32)
    found, _ = agent.predict(obs, deterministic=True)
    assert np.abs(found - np.asarray(target)).max() <= (0.2 if isinstance(space, spaces.Box) else 0.0)


def test_cartpole_is_learned():
    agent = agents.Kimi(envs.make_vec("CartPole-v1", num_envs=16), seed=0, device="cpu")
    agent.learn(60_000)
    assert evaluate(agent, envs.make_vec("CartPole-v1", num_envs=5), 5).returns.mean() > 400


def test_metrics():
    agent = cartpole()
    found = []
    update = agent.update
    agent.update = lambda: found.append(update()) or found[-1]
    agent.learn(1000)
    names = {"loss", "kl", "entropy", "grad_norm", "skipped_groups", "group_std", "episodes", "steps", "old"}
    assert names <= found[0].keys()
    assert all(np.isfinite(value) for metrics in found for value in metrics.values())
    assert all(metrics["kl"] >= 0 and 0 < metrics["entropy"] <= np.log(2) + 1e-6 for metrics in found)


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"group_size": 1}, "group_size"),
        ({"tau": 0.0}, "tau"),
        ({"baseline": "median"}, "log-z"),
        ({"sampling": "random"}, "prioritised"),
        ({"step_budget": 100, "partial_rollouts": False}, "partial_rollouts"),
        ({"task_pool": -1}, "task_pool"),
    ],
)
def test_impossible_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        cartpole(**fields)


def test_sampling_without_what_it_needs_is_refused():
    with pytest.raises(ValueError, match="levels of difficulty"):
        cartpole(sampling="curriculum").learn(10)
    with pytest.raises(ValueError, match="task_pool"):
        cartpole(sampling="prioritised").learn(10)
    with pytest.raises(ValueError, match="difficulty_levels"):
        cartpole(difficulty_levels=(1, 3)).learn(10)


def test_environments_that_reset_themselves_are_refused():
    env = vector(lambda: Fixed(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)), 2, AutoresetMode.SAME_STEP)
    with pytest.raises(ValueError, match=r"envs\.make_vec"):
        agents.Kimi(env, device="cpu").learn(10)
