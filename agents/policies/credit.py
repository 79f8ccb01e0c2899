"""How good each decision of a rollout was: a critic's values, and the advantages that follow, token by token for text.

The state before a token is the prompt and all tokens before it; the reward comes with the response's last one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agents.core.buffer import Batch, Ragged
from agents.core.normalizer import ObservationNormalizer
from agents.core.returns import decision_gae
from agents.policies.policy import Policy, decision_counts
from agents.policies.value import take_rows


@dataclass(frozen=True)
class Credit:
    """features: what the critic judged, a tree of [D, ...]; values, adv and ret = adv + values: [D]."""

    features: Any
    values: Tensor
    adv: Tensor

    @property
    def ret(self) -> Tensor:
        return self.adv + self.values

    def take(self, index: Tensor) -> Credit:
        """The decisions `index`."""
        return Credit(take_rows(self.features, index), self.values[index], self.adv[index])


@torch.no_grad()
def credit(
    policy: Policy,
    critic: nn.Module,
    normalizer: ObservationNormalizer,
    rollout: Batch,
    reward: Tensor,
    gamma: float,
    lam: float,
) -> tuple[Batch, Credit]:
    """Judge the decisions of a time-major rollout (as `Buffer.rollout` gives it) by generalised advantage estimation.

    reward: [T, N], scaled or not, on the policy's device as the rollout is. gamma discounts steps, not the decisions
    within one.

    Returns the steps [S] with their observations normalised, and their decisions' credit; an environment's own reset
    steps are left out of both.
    """
    merged = rollout.merged()
    steps = merged.with_obs(normalizer(merged.obs))
    terminated, truncated = rollout["terminated"], rollout["truncated"]
    next_values = torch.zeros_like(reward)
    look = truncated > 0  # elsewhere the next step says what follows
    look[-1] = True
    look &= terminated == 0
    cut = look.flatten().nonzero().squeeze(1)
    if len(cut):
        successors = Batch({name: value for name, value in merged.items() if name.startswith("next_obs")}).take(cut)
        next_values.view(-1)[cut] = critic(policy.first_features(normalizer(successors.next_obs)))
    features = policy.features(steps)
    values = critic(features)
    counts = decision_counts(steps["log_prob"])
    adv = decision_gae(reward, counts.view_as(reward), values, next_values, terminated, truncated, gamma, lam)
    found = Credit(features, values, adv)
    if "valid" not in merged or bool(merged["valid"].all()):
        return steps, found
    valid = merged["valid"] > 0
    decided = torch.repeat_interleave(valid, counts)
    return steps.take(valid.nonzero().squeeze(1)), found.take(decided.nonzero().squeeze(1))


def as_column(values: Tensor, like: Tensor | Ragged) -> Tensor | Ragged:
    """Values of decisions [D] as a column of their steps, which takes rows as other columns do."""
    return Ragged(values, like.lengths) if isinstance(like, Ragged) else values
