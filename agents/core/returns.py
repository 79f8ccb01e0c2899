"""Returns and advantages: pure functions on time-major tensors [T, N].

Everywhere: `terminated` ends an episode for good (no value beyond it); `truncated` cuts it short, so that the value of
the true successor, `next_values`, still counts. Both cut every sum over later steps.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def td_errors(rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """r + gamma V(next_obs) - V(obs), with V(next_obs) = 0 where terminated. All [T, N]."""
    return rewards + gamma * next_values * (1.0 - terminated) - values


def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16), [T, N].

    A_t = delta_t + gamma lam A_{t+1} until the episode ends. `lam=0` is the TD error, `lam=1` the Monte-Carlo return
    minus V.
    """
    delta = td_errors(rewards, values, next_values, terminated, gamma)
    return discounted_sum(delta, gamma * lam, terminated, truncated)


def discounted_sum(x: Tensor, discount: float, terminated: Tensor, truncated: Tensor) -> Tensor:
    """y_t = x_t + discount y_{t+1}, started afresh behind every episode's end, [T, N]."""
    keep = (discount * (1.0 - torch.maximum(terminated, truncated))).cpu().numpy()
    terms = x.detach().cpu().numpy()
    out = np.empty_like(terms)
    running = np.zeros(terms.shape[1:], terms.dtype)
    for t in range(len(terms) - 1, -1, -1):
        running = terms[t] + keep[t] * running
        out[t] = running
    return torch.from_numpy(out).to(x.device)


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
