"""What every stochastic policy offers, so that algorithms have no branch per kind of action.

A policy takes a step of N environments at a time, and a step consists of *decisions*: one for most actions, one for
each token of a text. Whatever is said of each decision (its log-probability, the version of the weights that took it)
is a column of the buffer that is ragged where steps have several, and `per_decision` lays such a column end to end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.core.buffer import Batch, Episodes, Field, Ragged
from agents.policies.categorical import Bernoulli, MultiCategorical
from agents.policies.chain import Chain
from agents.policies.gaussian import Gaussian

Distribution = Gaussian | MultiCategorical | Bernoulli | Chain


@dataclass(frozen=True)
class Decisions:
    """What a policy thinks of the decisions of some steps, laid end to end.

    log_prob: under the present weights, with gradients; behaviour: under those that decided, None where the steps do
    not say (demonstrations); step: the row of the steps that each belongs to; entropy: of the distribution decided
    from, see `Policy.decisions`. All [D]. features: see `Policy.features`, here with gradients.
    """

    log_prob: Tensor
    behaviour: Tensor | None
    step: Tensor
    entropy: Tensor
    features: Any


class Policy(nn.Module):
    """pi(action | observation). Observations come normalised, as trees of tensors; actions are kept as sampled.

    A policy whose actions take more than one call of `act` (responses parked by a token budget) keeps what is
    unfinished in its own state.

    typical_rate: a step size for Adam that suits such a policy; judged: whether a return is a verdict on the answer,
    on a scale of its own, rather than a sum of costs and gains in the environment's units.
    """

    typical_rate: ClassVar[float] = 1e-3
    judged: ClassVar[bool] = False

    def fields(self) -> dict[str, Field]:
        """How the buffer stores what `act` gives: `action` and `log_prob`, per decision, at least.

        A policy with a field `version` tells for each decision which `version` it was given when it took it.
        """
        raise NotImplementedError

    def act(
        self, obs: Any, generator: torch.Generator, *, episode_start: np.ndarray | None = None, version: int = 0
    ) -> Mapping[str, Any]:
        """Sampled actions: the `fields` for N environments, and `idle` (bool [N]) where some are not done deciding.

        episode_start: bool [N], where what was unfinished is void; version: of the weights, to be kept by decisions.
        """
        raise NotImplementedError

    def choose(self, obs: Any, deterministic: bool, generator: torch.Generator) -> Any:
        """Actions for evaluation: the most likely ones, or samples."""
        raise NotImplementedError

    def to_env(self, action: Any, obs: Any) -> Any:
        """Stored actions as the environment takes them; obs: the raw observations they answer."""
        raise NotImplementedError

    def from_env(self, actions: Sequence[Any], obs: Any) -> Any:
        """The environment's actions (demonstrations, one for each row of `obs`) as they are stored."""
        raise NotImplementedError

    def decisions(self, steps: Batch, *, entropy: bool = False) -> Decisions:
        """Score the decisions of steps [S] that have `obs`, `action` and, where known, `log_prob`.

        entropy: whether the entropy must be exact and have gradients; otherwise it may be an unbiased estimate.
        """
        raise NotImplementedError

    def imitation_losses(self, steps: Batch) -> Tensor:
        """What each demonstrated decision costs, [D], in behaviour cloning: -log_prob, and what else may teach."""
        return -self.decisions(steps).log_prob

    def distribution(self, steps: Batch) -> Distribution:
        """The distribution that each decision of the steps is drawn from, in their order, differentiable twice."""
        raise NotImplementedError

    @property
    def critic_space(self) -> spaces.Space:
        """The space of what a critic judges: observations, or the policy's own features of them."""
        raise NotImplementedError

    def features(self, steps: Batch) -> Any:
        """What a critic judges at each decision of the steps, [D, ...]: all that is known before it is taken."""
        raise NotImplementedError

    def first_features(self, obs: Any) -> Any:
        """What a critic judges before the first decision on each observation, [batch, ...]."""
        raise NotImplementedError

    def micro_batches(self, steps: Batch, segment: Tensor) -> list[Tensor]:
        """Numbers of segments, cut into what one backward pass has memory for; segment [S]: that of each step."""
        return [torch.arange(int(segment.max()) + 1)]

    @property
    def exhausted(self) -> bool:
        """Whether a budget of this policy's own ends the collection."""
        return False

    def renew(self) -> None:
        """Refill that budget."""


def per_decision(column: Tensor | Ragged) -> Tensor:
    """A column of steps [S, ...] or of their decisions (ragged), as [D, ...]."""
    return column.values if isinstance(column, Ragged) else column


def decision_counts(column: Tensor | Ragged) -> Tensor:
    """The number of decisions of each step, int64 [S], from a column with a value for each decision."""
    if isinstance(column, Ragged):
        return column.lengths
    return torch.ones(len(column), dtype=torch.int64, device=column.device)


def episode_decisions(episodes: Episodes) -> Tensor:
    """The number of decisions of each episode, int64 [E]: its steps, or the tokens of its responses."""
    counts = decision_counts(episodes.steps["log_prob"])
    return torch.zeros_like(episodes.length).index_add(0, episodes.segment, counts)
