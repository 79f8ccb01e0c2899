"""Whatever the user calls an environment, as a Gymnasium VectorEnv; and its state, where it can give one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper


def as_vector_env(env: str | gym.Env | VectorEnv, num_envs: int, kwargs: Mapping[str, Any] | None = None) -> VectorEnv:
    """An id is made with `num_envs` copies; a single Env becomes a vector of one."""
    if isinstance(env, str):
        import envs

        return envs.make_vec(env, num_envs=num_envs, **(kwargs or {}))
    if isinstance(env, VectorEnv):
        return env
    if isinstance(env, gym.Env):
        return SyncVectorEnv([lambda: env], autoreset_mode=AutoresetMode.DISABLED)
    raise ValueError(
        f"an environment is a Gymnasium id, an Env or a VectorEnv; got a {type(env).__name__} "
        f"(Stable-Baselines3's VecEnv is for its own agents: give the id instead)"
    )


def environment_spec(env: VectorEnv) -> dict[str, Any] | None:
    """What makes this environment again: id, number and options; None where that is no plain data, as with wrappers."""
    spec = getattr(env, "spec", None)
    if spec is None or isinstance(env, VectorWrapper):
        return None
    ours = ("num_envs", "vectorization_mode", "vector_kwargs")  # what make_vec adds by itself
    kwargs = {key: value for key, value in (spec.kwargs or {}).items() if key not in ours}
    registered = gym.registry.get(spec.id)
    if registered is not None and spec.max_episode_steps != registered.max_episode_steps:
        kwargs["max_episode_steps"] = -1 if spec.max_episode_steps is None else spec.max_episode_steps
    try:
        return {"id": spec.id, "num_envs": env.num_envs, "kwargs": json.loads(json.dumps(kwargs))}
    except TypeError:
        return None


def environment_state(env: VectorEnv) -> dict[str, np.ndarray] | None:
    """Everything the environments' future depends on, as plain arrays; None where they cannot give it."""
    from envs.state import get_state

    return get_state(env)


def restore_environment(env: VectorEnv, state: Mapping[str, np.ndarray]) -> bool:
    """Put the environments into `state`; False where they cannot take it."""
    from envs.state import set_state

    try:
        env.reset()  # wrappers that check the order of calls want to see one
        set_state(env, dict(state))
    except (TypeError, ValueError):
        return False
    return True
