"""Stable-Baselines3's callbacks around our training loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback

    from agents.core.agent import Agent


def as_callback(callback: Any, progress_bar: bool, agent: Agent) -> BaseCallback | None:
    """One callback, bound to `agent`, from a callback, a list of them, a function or None; None if nobody looks on."""
    if callback is None and not progress_bar:
        return None
    from stable_baselines3.common.callbacks import (
        BaseCallback,
        CallbackList,
        ConvertCallback,
        ProgressBarCallback,
    )

    if isinstance(callback, BaseCallback):
        found = [callback]
    elif isinstance(callback, Sequence):
        found = list(callback)
    else:
        found = [] if callback is None else [ConvertCallback(callback)]
    if progress_bar:
        found.append(ProgressBarCallback())
    hook = CallbackList(found)
    hook.init_callback(agent)  # type: ignore[arg-type]
    return hook


class Infos(Sequence[dict[str, Any]]):
    """A vector environment's infos as one dict an environment, made only when a callback looks."""

    def __init__(self, infos: Mapping[str, Any], num_envs: int) -> None:
        self.infos, self.num_envs = infos, num_envs

    def __len__(self) -> int:
        return self.num_envs

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(self.num_envs))]
        if not -self.num_envs <= i < self.num_envs:
            raise IndexError(i)
        return _one_info(self.infos, i)


def _one_info(infos: Mapping[str, Any], i: int) -> dict[str, Any]:
    """Environment i's own entries: `_key` says which environments have a `key`, which may itself hold infos."""
    return {
        key: _one_info(value, i) if isinstance(value, Mapping) else value[i]
        for key, value in infos.items()
        if not key.startswith("_") and (f"_{key}" not in infos or infos[f"_{key}"][i])
    }
