"""Save and restore what a vector environment will do next, where it can be done exactly.

The state is a flat dict of plain numeric arrays, so that a checkpoint needs no pickle. Environments that know
their own state (methods `get_state` and `set_state`) are asked for it; Gymnasium's classic control tasks in a
`SyncVectorEnv` are covered here. Everything else, and any wrapper that could hold state of its own, is left
out: `get_state` gives None rather than a state that would continue only almost alike.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs.classic_control import (
    AcrobotEnv,
    CartPoleEnv,
    Continuous_MountainCarEnv,
    MountainCarEnv,
    PendulumEnv,
)
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from numpy.typing import NDArray

from envs.rng import generator_from_words, generator_words

State = dict[str, NDArray[Any]]

# Length of `env.state` by class; subclasses may hold more and are not covered.
_STATE_SIZE: dict[type[gym.Env], int] = {
    AcrobotEnv: 4,
    CartPoleEnv: 4,
    Continuous_MountainCarEnv: 2,
    MountainCarEnv: 2,
    PendulumEnv: 2,
}


class Copyable:
    """Vector environments with `get_state` and `set_state`, whose copies (`copy`, `pickle`) are others in their state.

    made: the constructor's arguments, by name.
    """

    made: Mapping[str, Any]

    def __reduce__(self) -> tuple[Any, ...]:
        env = cast(Any, self)
        kept = {name: getattr(env, name) for name in ("spec", "action_space", "observation_space")}
        return functools.partial(type(self), **self.made), (), (kept, env.get_state())

    def __setstate__(self, state: tuple[dict[str, Any], State]) -> None:
        kept, inner = state
        vars(self).update(kept)
        cast(Any, self).set_state(inner)


def get_state(env: VectorEnv) -> State | None:
    """The state of `env` as numeric arrays with a row per environment; None if it cannot be known.

    For classic control: `state` float64 [N, k]; `is_float32` bool [N], the precision it is held in;
    `steps_beyond_terminated` int64 [N], -1 for none; `last_u` float64 [N], NaN for none; `rng` uint64
    [N, 6]; `elapsed_steps` int64 [N], -1 before the first reset; `observation` [N, ...]; `done` bool [N].
    """
    if isinstance(env, VectorWrapper):
        return None
    if hasattr(env, "get_state") and hasattr(env, "set_state"):
        return env.get_state()
    layers = _classic_control(env)
    if layers is None:
        return None
    assert isinstance(env, SyncVectorEnv)

    n = len(layers)
    base = layers[0][0]
    saved: State = {
        "state": np.zeros((n, _STATE_SIZE[type(base)])),
        "is_float32": np.zeros(n, dtype=np.bool_),
        "steps_beyond_terminated": np.full(n, -1, dtype=np.int64),
        "last_u": np.full(n, np.nan),
        "rng": np.stack([generator_words(base.np_random) for base, _, _ in layers]),
        "elapsed_steps": np.full(n, -1, dtype=np.int64),
        "observation": np.zeros(env.observation_space.shape or (n,), env.observation_space.dtype),
        "done": env._autoreset_envs.copy(),
    }
    for i, (base, limit, order) in enumerate(layers):
        if not order.has_reset:
            continue
        saved["state"][i] = base.state
        saved["is_float32"][i] = getattr(base.state, "dtype", None) == np.float32
        beyond, last_u = getattr(base, "steps_beyond_terminated", None), getattr(base, "last_u", None)
        saved["steps_beyond_terminated"][i] = -1 if beyond is None else beyond
        saved["last_u"][i] = np.nan if last_u is None else last_u
        saved["elapsed_steps"][i] = limit._elapsed_steps
        saved["observation"][i] = env._env_obs[i]
    return saved


def set_state(env: VectorEnv, state: State) -> None:
    """Let `env` continue from what `get_state` gave for an environment of the same id and options.

    Raises:
        TypeError: an environment for which `get_state` gives None.
        ValueError: the state of another task or number of environments.
    """
    layers = None if isinstance(env, VectorWrapper) else _classic_control(env)
    if layers is None:
        if isinstance(env, VectorWrapper) or not hasattr(env, "set_state"):
            raise TypeError(f"The state of {env!r} cannot be restored.")
        env.set_state(state)
        return
    assert isinstance(env, SyncVectorEnv)

    expected = get_state(env)
    assert expected is not None
    shapes, found = ({k: np.shape(v) for k, v in s.items()} for s in (expected, state))
    if shapes != found:
        raise ValueError(f"The state does not fit {env!r}: expected arrays {shapes}, found {found}.")
    latest: list[Any] = env._env_obs
    for i, (base, limit, order) in enumerate(layers):
        if not order.has_reset:
            env.envs[i].reset()  # wrappers that check the first reset have seen it then
        base.np_random = generator_from_words(state["rng"][i])
        order._has_reset = bool(state["elapsed_steps"][i] >= 0)
        if not order.has_reset:
            continue
        base.state = state["state"][i].astype(np.float32 if state["is_float32"][i] else np.float64)
        if isinstance(base, CartPoleEnv):
            beyond = int(state["steps_beyond_terminated"][i])
            cast(Any, base).steps_beyond_terminated = None if beyond < 0 else beyond
        if isinstance(base, PendulumEnv):
            last_u = state["last_u"][i]
            base.last_u = None if np.isnan(last_u) else last_u
        limit._elapsed_steps = int(state["elapsed_steps"][i])
        latest[i] = np.array(state["observation"][i])
    env._autoreset_envs = np.array(state["done"], dtype=np.bool_)


def _classic_control(env: VectorEnv) -> list[tuple[Any, Any, Any]] | None:
    """(task, time limit, order enforcer) of each sub-environment, or None if one is anything else."""
    if type(env) is not SyncVectorEnv:
        return None
    found = []
    for layer in env.envs:
        wrappers: dict[type, Any] = {}
        while type(layer) in (TimeLimit, OrderEnforcing, PassiveEnvChecker):
            wrappers[type(layer)] = layer
            layer = layer.env  # type: ignore[attr-defined]
        if type(layer) not in _STATE_SIZE or not {TimeLimit, OrderEnforcing} <= wrappers.keys():
            return None
        found.append((layer, wrappers[TimeLimit], wrappers[OrderEnforcing]))
    return found if len({type(task) for task, _, _ in found}) == 1 else None
