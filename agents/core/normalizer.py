"""Running normalisation of observations and rewards.

Statistics change only between rollouts, when the agent calls `update` with everything just collected: within one
iteration the policy that acted and the policy that is trained see the same inputs. Evaluation never updates.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.core.spaces import leaves


class RunningMoments(nn.Module):
    """Mean and variance of a stream of vectors, merged batch by batch in double precision (Chan et al. 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("var", torch.ones(shape, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.mean: Tensor
        self.var: Tensor
        self.count: Tensor

    def update(self, x: np.ndarray) -> None:
        """Take in x [batch, *shape]."""
        x = x.astype(np.float64)
        mean, var, count = self.mean.cpu().numpy(), self.var.cpu().numpy(), float(self.count)
        n = len(x)
        batch_mean = x.sum(0) / n
        shift, total = batch_mean - mean, count + n
        x -= batch_mean
        squares = np.square(x, out=x).sum(0) + shift**2 * (count * n / total)
        if count > 0:
            squares += var * count
        self.var.copy_(torch.from_numpy(np.asarray(squares / total)))
        self.mean.copy_(torch.from_numpy(np.asarray(mean + shift * (n / total))))
        self.count.fill_(total)


class ObservationNormalizer(nn.Module):
    """(x - mean) / sqrt(var + 1e-8), clipped to +-`clip`, for every floating-point Box leaf; the rest passes through.

    enabled=False passes everything through.
    """

    def __init__(self, space: spaces.Space, *, enabled: bool = True, clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.moments = nn.ModuleDict()
        for name, leaf in leaves(space).items() if enabled else ():
            if isinstance(leaf, spaces.Box) and np.issubdtype(leaf.dtype, np.floating):
                self.moments[_key(name)] = RunningMoments(leaf.shape)
        for key, moments in self.moments.items():
            assert isinstance(moments, RunningMoments)
            self.register_buffer(f"shift_{key}", moments.mean.float())
            self.register_buffer(f"scale_{key}", torch.ones_like(moments.var).float())

    def update(self, obs: Any) -> None:
        """Take in a batch [batch, ...] of observations."""
        named = obs if isinstance(obs, Mapping) else {"": obs}
        for name, value in named.items():
            key = _key(name)
            if key in self.moments:
                moments = self.moments[key]
                assert isinstance(moments, RunningMoments)
                moments.update(value.cpu().numpy())
                getattr(self, f"shift_{key}").copy_(moments.mean)
                getattr(self, f"scale_{key}").copy_((moments.var + 1e-8).rsqrt())

    def forward(self, obs: Any) -> Any:
        if not self.moments:
            return obs
        if isinstance(obs, Mapping):
            return {name: self._normalize(name, value) for name, value in obs.items()}
        return self._normalize("", obs)

    def _normalize(self, name: str, x: Tensor) -> Tensor:
        key = _key(name)
        if key not in self.moments:
            return x
        buffers = self._buffers
        scaled = (x - buffers[f"shift_{key}"]).mul_(buffers[f"scale_{key}"])  # type: ignore[operator, arg-type]
        return scaled.clamp_(-self.clip, self.clip)


class RewardScaler:
    """Rewards over the standard deviation of the running discounted return (as in OpenAI Baselines' VecNormalize).

    The mean is left alone: shifting rewards would change which policy is best where episodes can end early.
    """

    def __init__(self, gamma: float, clip: float = 10.0) -> None:
        self.gamma, self.clip = gamma, clip
        self.moments = RunningMoments(())
        self.running: np.ndarray | None = None  # [N], the discounted return of each environment so far

    def update(self, rewards: Tensor, ended: Tensor) -> None:
        """Take in a rollout: rewards [T, N] and ended [T, N] (terminated or truncated, 0 or 1)."""
        reward, keep = rewards.cpu().numpy().astype(np.float64), 1.0 - ended.cpu().numpy()
        returns = np.empty_like(reward)
        running = self.running
        if running is None or len(running) != reward.shape[1]:  # another number of environments starts afresh
            running = np.zeros(reward.shape[1])
        for t in range(len(reward)):
            running = running * self.gamma + reward[t]
            returns[t] = running
            running = running * keep[t]
        self.running = running
        self.moments.update(returns.reshape(-1))

    def __call__(self, rewards: Tensor) -> Tensor:
        scale = float((self.moments.var + 1e-8).rsqrt()) if float(self.moments.count) > 0 else 1.0
        return (rewards * scale).clamp(-self.clip, self.clip)

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self.moments.state_dict(), "running": self.running}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.moments.load_state_dict(state["moments"])
        self.running = None if state["running"] is None else np.array(state["running"])


def _key(name: str) -> str:
    """A leaf path as a module name, which may be neither empty nor hold a dot."""
    return "obs_" + name.replace(".", "/")
