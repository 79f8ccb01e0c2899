"""Categorical and Bernoulli distributions over Discrete, MultiDiscrete and MultiBinary actions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class MultiCategorical:
    """Independent categoricals side by side: logits [batch, sum(sizes)], actions [batch, len(sizes)].

    With `single`, one categorical over a Discrete action: actions [batch].
    """

    logits: Tensor
    sizes: tuple[int, ...]
    single: bool = False

    @property
    def parameters(self) -> tuple[Tensor]:
        return (self.logits,)

    def _log_probs(self) -> list[Tensor]:
        return [block.log_softmax(-1) for block in self.logits.split(self.sizes, -1)]

    def sample(self, generator: torch.Generator) -> Tensor:
        # Gumbel-max: argmax(log p - log E), E ~ Exp(1)
        noise = torch.empty_like(self.logits).exponential_(generator=generator).log_()
        return self._argmax(self.logits - noise)

    def sample_with_log_prob(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """An action and its log-probability [batch]."""
        action = self.sample(generator)
        return action, self.log_prob(action)

    def mode(self) -> Tensor:
        return self._argmax(self.logits)

    def _argmax(self, scores: Tensor) -> Tensor:
        if self.single:
            return scores.argmax(-1)
        return torch.stack([block.argmax(-1) for block in scores.split(self.sizes, -1)], -1)

    def log_prob(self, action: Tensor) -> Tensor:
        """[batch]"""
        columns = action[..., None] if self.single else action
        picked = [
            log_p.gather(-1, columns[..., i : i + 1].long()).squeeze(-1) for i, log_p in enumerate(self._log_probs())
        ]
        return picked[0] if self.single else torch.stack(picked).sum(0)

    def entropy(self) -> Tensor:
        """[batch]"""
        return torch.stack([-(log_p.exp() * log_p).sum(-1) for log_p in self._log_probs()]).sum(0)

    def kl(self, other: MultiCategorical) -> Tensor:
        """KL(self || other), [batch]."""
        pairs = zip(self._log_probs(), other._log_probs(), strict=True)
        return torch.stack([(p.exp() * (p - q)).sum(-1) for p, q in pairs]).sum(0)

    def fisher(self, tangents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The Fisher matrix of the logits times a tangent, row by row: diag(p) - p p' for every categorical."""
        out = []
        for log_p, v in zip(self._log_probs(), tangents[0].split(self.sizes, -1), strict=True):
            p = log_p.exp()
            out.append(p * (v - (p * v).sum(-1, keepdim=True)))
        return (torch.cat(out, -1),)

    def score(self, action: Tensor) -> tuple[Tensor]:
        """Gradient of log_prob(action) with respect to the logits, row by row: one-hot minus p."""
        columns = action[..., None] if self.single else action
        blocks = [
            F.one_hot(columns[..., i].long(), size) - log_p.exp()
            for i, (size, log_p) in enumerate(zip(self.sizes, self._log_probs(), strict=True))
        ]
        return (torch.cat(blocks, -1),)

    def entropy_gradient(self) -> tuple[Tensor]:
        """Gradient of the entropy with respect to the logits, row by row: -p (log p + entropy)."""
        blocks = []
        for log_p in self._log_probs():
            p = log_p.exp()
            blocks.append(-p * (log_p - (p * log_p).sum(-1, keepdim=True)))
        return (torch.cat(blocks, -1),)

    def detach(self) -> MultiCategorical:
        return MultiCategorical(self.logits.detach(), self.sizes, self.single)


@dataclass(frozen=True)
class Bernoulli:
    """Independent coins: logits [batch, dim], actions [batch, dim] of 0 and 1."""

    logits: Tensor

    @property
    def parameters(self) -> tuple[Tensor]:
        return (self.logits,)

    def sample(self, generator: torch.Generator) -> Tensor:
        uniform = torch.empty_like(self.logits).uniform_(generator=generator)
        return (uniform < self.logits.sigmoid()).long()

    def sample_with_log_prob(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """An action and its log-probability [batch]."""
        action = self.sample(generator)
        return action, self.log_prob(action)

    def mode(self) -> Tensor:
        return (self.logits > 0).long()

    def log_prob(self, action: Tensor) -> Tensor:
        """[batch]"""
        return -F.binary_cross_entropy_with_logits(self.logits, action.float(), reduction="none").sum(-1)

    def entropy(self) -> Tensor:
        """[batch]"""
        p = self.logits.sigmoid()
        return F.binary_cross_entropy_with_logits(self.logits, p, reduction="none").sum(-1)

    def kl(self, other: Bernoulli) -> Tensor:
        """KL(self || other), [batch]."""
        p = self.logits.sigmoid()
        cross = F.binary_cross_entropy_with_logits(other.logits, p, reduction="none").sum(-1)
        return cross - self.entropy()

    def fisher(self, tangents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The Fisher matrix of the logits times a tangent: diag(p (1 - p))."""
        p = self.logits.sigmoid()
        return (p * (1 - p) * tangents[0],)

    def score(self, action: Tensor) -> tuple[Tensor]:
        """Gradient of log_prob(action) with respect to the logits: action - p."""
        return (action.float() - self.logits.sigmoid(),)

    def entropy_gradient(self) -> tuple[Tensor]:
        """Gradient of the entropy with respect to the logits: -p (1 - p) logit."""
        p = self.logits.sigmoid()
        return (-p * (1 - p) * self.logits,)

    def detach(self) -> Bernoulli:
        return Bernoulli(self.logits.detach())
