"""What a task is: a function that furnishes a screen, and what it asks of whoever sits in front of it.

An instance is a pure function of (task, seed, difficulty, screen size); see `episode.py`. A task ends its episode by
`screen.end`, or the policy does by `finished`, and then `Goal.success` judges. Left out: partial rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from envs.gui.actions import Action
from envs.gui.desktop import Desktop

LEVELS = (1, 3)  # easiest and hardest difficulty of every task


@dataclass(frozen=True, slots=True)
class Goal:
    """What one instance asks for.

    instruction: in words. success: whether the screen is now as asked. oracle: the next action towards it from any
    state of the screen, None where nothing is left to do but say so.
    """

    instruction: str
    success: Callable[[], bool]
    oracle: Callable[[], Action | None]


Build = Callable[[Desktop, Random, int], Goal]


@dataclass(frozen=True, slots=True)
class Task:
    """A family of instances: `build(screen, rng, difficulty)` draws one. `max_steps` truncates an episode."""

    name: str
    build: Build
    max_steps: int


TASKS: dict[str, Task] = {}


def task(name: str, max_steps: int) -> Callable[[Build], Build]:
    """Registers a task by its name."""

    def register(build: Build) -> Build:
        TASKS[name] = Task(name, build, max_steps)
        return build

    return register
