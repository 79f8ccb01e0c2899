"""The diagonal Gaussian on NumPy arrays, for acting and updates so small that torch's calls would be the work."""

from __future__ import annotations

import math

import numpy as np
import torch

_LOG_2PI = math.log(2 * math.pi)


class NumpyGaussian:
    """What of `Gaussian` acting and policy gradients need; mean [batch, dim], log_std [dim]."""

    def __init__(self, mean: np.ndarray, log_std: np.ndarray) -> None:
        self.mean, self.log_std = mean, log_std

    def sample_with_log_prob(self, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """An action [batch, dim] and its log-probability [batch], from the noise that `Gaussian` would draw."""
        noise = np.empty_like(self.mean)
        torch.from_numpy(noise).normal_(generator=generator)
        action = noise * np.exp(self.log_std)
        action += self.mean
        log_prob = np.einsum("bd,bd->b", noise, noise)
        log_prob *= -0.5
        log_prob -= float(np.add.reduce(self.log_std)) + 0.5 * _LOG_2PI * len(self.log_std)
        return action, log_prob

    def log_prob(self, action: np.ndarray) -> np.ndarray:
        """[batch]"""
        z = (action - self.mean) * np.exp(-self.log_std)
        return (-0.5 * z * z - self.log_std).sum(-1) - 0.5 * _LOG_2PI * len(self.log_std)

    def entropy(self) -> np.ndarray:
        """[batch]"""
        return np.full(len(self.mean), self.log_std.sum() + 0.5 * (_LOG_2PI + 1.0) * len(self.log_std))

    def score(self, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Gradient of log_prob(action) with respect to mean and log_std, row by row."""
        inverse_std = np.exp(-self.log_std)
        z = (action - self.mean) * inverse_std
        return z * inverse_std, z * z - 1.0

    def entropy_gradient(self) -> tuple[np.ndarray, np.ndarray]:
        """Gradient of the entropy with respect to mean and log_std, row by row."""
        return np.zeros_like(self.mean), np.ones_like(self.mean)
