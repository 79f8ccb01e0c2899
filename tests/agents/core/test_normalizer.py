"""Merged moments are those of everything seen; evaluation leaves them alone; rewards scale as VecNormalize's do."""

import copy

import numpy as np
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import agents
from agents.core import checkpoint
from agents.core.buffer import Batch
from agents.core.normalizer import ObservationNormalizer, RewardScaler, RunningMoments
from tests.agents.toys import Fixed


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 2**32 - 1), st.floats(-1e3, 1e3))
def test_merged_moments_are_those_of_the_concatenation(sizes, seed, offset):
    rng = np.random.default_rng(seed)
    batches = [rng.normal(offset, rng.uniform(0.1, 10), (n, 2, 3)).astype(np.float32) for n in sizes]
    moments = RunningMoments((2, 3))
    for batch in batches:
        moments.update(batch)
    everything = np.concatenate(batches).astype(np.float64)
    assert float(moments.count) == len(everything)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(moments.var, everything.var(0), rtol=1e-8, atol=1e-10)


def test_normalised_observations_have_mean_0_and_deviation_1_and_are_clipped():
    normalizer = ObservationNormalizer(spaces.Box(-np.inf, np.inf, (2,)))
    x = torch.tensor([[0.0, 5.0], [2.0, 9.0]])
    assert torch.equal(normalizer(x), x)  # nothing seen yet
    normalizer.update(x)
    torch.testing.assert_close(normalizer(x), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
    np.testing.assert_array_equal(normalizer(x.numpy()), normalizer(x))
    assert normalizer(torch.tensor([[1e6, -1e6]])).tolist() == [[10.0, -10.0]]
    assert x.tolist() == [[0.0, 5.0], [2.0, 9.0]]  # stored observations stay raw


def test_only_floating_leaves_are_normalised():
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (8, 8, 3), np.uint8),
            "deep": spaces.Dict({"speed": spaces.Box(-9, 9, (2,))}),
            "which": spaces.Discrete(4),
        }
    )
    normalizer = ObservationNormalizer(space)
    obs = {
        "image": torch.randint(0, 256, (5, 8, 8, 3), dtype=torch.uint8),
        "deep.speed": torch.randn(5, 2) * 3 + 1,
        "which": torch.arange(5) % 4,
    }
    normalizer.update(obs)
    out = normalizer(obs)
    assert out["image"] is obs["image"]
    assert out["which"] is obs["which"]
    torch.testing.assert_close(out["deep.speed"].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(out["deep.speed"].var(0, unbiased=False), torch.ones(2), atol=1e-5, rtol=0)
    off = ObservationNormalizer(space, enabled=False)
    off.update(obs)
    assert all(off(obs)[name] is value for name, value in obs.items())


def test_acting_in_evaluation_leaves_the_statistics_alone():
    box = spaces.Box(-5, 5, (3,))
    agent = agents.TRPO(Fixed(box, spaces.Discrete(2)), n_steps=16, hidden=(4,)).learn(32)
    before = copy.deepcopy(agent.normalizer.state_dict()[""])
    assert before["count"] == 32
    agent.predict(np.full((7, 3), 4.0, np.float32))
    after = agent.normalizer.state_dict()[""]
    assert all(np.array_equal(after[key], before[key]) for key in ("mean", "var", "count"))


def test_statistics_change_between_rollouts_only():
    """The policy that is trained sees what the policy that acted saw: recomputed log-probabilities are the stored."""
    box = spaces.Box(-5, 5, (3,))
    agent = agents.TRPO(Fixed(box, spaces.Discrete(2)), n_steps=16, hidden=(4,))
    errors = []
    improve = agent.improve_policy

    def checked(steps):
        found = agent.policy(steps.obs).log_prob(steps["action"])
        errors.append(float((found - steps["log_prob"]).abs().max().detach()))
        return improve(steps)

    agent.improve_policy = checked
    agent.learn(64)
    assert len(errors) == 4
    assert max(errors) < 1e-5


def rollout(reward, truncated=None, **more):
    zeros = torch.zeros_like(reward)
    return Batch(reward=reward, terminated=zeros, truncated=zeros if truncated is None else truncated, **more)


def test_rewards_of_an_environment_s_own_reset_steps_do_not_count():
    reward, truncated = torch.randn(6, 2), torch.zeros(6, 2)
    truncated[2] = 1
    plain, spoilt = RewardScaler(0.9), RewardScaler(0.9)
    plain.update(rollout(reward, truncated))
    rows = torch.tensor([0, 1, 2, 2, 3, 4, 5])  # behind the end one more row, which the environment spends on its reset
    valid = torch.tensor([1, 1, 1, 0, 1, 1, 1], dtype=torch.uint8)[:, None].expand(7, 2)
    with_reset, ends = reward[rows], truncated[rows]
    with_reset[3], ends[3] = 7.0, 0
    spoilt.update(rollout(with_reset, ends, valid=valid))
    assert spoilt.moments.count == plain.moments.count
    np.testing.assert_allclose(spoilt.moments.var, plain.moments.var)
    np.testing.assert_array_equal(spoilt.running, plain.running)


def test_reward_scale_is_vecnormalizes():
    rng = np.random.default_rng(0)
    T, N, gamma = 200, 4, 0.98
    rewards = rng.normal(3.0, 2.0, (T, N))
    done = rng.random((T, N)) < 0.05
    box = spaces.Box(-1, 1, (1,))
    peer = VecNormalize(DummyVecEnv([lambda: Fixed(box, box)] * N), gamma=gamma)
    for t in range(T):  # what its step_wait does with rewards
        peer._update_reward(rewards[t])
        peer.returns[done[t]] = 0
    scaler = RewardScaler(gamma)
    pieces = [slice(0, 30), slice(30, 31), slice(31, T)]
    for piece in pieces:
        scaler.update(rollout(torch.from_numpy(rewards[piece]), torch.from_numpy(done[piece].astype(np.float32))))
    np.testing.assert_allclose(scaler.moments.var, peer.ret_rms.var, rtol=1e-4)  # it starts from a count of 1e-4
    np.testing.assert_allclose(scaler.running, peer.returns)
    ours = scaler(torch.from_numpy(rewards[:3]))
    np.testing.assert_allclose(ours, peer.normalize_reward(rewards[:3]), rtol=1e-4)


def test_reward_scaling_before_anything_was_seen_and_through_a_file(tmp_path):
    scaler = RewardScaler(0.9)
    assert scaler(torch.tensor([3.0])).tolist() == [3.0]
    scaler.update(rollout(torch.randn(6, 2)))
    other = RewardScaler(0.9)
    other.load_state_dict(checkpoint.load(checkpoint.save(tmp_path / "s", scaler.state_dict())))
    more = torch.randn(5, 2)
    for s in (scaler, other):
        s.update(rollout(more))
    assert torch.equal(scaler(more), other(more))
