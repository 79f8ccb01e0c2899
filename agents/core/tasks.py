"""Which task (a reset seed) each episode gets, and which episodes form a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Training draws its seeds below this number, evaluation from it on: they can never meet.
EVALUATION_SEEDS = 2**31


@dataclass(frozen=True)
class Task:
    """One episode to come: its reset seed and the group it belongs to."""

    seed: int
    group_id: int


class TaskSampler:
    """Hands out each uniformly drawn training seed `group_size` times in a row: those episodes are one group."""

    def __init__(self, group_size: int = 1, *, seed: int = 0) -> None:
        if group_size < 1:
            raise ValueError(f"group_size must be at least 1; got {group_size}")
        self.group_size = group_size
        self.rng = np.random.default_rng(seed)
        self._seed = self._group = self._left = 0

    def next(self) -> Task:
        if self._left == 0:
            self._seed = int(self.rng.integers(EVALUATION_SEEDS))
            self._group += 1
            self._left = self.group_size
        self._left -= 1
        return Task(self._seed, self._group - 1)

    def state_dict(self) -> dict[str, Any]:
        position = {"seed": self._seed, "group": self._group, "left": self._left}
        return {"rng": self.rng.bit_generator.state, **position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self._seed, self._group, self._left = state["seed"], state["group"], state["left"]
