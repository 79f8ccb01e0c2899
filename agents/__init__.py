"""Reinforcement-learning agents over one rollout core: `Kimi`, `TRPO`, `ActorCritic`, `DDPG`, `make` and `load`."""

from __future__ import annotations

import os
from typing import Any

import torch

from agents.actor_critic import ActorCritic
from agents.core import checkpoint
from agents.core.agent import Agent
from agents.core.errors import CheckpointError, nearest
from agents.ddpg import DDPG
from agents.kimi import Kimi
from agents.trpo import TRPO

ALGORITHMS: dict[str, type[Agent]] = {cls.name: cls for cls in (ActorCritic, DDPG, Kimi, TRPO)}

__all__ = ["ALGORITHMS", "DDPG", "TRPO", "ActorCritic", "Agent", "Kimi", "load", "make"]


def make(name: str, env: Any, **kwargs: Any) -> Agent:
    """`make("trpo", env, seed=0)` is `TRPO(env, seed=0)`. Raises ValueError for an unknown name."""
    if name not in ALGORITHMS:
        raise ValueError(f"unknown algorithm {name!r}.{nearest(name, ALGORITHMS)} There are {', '.join(ALGORITHMS)}.")
    return ALGORITHMS[name](env, **kwargs)


def load(path: str | os.PathLike[str], env: Any = None, *, device: str | torch.device = "auto") -> Agent:
    """The agent that `save` wrote to `path`, ready to predict or to go on learning.

    env: where to go on; without one, `learn` makes the environment the agent was saved with. With `env` and a file
    written with `exact=True`, the environments go on where they were too (`agent.restored_exactly` tells).
    Raises FileNotFoundError, or CheckpointError for a file that is truncated, foreign, from a newer version, or made
    for other spaces.
    """
    state = checkpoint.load(path)
    algorithm = state.get("algorithm")
    if algorithm not in ALGORITHMS:
        raise CheckpointError(f"{path} holds the unknown algorithm {algorithm!r}.")
    return ALGORITHMS[algorithm].from_state(state, env, device)
