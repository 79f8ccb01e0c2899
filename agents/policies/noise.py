"""Exploration noise for deterministic policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class OrnsteinUhlenbeck:
    """dx = -theta x dt + sigma sqrt(dt) dW, one process an environment, started at 0 with every episode.

    theta and dt are the DDPG paper's (0.15; 1e-2 as in OpenAI Baselines).
    """

    def __init__(self, sigma: float, theta: float = 0.15, dt: float = 1e-2) -> None:
        self.sigma, self.theta, self.dt = sigma, theta, dt
        self.x: Tensor | None = None

    def __call__(self, normal: Tensor, episode_start: np.ndarray) -> Tensor:
        """Noise [N, dim] from standard normal draws [N, dim]; episode_start [N] starts a process afresh."""
        x = torch.zeros_like(normal) if self.x is None or self.x.shape != normal.shape else self.x.to(normal.device)
        x = torch.where(torch.tensor(episode_start, device=x.device)[:, None], torch.zeros_like(x), x)
        self.x = x - self.theta * self.dt * x + self.sigma * self.dt**0.5 * normal
        return self.x.clone()

    def state_dict(self) -> dict[str, Any]:
        return {"x": self.x}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.x = state["x"]
