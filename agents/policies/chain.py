"""A chain of categoricals, each conditioned on the choices before it, of which only some count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Chain:
    """Categoricals at the prefixes of given choices: logits of the i-th [batch, sizes[i]]; actions [batch, choices].

    relevant: bool [batch, choices]; the others count neither for log-probability nor for entropy nor for KL. Choice i
    having been conditioned on those before it, log_prob is exact, while entropy, KL and Fisher matrix are those of the
    decisions at the prefixes visited: unbiased estimates of those of whole actions.
    """

    logits: tuple[Tensor, ...]
    relevant: Tensor

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        return self.logits

    def log_prob(self, action: Tensor) -> Tensor:
        """[batch]"""
        picked = [
            logits.log_softmax(-1).gather(-1, action[:, i : i + 1]).squeeze(-1) for i, logits in enumerate(self.logits)
        ]
        return self._total(picked)

    def entropy(self) -> Tensor:
        """[batch]"""
        log_ps = [logits.log_softmax(-1) for logits in self.logits]
        return self._total([-(log_p.exp() * log_p).sum(-1) for log_p in log_ps])

    def kl(self, other: Chain) -> Tensor:
        """KL(self || other), [batch], of chains at the same prefixes."""
        pairs = zip(self.logits, other.logits, strict=True)
        log_ps = [(a.log_softmax(-1), b.log_softmax(-1)) for a, b in pairs]
        return self._total([(p.exp() * (p - q)).sum(-1) for p, q in log_ps])

    def fisher(self, tangents: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The Fisher matrix of the logits times a tangent, row by row: diag(p) - p p' for every choice that counts."""
        out = []
        for i, (logits, v) in enumerate(zip(self.logits, tangents, strict=True)):
            p = logits.softmax(-1) * self.relevant[:, i : i + 1]
            out.append(p * (v - (p * v).sum(-1, keepdim=True)))
        return tuple(out)

    def detach(self) -> Chain:
        return Chain(tuple(logits.detach() for logits in self.logits), self.relevant)

    def _total(self, terms: list[Tensor]) -> Tensor:
        return (torch.stack(terms, -1) * self.relevant).sum(-1)
