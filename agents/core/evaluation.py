"""Evaluation: whole episodes of a frozen policy on separate environments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.core.collector import autoreset_mode
from agents.core.errors import guarded
from agents.core.tasks import EVALUATION_SEEDS


class Predictor(Protocol):
    """Anything with Stable-Baselines3's `predict`."""

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class EpisodeStats:
    """returns (undiscounted) and lengths (steps): one entry an episode, in seed order."""

    returns: np.ndarray
    lengths: np.ndarray


@dataclass(frozen=True)
class WatchedStep:
    """One step of N environments: what was observed, done and earned, and what came of it.

    next_obs: what followed, before any reset; done: bool [N], where an episode ended; episode: int64 [N], -1 where
    nothing counts.
    """

    obs: Any
    actions: Any
    rewards: np.ndarray
    infos: Mapping[str, Any]
    next_obs: Any
    done: np.ndarray
    episode: np.ndarray


def evaluate(
    agent: Predictor,
    env: VectorEnv,
    episodes: int,
    *,
    seed: int = EVALUATION_SEEDS,
    deterministic: bool = True,
    samples: int = 1,
    watch: Callable[[WatchedStep], None] | None = None,
    step_made: Callable[[], None] = lambda: None,
) -> EpisodeStats:
    """Run exactly the episodes with reset seeds seed, seed + 1, ..., so that short ones are not favoured.

    seed: from 2**31 on, where no training seed lies. env must not reset itself (envs.make_vec's do not). Environments
    without an episode left to run idle in finished ones; their steps are not counted. samples: episodes from each
    seed, one after another in the result, which then has episodes * samples entries. watch: is shown every step.
    step_made: called after every step; what it raises ends the evaluation.
    """
    if autoreset_mode(env) is not AutoresetMode.DISABLED:
        raise ValueError("evaluation needs an environment without automatic resets; envs.make_vec makes one")
    for name, count in (("episodes", episodes), ("samples", samples)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1; got {count}")
    episodes, n = episodes * samples, env.num_envs
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    running = np.arange(n)  # the episode that each environment runs; >= episodes: idle
    following = n
    obs, _ = guarded("in evaluation", env.reset, seed=[seed + int(i) // samples for i in running])
    while (active := running < episodes).any():
        actions, _ = agent.predict(obs, deterministic=deterministic)
        seen = obs
        obs, rewards, terminated, truncated, infos = guarded("in evaluation", env.step, actions)
        np.add.at(returns, running[active], rewards[active])
        np.add.at(lengths, running[active], 1)
        done = terminated | truncated
        step_made()
        if watch is not None:
            watch(WatchedStep(seen, actions, rewards, infos, obs, done, np.where(active, running, -1)))
        if done.any():
            seeds: list[int | None] = [None] * n
            for i in np.flatnonzero(done):
                running[i], following = following, following + 1
                seeds[i] = seed + int(running[i]) // samples
            obs, _ = guarded("in evaluation", env.reset, seed=seeds, options={"reset_mask": done.copy()})
    return EpisodeStats(returns, lengths)
