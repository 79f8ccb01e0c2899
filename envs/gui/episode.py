"""One episode in front of one screen: what both environments are built on, so that they cannot differ."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random

import numpy as np
from numpy.typing import NDArray

from envs.gui.actions import Action
from envs.gui.desktop import Desktop
from envs.gui.task import Goal, Task
from envs.gui.theme import random_theme

FINISHED = Action("finished", text="")


@dataclass(frozen=True, slots=True)
class Step:
    """What a step brought: `reason` says in a word or two why the episode ended, "" while it goes on."""

    reward: float
    terminated: bool
    truncated: bool
    reason: str


class Episode:
    """Instance `seed` of a task on a screen drawn into `pixels`, uint8 [H, W, 3].

    tasks: the family is drawn from these. `actions` are those taken so far, None for a malformed one: with the seed
    they are all of the state, for a screen is a pure function of them.
    """

    def __init__(
        self, tasks: Sequence[Task], seed: int, difficulty: int, pixels: NDArray[np.uint8], max_steps: int | None = None
    ) -> None:
        self.seed, self.difficulty = seed, difficulty
        self.task = tasks[0] if len(tasks) == 1 else tasks[_hash(seed, b"task") % len(tasks)]
        self.max_steps = max_steps or self.task.max_steps
        rng = Random((seed << 8) | difficulty)
        self.screen = Desktop(pixels, random_theme(rng))
        self.goal: Goal = self.task.build(self.screen, rng, difficulty)
        self.actions: list[Action | None] = []
        self.done = False
        self.screen.point()
        self.screen.draw()

    def step(self, action: Action | None) -> Step:
        """Carries out an action; None, a malformed one, only passes the time."""
        screen = self.screen
        self.actions.append(action)
        if action is not None:
            if action.type == "finished":
                screen.end(self.goal.success())
            else:
                screen.do(action)
                screen.draw()
        success = screen.outcome is True
        terminated = screen.outcome is not None
        truncated = not terminated and len(self.actions) >= self.max_steps
        self.done = terminated or truncated
        reason = "" if not self.done else "success" if success else "step limit" if truncated else "wrong"
        return Step(float(success), terminated, truncated, reason)

    def demonstrate(self) -> Action:
        """The oracle's next action."""
        return self.goal.oracle() or FINISHED

    def pack(self) -> str:
        """The actions so far as JSON."""
        return pack_actions(self.actions)

    def replay(self, packed: str) -> None:
        """Carries out the actions that `pack` wrote."""
        for action in unpack_actions(packed):
            self.step(action)


def pick_difficulty(seed: int, low: int, high: int) -> int:
    """Difficulty of instance `seed` where a range was asked for: uniform over low..high, both included."""
    return low if low == high else low + _hash(seed, b"difficulty") % (high - low + 1)


def pack_actions(actions: Sequence[Action | None]) -> str:
    """Actions as JSON; None for a malformed one."""
    return json.dumps([None if action is None else _given(action) for action in actions])


def unpack_actions(packed: str) -> list[Action | None]:
    """The actions that `pack_actions` wrote."""
    return [None if fields is None else _action(fields) for fields in json.loads(packed)]


def _hash(seed: int, purpose: bytes) -> int:
    return int.from_bytes(blake2b(seed.to_bytes(8, "little"), digest_size=8, person=purpose).digest())


def _given(action: Action) -> dict[str, object]:
    return {name: value for name, value in dataclasses.asdict(action).items() if value is not None}


def _action(fields: dict[str, object]) -> Action:
    points = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return Action(**{**fields, **points})  # type: ignore[arg-type]
