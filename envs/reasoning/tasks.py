"""Names of the tasks, and how one is made from its options."""

from __future__ import annotations

import dataclasses
from typing import Any

from envs.reasoning.arithmetic import Addition, ChainSum, LinearEquation
from envs.reasoning.countdown import Countdown
from envs.reasoning.gym_datasets import GymDataset
from envs.reasoning.jsonl import JsonLines
from envs.reasoning.problem import Task
from envs.reasoning.words import LetterCounting, StringReversal

OWN = (Addition, ChainSum, Countdown, StringReversal, LetterCounting, LinearEquation)
TASKS: dict[str, type[Task]] = {task.name: task for task in (*OWN, JsonLines, GymDataset)}


def make_task(task: str | Task, **options: Any) -> Task:
    """The task of a name, with its options; a Task is handed through.

    Raises ValueError for unknown names, options and choices.
    """
    if isinstance(task, Task):
        if options:
            raise ValueError(f"A task made elsewhere takes no further options, got {', '.join(options)}.")
        return task
    if task not in TASKS:
        raise ValueError(f"There is no task {task!r}; there are {', '.join(TASKS)}.")
    kind: Any = TASKS[task]
    known = [field.name for field in dataclasses.fields(kind) if field.init]
    for name in options:
        if name not in known:
            general = "split, difficulty, max_turns, max_length"
            raise ValueError(f"{task} has no option {name!r}; it takes {', '.join(known)}, and all take {general}.")
    for name, choices in {"style": ("plain", "chat"), "order": ("normal", "reversed")}.items():
        if name in options and options[name] not in choices:
            raise ValueError(f"{name} is {options[name]!r}; it must be one of {', '.join(map(repr, choices))}.")
    made: Task = kind(**options)
    return made
