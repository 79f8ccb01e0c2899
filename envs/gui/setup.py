"""What both screen environments make of their options: tasks, spaces, the adapter of actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

import envs
import envs.gui.tasks  # fills TASKS
from envs.gui.actions import DESKTOP, MOBILE, TYPEABLE, Coordinates
from envs.gui.adapters import Actions, Adapter, make_adapter
from envs.gui.task import LEVELS, TASKS, Task

Difficulty = int | tuple[int, int]
Split = Literal["train", "eval"]

LEAST_SIZE = (160, 210)  # what the tasks need; MiniWoB's screen
MAX_INSTRUCTION = 512  # characters
SEED_LIMIT = 1 << 63  # instance seeds are 0 <= seed < SEED_LIMIT
# The seeds that unseeded resets draw from. Trainers seed below 2**31, evaluations from there on.
SPLITS: dict[Split, tuple[int, int]] = {"train": (0, 1 << 31), "eval": (1 << 31, SEED_LIMIT)}


@dataclass(frozen=True)
class Setup:
    """Checked options. `bounds` are the least and greatest difficulty, `seeds` those of unseeded resets."""

    tasks: tuple[Task, ...]
    size: tuple[int, int]
    bounds: tuple[int, int]
    seeds: tuple[int, int]
    max_steps: int | None
    adapter: Adapter

    @property
    def observation_space(self) -> spaces.Dict:
        """Dict(screenshot=uint8 [H, W, 3], instruction=Text)."""
        return screen_space(self.size)


def screen_space(size: tuple[int, int]) -> spaces.Dict:
    """Dict(screenshot=uint8 [H, W, 3], instruction=Text) for a screen of `size` (width, height)."""
    width, height = size
    return spaces.Dict(
        {
            "screenshot": spaces.Box(0, 255, (height, width, 3), np.uint8),
            "instruction": spaces.Text(MAX_INSTRUCTION, min_length=0, charset=TYPEABLE),
        }
    )


def make_setup(
    task: str | Sequence[str],
    size: tuple[int, int] = LEAST_SIZE,
    difficulty: Difficulty = 1,
    actions: Actions = "typed",
    platform: Literal["desktop", "mobile"] = "desktop",
    split: Split = "train",
    max_steps: int | None = None,
    grid: tuple[int, int] | None = None,
    coordinates: Coordinates = "relative",
) -> Setup:
    """Checks the options of a screen environment.

    Args:
        task: the name of a task, or several to mix: the seed decides between them.
        size: (width, height) of the screen in pixels.
        difficulty: 1 to 3, or a range (low, high): the seed decides.
        actions: "typed", "text", "grid" or "point": see `adapters.make_adapter`.
        platform: "mobile" adds UI-TARS's mobile actions.
        split: which seeds `reset()` without one draws: "train" those below 2**31, "eval" the others.
        max_steps: truncates episodes; default: the task's own.
        grid: (columns, rows) for actions="grid"; default: cells of 10 by 10 pixels.
        coordinates: what actions="text" counts in, "relative" (0 to 1000) or "absolute" (smart-resized pixels).

    Raises:
        ValueError: a value that does not fit.
    """
    names = (task,) if isinstance(task, str) else tuple(task)
    if not names:
        raise ValueError("tasks is empty; it must name at least one task.")
    for name in names:
        if name not in TASKS:
            likely = " or ".join(envs.nearest(name, TASKS)) or ", ".join(TASKS)
            raise ValueError(f"There is no task {name!r} on the screen; did you mean {likely}?")
    width, height = size
    if width < LEAST_SIZE[0] or height < LEAST_SIZE[1]:
        raise ValueError(f"size is {size}; the tasks need {LEAST_SIZE[0]} by {LEAST_SIZE[1]} pixels (width, height).")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(map(repr, SPLITS))}.")
    if platform not in ("desktop", "mobile"):
        raise ValueError(f'platform is {platform!r}; it must be "desktop" or "mobile".')
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps is {max_steps}; it must be at least 1.")
    return Setup(
        tasks=tuple(TASKS[name] for name in names),
        size=(int(width), int(height)),
        bounds=check_difficulty(difficulty),
        seeds=SPLITS[split],
        max_steps=max_steps,
        adapter=make_adapter(
            actions, (int(width), int(height)), DESKTOP if platform == "desktop" else MOBILE, grid, coordinates
        ),
    )


def check_difficulty(difficulty: Any) -> tuple[int, int]:
    """A difficulty or range as a range. Raises ValueError outside the levels."""
    low, high = difficulty if isinstance(difficulty, tuple | list) else (difficulty, difficulty)
    if not LEVELS[0] <= low <= high <= LEVELS[1]:
        raise ValueError(f"difficulty is {difficulty}; there are {LEVELS[0]} to {LEVELS[1]}, or a range of these.")
    return int(low), int(high)


def check_seed(seed: Any) -> int:
    """An instance seed as a Python int. Raises ValueError out of range."""
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed is {seed}; instance seeds are whole numbers from 0 to 2**63 - 1.")
    return int(seed)
