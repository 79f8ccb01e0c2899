"""Environments by id: whether there is such an id, what options it has, and how to make it quietly."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.signature import options_of

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.vector import VectorEnv

# At most so many episodes of an evaluation run at once, by namespace: a language model answers hundreds together, while
# each screen takes megabytes to look at.
EVAL_ENVS = 16
EVAL_ENVS_OF = {"reasoning": 512, "reasoning_gym": 512, "gui": 64}


def find_env(env_id: str) -> Any:
    """Gymnasium's spec of `env_id`; raises ValueError naming the nearest ids."""
    import envs

    try:
        return envs.find_spec(env_id)
    except ValueError:  # an unknown id
        raise
    except ImportError as problem:
        raise ValueError(f"{env_id} cannot be loaded here: {problem}") from problem
    except Exception as problem:  # whatever a third package's import raises
        raise ValueError(f"{env_id} cannot be loaded here: {type(problem).__name__}: {problem}") from problem


def env_options(env_id: str) -> type:
    """A dataclass of the options of the environment's constructor; raises ValueError where it cannot be loaded."""
    from gymnasium.envs.registration import load_env_creator

    spec = find_env(env_id)
    try:
        creator = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
    except Exception as problem:  # whatever a third package's import raises
        raise ValueError(f"{spec.id} cannot be loaded here: {type(problem).__name__}: {problem}") from problem
    options = options_of("EnvOptions", creator, skip=("render_mode", *spec.kwargs))
    if spec.namespace in ("reasoning", "reasoning_gym"):  # whose constructor hands on what its task takes
        from envs.reasoning.tasks import TASKS

        of_task = options_of("TaskOptions", TASKS[spec.kwargs["task"]], skip=tuple(spec.kwargs))
        options = dataclasses.make_dataclass("EnvOptions", [], bases=(of_task, options), kw_only=True)
    if spec.namespace == "gui":  # whose constructor hands on what its setup takes
        from envs.gui.setup import make_setup

        of_setup = options_of("SetupOptions", make_setup, skip=tuple(spec.kwargs))
        fields = [] if is_single_task(spec) else [("task", tuple[str, ...], tuple(spec.kwargs["task"]))]
        options = dataclasses.make_dataclass("EnvOptions", fields, bases=(of_setup, options), kw_only=True)
    if spec.namespace == "chromium":
        from envs.gui.chromium.setup import miniwob_setup, page_setup

        setup = page_setup if spec.kwargs["task"] == "page" else miniwob_setup
        of_setup = options_of("SetupOptions", setup, skip=tuple(spec.kwargs))
        options = dataclasses.make_dataclass("EnvOptions", [], bases=(of_setup, options), kw_only=True)
    return options


def is_single_task(spec: Any) -> bool:
    """Whether the environment of a spec is one task, rather than a mixture from which each episode's seed draws."""
    return isinstance(spec.kwargs.get("task", ""), str)


def sees_screens(env: VectorEnv) -> bool:
    """Whether observations are those of a screen: a screenshot and an instruction."""
    from gymnasium import spaces

    space = env.single_observation_space
    return isinstance(space, spaces.Dict) and {"screenshot", "instruction"} <= space.spaces.keys()


def make_eval_env(env_id: str, episodes: int, env_kwargs: dict[str, Any]) -> VectorEnv:
    """Environments for evaluations of so many episodes, apart from those of training.

    Where problems are split into some for training and some for evaluation, these have the latter.
    """
    if "split" in {field.name for field in dataclasses.fields(env_options(env_id))}:
        env_kwargs = {"split": "eval", **env_kwargs}
    at_once = EVAL_ENVS_OF.get(find_env(env_id).namespace, EVAL_ENVS)
    return make_envs(env_id, min(episodes, at_once), env_kwargs)


def make_envs(env_id: str, num_envs: int, env_kwargs: Mapping[str, Any]) -> VectorEnv:
    """`envs.make_vec`; whatever stops an environment from being made is an EnvironmentFailure with its name."""
    import envs
    from agents.core.errors import EnvironmentFailure

    try:
        return envs.make_vec(env_id, num_envs=num_envs, **env_kwargs)
    except (ValueError, OSError, ModuleNotFoundError):  # which say so themselves
        raise
    except Exception as error:
        raise EnvironmentFailure(f"{env_id} cannot be made: {type(error).__name__}: {error}") from error


def make_single(env_id: str, **kwargs: Any) -> gymnasium.Env:
    """`gymnasium.make` without the notes that v4 tasks and MuJoCo's models are dated."""
    spec = find_env(env_id)
    if str(spec.entry_point).startswith("gymnasium.envs.mujoco."):
        from envs.mujoco.prototype import make_prototype

        return make_prototype(spec.id, **kwargs)
    import gymnasium

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is out of date.*", DeprecationWarning)
        return gymnasium.make(spec.id, **kwargs)
