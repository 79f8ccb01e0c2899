"""Returns and advantages against hand-computed numbers, brute force and Stable-Baselines3."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.buffers import RolloutBuffer

from agents.core.returns import decision_gae, discounted_sum, gae, group_advantage, length_reward, n_step, td_errors


def column(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None]


@st.composite
def rollouts(draw):
    """rewards, values, next_values, terminated, truncated [T, N], with V(next_obs) = V(obs[t + 1]) inside episodes."""
    T, N, seed = draw(st.integers(1, 12)), draw(st.integers(1, 3)), draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    rewards, values, next_values = rng.normal(size=(3, T, N)).astype(np.float32)
    terminated, truncated = (rng.random((2, T, N)) < draw(st.sampled_from([0.0, 0.15, 0.5]))).astype(np.float32)
    inside = (terminated + truncated)[:-1] == 0
    next_values[:-1][inside] = values[1:][inside]
    return tuple(map(torch.from_numpy, (rewards, values, next_values, terminated, truncated)))


def brute_n_step(rewards, next_values, terminated, truncated, gamma, n):
    T, N = rewards.shape
    out = np.zeros((T, N))
    for i in range(N):
        for t in range(T):
            for k in range(n):
                out[t, i] += gamma**k * float(rewards[t + k, i])
                if terminated[t + k, i]:
                    break
                if truncated[t + k, i] or k == n - 1 or t + k == T - 1:
                    out[t, i] += gamma ** (k + 1) * float(next_values[t + k, i])
                    break
    return out


def test_gae_by_hand_over_a_termination_and_a_truncation():
    # deltas: 1 + .5*2 - 1 = 1;  2 - 1 = 1 (terminated: 10 does not count);  3 + .5*3 - 1 = 3.5 (truncated: 3 does);
    # 4 + .5*5 - 1 = 5.5 (the rollout ends: 5 counts). Only step 0 is followed by its own episode's step.
    adv = gae(
        column(1, 2, 3, 4), column(1, 1, 1, 1), column(2, 10, 3, 5), column(0, 1, 0, 0), column(0, 0, 1, 0), 0.5, 0.5
    )
    assert adv[:, 0].tolist() == [1.25, 1.0, 3.5, 5.5]


@given(rollouts(), st.floats(0, 1), st.floats(0, 1))
def test_gae_of_one_decision_a_step_is_gae(rollout, gamma, lam):
    rewards, values, next_values, terminated, truncated = rollout
    ends = terminated, truncated
    ones = torch.ones_like(rewards, dtype=torch.int64)
    found = decision_gae(rewards, ones, values.flatten(), next_values, *ends, gamma, lam)
    expected = gae(rewards, values, next_values, *ends, gamma, lam).flatten()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@given(rollouts(), st.floats(0, 1), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_gae_over_decisions_recurs_along_each_environment(rollout, gamma, lam, seed):
    """A = delta + gamma lam A' with gamma = 1 inside a step, decision by decision from the last one back."""
    rewards, _, next_values, terminated, truncated = rollout
    T, N = rewards.shape
    rng = np.random.default_rng(seed)
    counts = torch.from_numpy(rng.integers(1, 5, (T, N)))
    values = torch.from_numpy(rng.normal(size=int(counts.sum())).astype(np.float32))
    found = decision_gae(rewards, counts, values, next_values, terminated, truncated, gamma, lam)
    starts = (counts.flatten().cumsum(0) - counts.flatten()).view(T, N)
    for n in range(N):
        later = successor = 0.0
        for t in reversed(range(T)):
            for j in reversed(range(int(counts[t, n]))):
                at = int(starts[t, n]) + j
                discount, reward = 1.0, 0.0
                if j == counts[t, n] - 1:
                    discount, reward = gamma * (1 - float(terminated[t, n])), float(rewards[t, n])
                    if terminated[t, n] or truncated[t, n] or t == T - 1:
                        later, successor = 0.0, float(next_values[t, n])
                later = reward + discount * successor - float(values[at]) + discount * lam * later
                assert abs(later - float(found[at])) < 1e-4
                successor = float(values[at])


def test_a_step_both_terminated_and_truncated_counts_as_terminated():
    one = column(1.0)
    assert gae(one, column(0.0), column(9.0), one, one, 0.9, 0.9).tolist() == [[1.0]]
    assert n_step(one, column(9.0), one, one, 0.9, 3).tolist() == [[1.0]]


@given(rollouts(), st.floats(0, 1))
def test_lambda_0_is_the_td_error(rollout, gamma):
    rewards, values, next_values, terminated, _ = rollout
    found = gae(*rollout, gamma, 0.0)
    assert torch.equal(found, td_errors(rewards, values, next_values, terminated, gamma))
    np.testing.assert_array_equal(gae(*(column.numpy() for column in rollout), gamma, 0.0), found)


@given(rollouts(), st.floats(0, 1))
def test_lambda_1_is_the_monte_carlo_return_minus_the_value(rollout, gamma):
    rewards, values, next_values, terminated, truncated = rollout
    monte_carlo = brute_n_step(rewards, next_values, terminated, truncated, gamma, len(rewards))
    np.testing.assert_allclose(gae(*rollout, gamma, 1.0), monte_carlo - values.numpy(), atol=1e-4)


@given(rollouts(), st.floats(0, 1), st.integers(1, 14))
def test_n_step_is_the_brute_force_sum(rollout, gamma, n):
    rewards, _, next_values, terminated, truncated = rollout
    found = n_step(rewards, next_values, terminated, truncated, gamma, n)
    np.testing.assert_allclose(found, brute_n_step(rewards, next_values, terminated, truncated, gamma, n), atol=1e-4)


@given(rollouts(), st.floats(0, 1))
def test_discounted_sum_satisfies_its_recursion(rollout, discount):
    x, _, _, terminated, truncated = rollout
    y = discounted_sum(x, discount, terminated, truncated)
    ended = torch.maximum(terminated, truncated)
    later = torch.cat([y[1:], torch.zeros_like(y[:1])])
    torch.testing.assert_close(y, x + discount * (1 - ended) * later)


def test_gae_is_stable_baselines3s():
    rng = np.random.default_rng(0)
    T, N, gamma, lam = 64, 3, 0.97, 0.9
    rewards, values = rng.normal(size=(2, T, N)).astype(np.float32)
    terminated, truncated = (rng.random((2, T, N)) < 0.1).astype(np.float32)
    truncated *= 1 - terminated
    next_values = np.concatenate([values[1:], rng.normal(size=(1, N)).astype(np.float32)])
    next_values[truncated == 1] = rng.normal(size=int(truncated.sum()))
    done = np.maximum(terminated, truncated)

    box = spaces.Box(-1, 1, (1,))
    peer = RolloutBuffer(T, box, box, "cpu", lam, gamma, N)
    for t in range(T):
        # It has no truncation of its own: its training loop adds the bootstrap to the reward.
        reward = rewards[t] + gamma * truncated[t] * next_values[t]
        start = done[t - 1] if t else np.ones(N)
        zero = np.zeros((N, 1), np.float32)
        peer.add(zero, zero, reward, start, torch.from_numpy(values[t]), torch.zeros(N))
    peer.compute_returns_and_advantage(torch.from_numpy(next_values[-1]), done[-1])
    ours = gae(*map(torch.from_numpy, (rewards, values, next_values, terminated, truncated)), gamma, lam)
    np.testing.assert_allclose(ours, peer.advantages, atol=1e-5)


def test_group_advantage_by_hand():
    # Groups 7 (rewards 1, 0, 5: mean 2) and 3 (4, 6: mean 5), interleaved; nothing is divided by a deviation.
    reward, group = torch.tensor([1.0, 4.0, 0.0, 6.0, 5.0]), torch.tensor([7, 3, 7, 3, 7])
    assert group_advantage(reward, group).tolist() == [-1.0, -1.0, -2.0, 1.0, 3.0]
    # tau log mean exp(r / tau) with tau = 2: 2 log((e^0.5 + 1 + e^2.5) / 3) and 2 log((e^2 + e^3) / 2)
    log_z = [2 * np.log((np.exp(0.5) + 1 + np.exp(2.5)) / 3), 2 * np.log((np.exp(2) + np.exp(3)) / 2)]
    expected = reward - torch.tensor(log_z)[[0, 1, 0, 1, 0]].float()
    torch.testing.assert_close(group_advantage(reward, group, 2.0, "log-z"), expected)
    with pytest.raises(ValueError, match="log-z"):
        group_advantage(reward, group, baseline="median")


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=9), st.floats(-5, 5))
def test_the_log_z_baseline_lies_between_mean_and_maximum(rewards, shift):
    reward = torch.tensor(rewards, dtype=torch.float64)
    group = torch.zeros(len(rewards), dtype=torch.int64)
    mean, largest = reward - group_advantage(reward, group), reward.max()
    for tau in (0.01, 1.0, 100.0):
        adv = group_advantage(reward, group, tau, "log-z")
        log_z = (reward - adv)[0]
        assert mean[0] - 1e-6 <= log_z <= largest + 1e-6
        torch.testing.assert_close(group_advantage(reward + shift, group, tau, "log-z"), adv)  # only differences count
    assert (
        float(largest - (reward - group_advantage(reward, group, 1e-3, "log-z"))[0])
        <= 1e-3 * np.log(len(rewards)) + 1e-9
    )
    torch.testing.assert_close(reward - group_advantage(reward, group, 1e7, "log-z"), mean, atol=1e-3, rtol=0)


def test_length_reward_by_hand():
    length = torch.tensor([10, 20, 30, 15, 4, 4, 9])
    correct = torch.tensor([True, True, False, False, True, False, True])
    group = torch.tensor([1, 1, 1, 1, 0, 0, 5])
    # Group 1: lambda = 0.5, 0, -0.5, 0.25, and the wrong 15 gets min(0, 0.25). Groups 0 and 5: equal lengths, so 0.
    assert length_reward(length, correct, group).tolist() == [0.5, 0.0, -0.5, 0.0, 0.0, 0.0, 0.0]


@given(st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_length_reward_keeps_its_bounds(n, seed):
    rng = np.random.default_rng(seed)
    length, correct, group = (torch.from_numpy(rng.integers(0, high, n)) for high in (50, 2, 3))
    found = length_reward(length, correct > 0, group)
    assert bool(((found >= -0.5) & (found <= 0.5)).all())
    assert bool((found[correct == 0] <= 0).all())
    for g in group.unique():
        mine = group == g
        if length[mine].unique().numel() > 1:
            longest = mine & (length == length[mine].max())
            assert found[longest].tolist() == [-0.5] * int(longest.sum())
