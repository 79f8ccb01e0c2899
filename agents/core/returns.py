"""Returns and advantages: pure functions on time-major tensors [T, N]; those that say `Array` take NumPy's as well.

Everywhere: `terminated` ends an episode for good (no value beyond it); `truncated` cuts it short, so that the value of
the true successor, `next_values`, still counts. Both cut every sum over later steps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from agents.core.arrays import Array, as_array


def td_errors(rewards: Array, values: Array, next_values: Array, terminated: Array, gamma: float) -> Array:
    """r + gamma V(next_obs) - V(obs), with V(next_obs) = 0 where terminated. All [T, N]."""
    return rewards + gamma * next_values * (1.0 - terminated) - values


def gae(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    gamma: float,
    lam: float,
) -> Array:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), [T, N].

    A_t = delta_t + gamma lam A_{t+1} until the episode ends. `lam=0` is the TD error, `lam=1` the Monte-Carlo return
    minus V.
    """
    delta = as_array(td_errors(rewards, values, next_values, terminated, gamma))
    keep = (1.0 - np.maximum(as_array(terminated), as_array(truncated))) * (gamma * lam)
    adv = _accumulated(delta, keep)
    return torch.from_numpy(adv).to(rewards.device) if isinstance(rewards, Tensor) else adv


def discounted_sum(x: Tensor, discount: float | Tensor, terminated: Tensor, truncated: Tensor) -> Tensor:
    """y_t = x_t + discount y_{t+1}, started afresh behind every episode's end, [T, N]; so may the discount be."""
    keep = (discount * (1.0 - torch.maximum(terminated, truncated))).cpu().numpy()
    return torch.from_numpy(_accumulated(x.detach().cpu().numpy(), keep)).to(x.device)


def _accumulated(x: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """y_t = x_t + keep_t y_{t+1}, [T, N]."""
    y = x.copy()
    for t in range(len(y) - 2, -1, -1):
        y[t] += keep[t] * y[t + 1]
    return y


def decision_gae(
    rewards: Tensor,
    counts: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalised advantage estimation where a step consists of several decisions, [D].

    Within a step one decision leads to the next for certain, unrewarded and undiscounted; its last one gets the step's
    reward and leads to the next step's first. With one decision for each step this is `gae`.

    rewards, terminated, truncated [T, N]; counts int64 [T, N], all positive: decisions of each step; values [D]: V
    before each decision, step after step in the order of the flattened [T, N]; next_values [T, N]: V(next_obs), looked
    at where an episode or the rollout is cut short.
    """
    T, N = counts.shape
    flat = counts.flatten()
    ends = flat.cumsum(0) - 1
    starts = ends - flat + 1
    over = torch.maximum(terminated, truncated)
    after = next_values.clone()
    after[:-1] = torch.where(over[:-1] > 0, next_values[:-1], values[starts].view(T, N)[1:])
    if len(values) == T * N:
        return gae(rewards, values.view(T, N), after, terminated, truncated, gamma, lam).flatten()
    step = torch.repeat_interleave(torch.arange(T * N, device=flat.device), flat)
    decision = torch.arange(len(step), device=flat.device)
    # Each environment's decisions one below the other, [most of an environment, N].
    row, column = (counts.cumsum(0) - counts).flatten()[step] + decision - starts[step], step % N
    successors = values.roll(-1)
    successors[ends] = after.flatten()
    reward, discount, cut = torch.zeros_like(values), torch.ones_like(values), torch.zeros_like(values)
    reward[ends], cut[ends] = rewards.flatten(), over.flatten()
    discount[ends] = (gamma * (1.0 - terminated)).flatten()
    delta = reward + discount * successors - values

    def laid_out(x: Tensor) -> Tensor:
        out = x.new_zeros(int(counts.sum(0).max()), N)
        out[row, column] = x
        return out

    ended = laid_out(cut)
    return discounted_sum(laid_out(delta), laid_out(discount) * lam, ended, ended)[row, column]


def n_step(rewards: Tensor, next_values: Tensor, terminated: Tensor, truncated: Tensor, gamma: float, n: int) -> Tensor:
    """n-step returns sum_{k<n} gamma^k r_{t+k} + gamma^n V(next_obs_{t+n-1}), [T, N].

    Shorter where the episode or the rollout ends first; V counts there too unless terminated.
    """
    T = len(rewards)
    out = torch.zeros_like(rewards)
    for t in range(T):
        weight, alive = torch.ones_like(rewards[t]), torch.ones_like(rewards[t])
        for k in range(t, min(t + n, T)):
            out[t] += alive * weight * rewards[k]
            last = (k == min(t + n, T) - 1) or 0.0
            ends = torch.maximum(terminated[k], truncated[k])
            bootstrap = torch.clamp(ends + last, max=1.0) * (1.0 - terminated[k])
            out[t] += alive * bootstrap * weight * gamma * next_values[k]
            alive = alive * (1.0 - ends)
            weight = weight * gamma
    return out


def group_advantage(reward: Tensor, group: Tensor, tau: float = 1.0, baseline: str = "mean") -> Tensor:
    """Reward minus its group's baseline, [E] (Kimi k1.5, section 2.3.2); reward [E], group [E].

    "mean": the group's mean reward, the sample itself included. "log-z": tau log mean exp(reward / tau), the estimate
    of tau log Z, which tends to the mean for large tau and to the maximum for small. Nothing is divided by a standard
    deviation. Raises ValueError for another baseline.
    """
    _, index, count = torch.unique(group, return_inverse=True, return_counts=True)
    zeros = reward.new_zeros(len(count))
    if baseline == "mean":
        return reward - (zeros.index_add(0, index, reward) / count)[index]
    if baseline == "log-z":
        highest = zeros.scatter_reduce(0, index, reward, "amax", include_self=False)
        mass = zeros.index_add(0, index, ((reward - highest[index]) / tau).exp())
        return reward - (highest + tau * (mass / count).log())[index]
    raise ValueError(f"baseline is 'mean' or 'log-z'; got {baseline!r}")


def length_reward(length: Tensor, correct: Tensor, group: Tensor) -> Tensor:
    """Reward for being short among one's group, [E], in [-0.5, 0.5] (Kimi k1.5, section 2.3.3).

    lambda = 0.5 - (length - min) / (max - min); a correct episode gets lambda, a wrong one min(0, lambda), all of them
    0 where the group's lengths are equal. length [E]; correct [E] bool; group [E].
    """
    _, index = torch.unique(group, return_inverse=True)
    length = length.float()
    zeros = length.new_zeros(int(index.max()) + 1 if len(index) else 0)
    shortest = zeros.scatter_reduce(0, index, length, "amin", include_self=False)[index]
    longest = zeros.scatter_reduce(0, index, length, "amax", include_self=False)[index]
    lam = 0.5 - (length - shortest) / (longest - shortest).clamp(min=1)
    lam = torch.where(longest > shortest, lam, 0.0)
    return torch.where(correct, lam, lam.clamp(max=0.0))
