"""Save and restore what a vector environment will do next, where it can be done exactly.

The state is a flat dict of plain numeric arrays, so that a checkpoint needs no pickle. Environments that know
their own state (methods `get_state` and `set_state`) are asked for it, vector environments and those in a
`SyncVectorEnv` alike; Gymnasium's classic control, grid worlds and Blackjack in one are covered here. Everything
else, and any wrapper that could hold state of its own, is left out: `get_state` gives None rather than a state that
would continue only almost alike.

An environment of one's own takes part with two methods:

    def get_state(self) -> dict[str, np.ndarray]   # numbers, of the same shapes at any time; np_random is saved besides
    def set_state(self, state: dict[str, np.ndarray]) -> None
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import (
    AcrobotEnv,
    CartPoleEnv,
    Continuous_MountainCarEnv,
    MountainCarEnv,
    PendulumEnv,
)
from gymnasium.envs.toy_text import BlackjackEnv, CliffWalkingEnv, FrozenLakeEnv, TaxiEnv
from gymnasium.vector import SyncVectorEnv, VectorEnv, VectorWrapper
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from numpy.typing import NDArray

from envs.rng import generator_from_words, generator_words

State = dict[str, NDArray[Any]]


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

    For those in a `SyncVectorEnv`: `rng` uint64 [N, 6]; `elapsed_steps` int64 [N], -1 before the first reset;
    `observation` [N, flat]; `done` bool [N]; and `task/<name>` [N, ...], what the tasks themselves hold.
    """
    if isinstance(env, VectorWrapper):
        return None
    if hasattr(env, "get_state") and hasattr(env, "set_state"):
        return env.get_state()
    layers = _layers(env)
    if layers is None:
        return None
    assert isinstance(env, SyncVectorEnv)
    n, space = len(layers), env.single_observation_space
    saved: State = {
        "rng": np.stack([generator_words(base.np_random) for base, *_ in layers]),
        "elapsed_steps": np.full(n, -1, dtype=np.int64),
        "observation": np.zeros((n, spaces.flatdim(space))),
        "done": env._autoreset_envs.copy(),
    }
    for i, (_, _, limit, order) in enumerate(layers):
        if order.has_reset and env._env_obs[i] is not None:
            saved["elapsed_steps"][i] = limit._elapsed_steps
            saved["observation"][i] = spaces.flatten(space, env._env_obs[i])
    tasks = [way.read(base) for base, way, _, _ in layers]
    return saved | {f"task/{name}": np.stack([np.asarray(task[name]) for task in tasks]) for name in tasks[0]}


def set_state(env: VectorEnv, state: State) -> None:
    """Let `env` continue from what `get_state` gave for an environment of the same id and options.

    Raises:
        TypeError: an environment for which `get_state` gives None.
        ValueError: the state of another task or number of environments.
    """
    layers = None if isinstance(env, VectorWrapper) else _layers(env)
    if layers is None:
        if isinstance(env, VectorWrapper) or not hasattr(env, "set_state"):
            raise TypeError(f"The state of {env!r} cannot be restored.")
        env.set_state(state)
        return
    assert isinstance(env, SyncVectorEnv)

    for one, (*_, order) in zip(env.envs, layers, strict=True):
        if not order.has_reset:
            one.reset()  # wrappers that check the first reset have seen it then
    expected = get_state(env)
    assert expected is not None
    shapes, found = ({k: np.shape(v) for k, v in s.items()} for s in (expected, state))
    if shapes != found:
        raise ValueError(f"The state does not fit {env!r}: expected arrays {shapes}, found {found}.")
    latest: list[Any] = env._env_obs
    for i, (base, way, limit, order) in enumerate(layers):
        base.np_random = generator_from_words(state["rng"][i])
        order._has_reset = bool(state["elapsed_steps"][i] >= 0)
        if not order.has_reset:
            continue
        tasks = {name.removeprefix("task/"): value[i] for name, value in state.items() if name.startswith("task/")}
        way.write(base, tasks)
        limit._elapsed_steps = int(state["elapsed_steps"][i])
        latest[i] = spaces.unflatten(env.single_observation_space, state["observation"][i])
    env._autoreset_envs = np.array(state["done"], dtype=np.bool_)


class _Way(NamedTuple):
    """How a kind of task gives what it holds, arrays of the same shapes at any time, and takes it back."""

    read: Callable[[Any], dict[str, Any]]
    write: Callable[[Any, dict[str, Any]], None]


def _classic_control(size: int) -> _Way:
    """Tasks whose `state` is so many numbers, and which may remember one thing more."""

    def read(base: Any) -> dict[str, Any]:
        state = getattr(base, "state", None)
        beyond, last_u = getattr(base, "steps_beyond_terminated", None), getattr(base, "last_u", None)
        return {
            "state": np.zeros(size) if state is None else np.array(state, np.float64),
            "is_float32": getattr(state, "dtype", None) == np.float32,
            "steps_beyond_terminated": -1 if beyond is None else beyond,
            "last_u": np.nan if last_u is None else float(last_u),
        }

    def write(base: Any, saved: dict[str, Any]) -> None:
        base.state = saved["state"].astype(np.float32 if saved["is_float32"] else np.float64)
        if isinstance(base, CartPoleEnv):
            beyond = int(saved["steps_beyond_terminated"])
            cast(Any, base).steps_beyond_terminated = None if beyond < 0 else beyond
        if isinstance(base, PendulumEnv):
            base.last_u = None if np.isnan(saved["last_u"]) else saved["last_u"]

    return _Way(read, write)


def _read_grid(base: Any) -> dict[str, Any]:
    last = getattr(base, "lastaction", None)
    return {
        "s": int(getattr(base, "s", 0)),
        "last_action": -1 if last is None else int(last),
        "fickle_step": bool(getattr(base, "fickle_step", False)),
    }


def _write_grid(base: Any, saved: dict[str, Any]) -> None:
    base.s, base.lastaction = int(saved["s"]), None if saved["last_action"] < 0 else int(saved["last_action"])
    base.fickle_step = bool(saved["fickle_step"])


_HAND = 22  # cards of which a hand can consist: 21 aces do not bust, the next one does
_SUITS = ("C", "D", "H", "S")
_FACES = ("A", *map(str, range(2, 10)), "J", "Q", "K")


def _read_blackjack(base: Any) -> dict[str, Any]:
    hands = {who: np.array(getattr(base, who, []), np.int64) for who in ("player", "dealer")}
    drawn = hasattr(base, "player")
    return {
        **{who: np.pad(cards, (0, _HAND - len(cards))) for who, cards in hands.items()},
        "suit": _SUITS.index(base.dealer_top_card_suit) if drawn else -1,
        "face": _FACES.index(base.dealer_top_card_value_str) if drawn else -1,
    }


def _write_blackjack(base: Any, saved: dict[str, Any]) -> None:
    base.player, base.dealer = ([int(card) for card in saved[who] if card] for who in ("player", "dealer"))
    base.dealer_top_card_suit = _SUITS[int(saved["suit"])]
    base.dealer_top_card_value_str = _FACES[int(saved["face"])]


_GRID = _Way(_read_grid, _write_grid)
_OWN = _Way(lambda base: base.get_state(), lambda base, saved: base.set_state(saved))
# By class; subclasses may hold more and are not covered.
_WAYS: dict[type, _Way] = {
    AcrobotEnv: _classic_control(4),
    BlackjackEnv: _Way(_read_blackjack, _write_blackjack),
    CartPoleEnv: _classic_control(4),
    Continuous_MountainCarEnv: _classic_control(2),
    MountainCarEnv: _classic_control(2),
    PendulumEnv: _classic_control(2),
    CliffWalkingEnv: _GRID,
    FrozenLakeEnv: _GRID,
    TaxiEnv: _GRID,
}


def _way(base: Any) -> _Way | None:
    return _OWN if hasattr(base, "get_state") and hasattr(base, "set_state") else _WAYS.get(type(base))


class _NoLimit:
    """In the place of a time limit or an order enforcer that an environment does not have."""

    has_reset = True
    _elapsed_steps = 0


def _layers(env: VectorEnv) -> list[tuple[Any, _Way, Any, Any]] | None:
    """(task, its way, time limit, order enforcer) of each sub-environment, or None if one is anything else."""
    if type(env) is not SyncVectorEnv or not env.single_observation_space.is_np_flattenable:
        return None
    found = []
    for layer in env.envs:
        wrappers: dict[type, Any] = {}
        while type(layer) in (TimeLimit, OrderEnforcing, PassiveEnvChecker):
            wrappers[type(layer)] = layer
            layer = layer.env  # type: ignore[attr-defined]
        way = None if isinstance(layer, gym.Wrapper) else _way(layer)
        if way is None:
            return None
        found.append((layer, way, wrappers.get(TimeLimit, _NoLimit()), wrappers.get(OrderEnforcing, _NoLimit())))
    return found if len({type(task) for task, *_ in found}) == 1 else None
