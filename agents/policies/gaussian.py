"""Diagonal Gaussian over Box actions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from agents.policies.numpy_gaussian import NumpyGaussian


@dataclass(frozen=True)
class Gaussian:
    """mean [batch, dim]; log_std [dim] or [batch, dim], the logarithm of the standard deviation."""

    mean: Tensor
    log_std: Tensor

    @property
    def parameters(self) -> tuple[Tensor, Tensor]:
        return self.mean, self.log_std.expand_as(self.mean)

    def sample(self, generator: torch.Generator) -> Tensor:
        return self.sample_with_log_prob(generator)[0]

    def sample_with_log_prob(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """An action [batch, dim] and its log-probability [batch], which costs little while the noise is at hand."""
        if self.mean.is_cpu and self.log_std.dim() == 1 and not self.mean.requires_grad:
            few = NumpyGaussian(self.mean.numpy(), self.log_std.detach().numpy())
            drawn, log_prob = few.sample_with_log_prob(generator)
            return torch.from_numpy(drawn), torch.from_numpy(log_prob)
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        action = torch.addcmul(self.mean, noise, self.log_std.exp())
        constant = self.log_std.expand_as(self.mean).sum(-1) + 0.5 * math.log(2 * math.pi) * self.mean.shape[-1]
        return action, noise.square().sum(-1).mul_(-0.5).sub_(constant)

    def mode(self) -> Tensor:
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """[batch]"""
        z = (action - self.mean) * torch.exp(-self.log_std)
        terms = z.square().mul(-0.5) - self.log_std
        return terms.sum(-1) - 0.5 * math.log(2 * math.pi) * self.mean.shape[-1]

    def entropy(self) -> Tensor:
        """[batch]"""
        per_dim = self.log_std + 0.5 * math.log(2 * math.pi * math.e)
        return per_dim.expand_as(self.mean).sum(-1)

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other), [batch]."""
        ratio = (2 * (self.log_std - other.log_std)).exp()
        shift = ((self.mean - other.mean) * (-other.log_std).exp()).square()
        return (0.5 * (ratio + shift - 1.0) - (self.log_std - other.log_std)).sum(-1)

    def fisher(self, tangents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The Fisher matrix of (mean, log_std) times a tangent, row by row: diag(1 / var, 2)."""
        mean, log_std = tangents
        return mean * (-2 * self.log_std).exp(), 2.0 * log_std

    def score(self, action: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of log_prob(action) with respect to `parameters`, row by row."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        return z * torch.exp(-self.log_std), z.square() - 1.0

    def entropy_gradient(self) -> tuple[Tensor, Tensor]:
        """Gradient of the entropy with respect to `parameters`, row by row."""
        return torch.zeros_like(self.mean), torch.ones_like(self.mean)

    def detach(self) -> Gaussian:
        """A copy that stays as it is when log_std, a parameter of the policy, changes in place."""
        return Gaussian(self.mean.detach(), self.log_std.detach().clone())
