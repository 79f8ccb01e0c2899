"""Environments: `make_vec` builds any of them as a vector environment.

Importing this package imports no task: the MuJoCo, reasoning and screen environments are loaded when one of
their ids is asked for. It knows nothing of agents or experiments.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import importlib.util
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import gymnasium as gym
from gymnasium.vector import AutoresetMode, VectorEnv

__all__ = ["find_ids", "find_spec", "make_vec", "nearest"]

# The packages that register ids, by the namespace that stands before the slash.
_NAMESPACES = {
    "reasoning": "envs.reasoning",
    "reasoning_gym": "envs.reasoning",
    "gui": "envs.gui",
    "chromium": "envs.gui",
}


def make_vec(id: str, num_envs: int = 1, *, vectorization_mode: str | None = None, **kwargs: Any) -> VectorEnv:
    """Make `num_envs` environments that step together.

    Gymnasium's MuJoCo tasks (v4, v5) come as the fast vector environment of envs/mujoco, with the same
    trajectories; ids with a namespace of ours as their package's own vector environment, if it registers
    one; all others through Gymnasium's. Autoreset is disabled throughout Gymnasium's and the MuJoCo tasks:
    reset finished environments with `env.reset(options={"reset_mask": done})`.

    Args:
        id: a Gymnasium id, `"HalfCheetah-v4"`; `"module:id"` imports the module first.
        num_envs: number of environments, N >= 1.
        vectorization_mode: "sync" or "async" forces Gymnasium's vectorisation; default: the fastest here.
        kwargs: the environment's own options, `max_episode_steps` and `render_mode`; where Gymnasium
            vectorises, also `wrappers` and `vector_kwargs`.

    Raises:
        ValueError: `num_envs` below 1, or an unknown id (the message names the nearest ones).
    """
    if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
        raise ValueError(f"num_envs must be an integer of at least 1, got {num_envs!r}.")
    spec = find_spec(id)
    if vectorization_mode is None and "wrappers" not in kwargs and not spec.additional_wrappers:
        if str(spec.entry_point).startswith("gymnasium.envs.mujoco."):
            from envs.mujoco import ENTRY_POINTS, MujocoVectorEnv

            if spec.entry_point in ENTRY_POINTS:
                return MujocoVectorEnv(spec.id, num_envs, **kwargs)
        if spec.namespace in _NAMESPACES and spec.vector_entry_point is not None:
            return gym.make_vec(spec.id, num_envs, vectorization_mode="vector_entry_point", **kwargs)
    vector_kwargs = {"autoreset_mode": AutoresetMode.DISABLED, **kwargs.pop("vector_kwargs", {})}
    if vectorization_mode == "async" and spec.namespace in _NAMESPACES:
        vector_kwargs.setdefault("shared_memory", False)  # where Gymnasium reads text once and never again
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is out of date.*", DeprecationWarning)
        return gym.make_vec(
            spec.id,
            num_envs,
            vectorization_mode=vectorization_mode or "sync",
            vector_kwargs=vector_kwargs,
            **kwargs,
        )


def nearest(name: str, names: Iterable[str], n: int = 3) -> list[str]:
    """The up to `n` names most like `name`, best first, upper and lower case alike."""
    by_key = {candidate.lower(): candidate for candidate in names}
    return [by_key[key] for key in difflib.get_close_matches(name.lower(), by_key, n, cutoff=0.5)]


def find_spec(id: str) -> gym.envs.registration.EnvSpec:
    """What is registered under `id`, whose package is loaded first; `"module:id"` imports the module.

    Raises:
        ValueError: an unknown id (the message names the nearest ones).
        ImportError: a module or package that cannot be loaded here.
    """
    if ":" in id:
        module, id = id.split(":", 1)
        importlib.import_module(module)
    _register(id.split("/")[0] if "/" in id else None)
    if id not in gym.registry:
        for namespace in _NAMESPACES:
            with suppress(ImportError):  # only for the sake of their names
                _register(namespace)
        likely = nearest(id, _working())
        hint = f" Did you mean {' or '.join(likely)}?" if likely else ""
        raise ValueError(f"There is no environment {id!r}.{hint}")
    return gym.registry[id]


def find_ids(pattern: str) -> list[str]:
    """The registered ids that match a shell pattern such as "gui/click-*", in the order in which they were registered.

    The pattern need not spell out the version. Raises ValueError where nothing matches.
    """
    namespace = pattern.split("/")[0]
    for known in _NAMESPACES:
        if fnmatch.fnmatchcase(known, namespace):
            _register(known)
    found = [
        id for id in gym.registry if fnmatch.fnmatchcase(id, pattern) or fnmatch.fnmatchcase(_unversioned(id), pattern)
    ]
    if not found:
        likely = nearest(pattern, _working())
        hint = f" Did you mean {' or '.join(likely)}?" if likely else ""
        raise ValueError(f"No environment is called {pattern!r}.{hint}")
    return found


def _working() -> list[str]:
    """The registered ids but for those which Gymnasium keeps only to say that they are gone."""
    gone = "_raise_mujoco_py_error"
    return [id for id, spec in gym.registry.items() if getattr(spec.entry_point, "__name__", "") != gone]


def _unversioned(id: str) -> str:
    return id.rsplit("-v", 1)[0]


def _register(namespace: str | None) -> None:
    package = _NAMESPACES.get(namespace or "")
    if package is not None and importlib.util.find_spec(package) is not None:
        importlib.import_module(package)
