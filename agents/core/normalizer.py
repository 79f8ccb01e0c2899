"""Running normalisation of observations and rewards.

Statistics change only between rollouts, when the agent calls `update` with everything just collected: within one
iteration the policy that acted and the policy that is trained see the same inputs. Evaluation never updates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces

from agents.core import distributed
from agents.core.arrays import Array
from agents.core.buffer import Batch
from agents.core.spaces import leaves


class RunningMoments:
    """Mean and variance of a stream of arrays, merged batch by batch in double precision (Chan et al. 1979)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean, self.var, self.count = np.zeros(shape), np.ones(shape), 0.0

    def update(self, x: np.ndarray) -> None:
        """Take in x [batch, *shape]; where several processes learn as one, the rows of all of them."""
        count, batch_mean = self.count, np.add.reduce(x, 0, dtype=np.float64) / max(len(x), 1)
        n, batch_mean, batch_squares = distributed.merged(
            len(x), batch_mean, np.add.reduce(np.square(x - batch_mean), 0)
        )
        if not n:
            return
        total = count + n
        shift = batch_mean - self.mean
        squares = batch_squares + shift * shift * (count * n / total)
        self.var = np.asarray((squares + self.var * count) / total)
        self.mean = np.asarray(self.mean + shift * (n / total))
        self.count = float(total)

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "var": self.var, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mean, self.var = np.array(state["mean"]), np.array(state["var"])
        self.count = float(state["count"])


class ObservationNormalizer:
    """(x - mean) / sqrt(var + 1e-8), clipped to +-`clip`, for every floating-point Box leaf; the rest passes through.

    enabled=False passes everything through.
    """

    def __init__(self, space: spaces.Space, *, enabled: bool = True, clip: float = 10.0) -> None:
        self.clip = clip
        self.device = torch.device("cpu")
        self.moments = {
            name: RunningMoments(leaf.shape)
            for name, leaf in (leaves(space).items() if enabled else ())
            if isinstance(leaf, spaces.Box) and np.issubdtype(leaf.dtype, np.floating)
        }
        # What `moments` say, float32: subtracted, and multiplied with.
        self.shift = {name: moments.mean.astype(np.float32) for name, moments in self.moments.items()}
        self.scale = {name: moments.var.astype(np.float32) for name, moments in self.moments.items()}

    def to(self, device: torch.device) -> Self:
        """Observations come and go on `device`."""
        self.device = device
        return self

    def update(self, obs: Any) -> None:
        """Take in a batch [batch, ...] of observations."""
        named = obs if isinstance(obs, Mapping) else {"": obs}
        for name, moments in self.moments.items():
            moments.update(named[name].cpu().numpy())
            self._refresh(name)

    def __call__(self, obs: Any) -> Any:
        """Observations [batch, ...], tensors or NumPy arrays, as what they came."""
        if not self.moments:
            return obs
        if isinstance(obs, Mapping):
            return {name: self._normalize(name, value) for name, value in obs.items()}
        return self._normalize("", obs)

    def _normalize(self, name: str, x: Array) -> Array:
        if name not in self.moments:
            return x
        if isinstance(x, np.ndarray):
            y = x - self.shift[name]
            y *= self.scale[name]
            np.minimum(y, self.clip, out=y)
            return np.maximum(y, -self.clip, out=y)
        if x.is_cpu:
            return torch.from_numpy(self._normalize(name, x.numpy()))
        shift, scale = (torch.from_numpy(each[name]).to(x.device) for each in (self.shift, self.scale))
        return (x - shift).mul_(scale).clamp_(-self.clip, self.clip)

    def _refresh(self, name: str) -> None:
        moments = self.moments[name]
        self.shift[name] = moments.mean.astype(np.float32)
        self.scale[name] = (1.0 / np.sqrt(moments.var + 1e-8)).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {name: moments.state_dict() for name, moments in self.moments.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, moments in self.moments.items():
            moments.load_state_dict(state[name])
            if moments.count:
                self._refresh(name)


class RewardScaler:
    """Rewards over the standard deviation of the running discounted return (as in OpenAI Baselines' VecNormalize).

    The mean is left alone: shifting rewards would change which policy is best where episodes can end early.
    """

    def __init__(self, gamma: float, clip: float = 10.0) -> None:
        self.gamma, self.clip = gamma, clip
        self.moments = RunningMoments(())
        self.running: np.ndarray | None = None  # [N], the discounted return of each environment so far

    def update(self, rollout: Batch) -> None:
        """Take in the rewards of a rollout [T, N], without the environments' own reset steps."""
        reward, terminated, truncated = (rollout[name].numpy() for name in ("reward", "terminated", "truncated"))
        returns, keep = reward.astype(np.float64), 1.0 - np.maximum(terminated, truncated)
        valid = rollout["valid"].numpy() > 0 if "valid" in rollout else None
        if valid is not None:
            returns *= valid
        running = self.running
        if running is None or len(running) != returns.shape[1]:  # another number of environments starts afresh
            running = np.zeros(returns.shape[1])
        for row, goes_on in zip(returns, keep, strict=True):
            row += running * self.gamma
            running = row * goes_on
        self.running = running
        self.moments.update(returns.reshape(-1) if valid is None else returns[valid])

    def __call__(self, rewards: Array) -> Array:
        scale = 1.0 / math.sqrt(self.moments.var + 1e-8) if self.moments.count else 1.0
        return (rewards * scale).clip(-self.clip, self.clip)

    def state_dict(self) -> dict[str, Any]:
        return {"moments": self.moments.state_dict(), "running": self.running}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.moments.load_state_dict(state["moments"])
        self.running = None if state["running"] is None else np.array(state["running"])
