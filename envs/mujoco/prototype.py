"""One environment of Gymnasium's own, built quietly: it reads the options and compiles the model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import gymnasium as gym
import mujoco
from gymnasium.envs.registration import load_env_creator


def make_prototype(id: str, **kwargs: Any) -> gym.Env:
    """`gymnasium.make(id, **kwargs)` without the notes that v4 and Gymnasium's models are dated.

    Raises:
        ValueError: a render mode that the task does not have.
        ImportError, TypeError: whatever Gymnasium raises for the task or its options.
    """
    modes = cast(Any, load_env_creator(str(gym.registry[id].entry_point))).metadata["render_modes"]
    if kwargs.get("render_mode") not in (None, *modes):
        raise ValueError(f"{id} has no render mode {kwargs['render_mode']!r}; choose from {modes}.")
    with warnings.catch_warnings(), _compiler_messages() as messages:
        warnings.filterwarnings("ignore", ".*is out of date.*", DeprecationWarning)
        env = gym.make(id, **kwargs)
    for message in messages:
        if "is deprecated" not in message:
            warnings.warn(message, stacklevel=2)
    return env


@contextmanager
def _compiler_messages() -> Iterator[list[str]]:
    """Collects what MuJoCo would print and append to a log file in the working directory."""
    messages: list[str] = []
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(messages.append)
    try:
        yield messages
    finally:
        mujoco.set_mju_user_warning(previous)
