"""Which task each episode gets, and which episodes form a group.

A task is a reset seed and, where the environment has a dial, a difficulty. The sampler hands each task out `group_size`
times, keeps track of groups until the agent has recorded how they went, and learns from that what to draw next:

    uniform       every task alike
    curriculum    easy to hard: all levels up to the first that is not yet solved often enough
    prioritised   a level, or a task of a fixed pool, in proportion to 1 - its success rate
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Training draws its seeds below this number, evaluation from it on: they can never meet.
EVALUATION_SEEDS = 2**31

SAMPLING = ("uniform", "curriculum", "prioritised")
SOLVED = 0.8  # success rate at which a curriculum goes on to the next level
MEMORY = 0.9  # weight of a bucket's record when a new group comes in: the policy that made it is gone
FLOOR = 0.01  # priority of what always succeeds, so that forgetting it would be noticed


@dataclass(frozen=True)
class Task:
    """One episode to come: its reset seed, the group it belongs to, and its difficulty where there is a choice."""

    seed: int
    group_id: int
    difficulty: int | None = None


class TaskSampler:
    """Hands out each task `group_size` times in a row: those episodes are one group.

    levels: (easiest, hardest) difficulty to draw from; None leaves the difficulty to the environment.
    pool: number of different reset seeds in all; 0 draws a new one for every group.

    Success is recorded by bucket: the difficulty where there are `levels`, else the task in the pool.
    """

    def __init__(
        self,
        group_size: int = 1,
        *,
        seed: int = 0,
        sampling: str = "uniform",
        levels: tuple[int, int] | None = None,
        pool: int = 0,
    ) -> None:
        if group_size < 1:
            raise ValueError(f"group_size must be at least 1; got {group_size}")
        if sampling not in SAMPLING:
            raise ValueError(f"sampling is one of {', '.join(SAMPLING)}; got {sampling!r}")
        self.group_size, self.sampling, self.levels = group_size, sampling, levels
        self.rng = np.random.default_rng(seed)
        self.pool = self.rng.integers(EVALUATION_SEEDS, size=pool) if pool else np.zeros(0, np.int64)
        self.level = 0  # curriculum: the hardest one open, counted from the easiest
        self._task = Task(0, -1)
        self._group = self._left = 0
        self._open: dict[int, tuple[int, int]] = {}  # group -> its bucket, its finished episodes
        self._record: dict[int, tuple[float, float]] = {}  # bucket -> successes, episodes; both fade

    def next(self) -> Task:
        """The task of the episode that starts now. Raises ValueError where `sampling` lacks the buckets it needs."""
        if self._left == 0:
            self._check()
            self._task = self._draw()
            self._group += 1
            self._left = self.group_size
        self._left -= 1
        return self._task

    def _check(self) -> None:
        if self.sampling == "curriculum" and self.levels is None:
            raise ValueError("a curriculum needs an environment with levels of difficulty; this one has none")
        if self.sampling == "prioritised" and self.levels is None and not len(self.pool):
            raise ValueError(
                "prioritised sampling needs an environment with levels of difficulty, or a pool of tasks to come back "
                "to: set task_pool"
            )

    def _draw(self) -> Task:
        bucket, difficulty, known = -1, None, None
        if self.levels is not None:
            bucket = difficulty = self.levels[0] + self._choose(self.levels[1] - self.levels[0] + 1, self.levels[0])
        if len(self.pool):
            index = int(self.rng.integers(len(self.pool))) if self.levels else self._choose(len(self.pool), 0)
            bucket, known = (index if bucket < 0 else bucket), int(self.pool[index])
        seed = int(self.rng.integers(EVALUATION_SEEDS)) if known is None else known
        self._open[self._group] = (bucket, 0)
        return Task(seed, self._group, difficulty)

    def _choose(self, count: int, first: int) -> int:
        """One of the buckets first, ..., first + count - 1, counted from 0."""
        if self.sampling == "curriculum":
            return int(self.rng.integers(self.level + 1))
        if self.sampling == "prioritised":
            priority = np.array([max(1.0 - self.success_rate(first + i), FLOOR) for i in range(count)])
            return int(self.rng.choice(count, p=priority / priority.sum()))
        return int(self.rng.integers(count))

    # --- groups -------------------------------------------------------------------------------------------------

    def finish(self, group_id: int) -> None:
        """One episode of the group has ended."""
        if group_id in self._open:
            bucket, finished = self._open[group_id]
            self._open[group_id] = (bucket, finished + 1)

    def whole_groups(self, in_order: bool = False) -> list[int]:
        """Groups of which every episode has ended, oldest first; in_order: only those before the first unfinished.

        Groups with short episodes are whole earlier than their elders, so a choice of the first few whole ones would
        favour them; the first few in order are a fair sample.
        """
        whole = []
        for group, (_, finished) in self._open.items():
            if finished == self.group_size:
                whole.append(group)
            elif in_order:
                break
        return whole

    def record(self, group_id: int, successes: int) -> None:
        """Take in how a whole group went, and let go of it."""
        bucket, _ = self._open.pop(group_id)
        if bucket < 0:
            return
        won, played = self._record.get(bucket, (0.0, 0.0))
        self._record[bucket] = (MEMORY * won + successes, MEMORY * played + self.group_size)
        if self.sampling == "curriculum" and self.levels is not None:
            hardest = self.levels[0] + self.level
            if bucket == hardest < self.levels[1] and self.success_rate(bucket) >= SOLVED:
                self.level += 1

    def success_rate(self, bucket: int) -> float:
        """Share of successes in a bucket, recent groups counting most; 0 where nothing is known."""
        won, played = self._record.get(bucket, (0.0, 0.0))
        return won / played if played else 0.0

    def restart(self) -> None:
        """Drop groups that are not recorded: their episodes were given up."""
        self._open.clear()
        self._left = 0

    # --- checkpoint ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {
            "rng": self.rng.bit_generator.state,
            "pool": self.pool,
            "level": self.level,
            "task": [self._task.seed, self._task.group_id, self._task.difficulty],
            "group": self._group,
            "left": self._left,
            "open": [[group, bucket, finished] for group, (bucket, finished) in self._open.items()],
            "record": [[bucket, won, played] for bucket, (won, played) in self._record.items()],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.pool = np.array(state["pool"])
        self.level = state["level"]
        self._task = Task(*state["task"])
        self._group, self._left = state["group"], state["left"]
        self._open = {group: (bucket, finished) for group, bucket, finished in state["open"]}
        self._record = {bucket: (won, played) for bucket, won, played in state["record"]}
