"""Evaluation: whole episodes of a frozen policy on separate environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv

from agents.core.collector import autoreset_mode
from agents.core.tasks import EVALUATION_SEEDS


class Predictor(Protocol):
    """Anything with Stable-Baselines3's `predict`."""

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, Any]: ...


@dataclass(frozen=True)
class EpisodeStats:
    """returns (undiscounted) and lengths (steps): one entry an episode, in seed order."""

    returns: np.ndarray
    lengths: np.ndarray


def evaluate(
    agent: Predictor,
    env: VectorEnv,
    episodes: int,
    *,
    seed: int = EVALUATION_SEEDS,
    deterministic: bool = True,
) -> EpisodeStats:
    """Run exactly the episodes with reset seeds seed, seed + 1, ..., so that short ones are not favoured.

    seed: from 2**31 on, where no training seed lies. env must not reset itself (envs.make_vec's do not). Environments
    without an episode left to run idle in finished ones; their steps are not counted.
    """
    if autoreset_mode(env) is not AutoresetMode.DISABLED:
        raise ValueError("evaluation needs an environment without automatic resets; envs.make_vec makes one")
    if episodes < 1:
        raise ValueError(f"episodes must be at least 1; got {episodes}")
    n = env.num_envs
    returns, lengths = np.zeros(episodes), np.zeros(episodes, np.int64)
    running = np.arange(n)  # the episode that each environment runs; >= episodes: idle
    following = n
    reset: Any = env.reset  # Gymnasium annotates one seed where a list is accepted
    obs, _ = reset(seed=[seed + int(i) for i in running])
    while (active := running < episodes).any():
        actions, _ = agent.predict(obs, deterministic=deterministic)
        obs, rewards, terminated, truncated, _ = env.step(actions)
        np.add.at(returns, running[active], rewards[active])
        np.add.at(lengths, running[active], 1)
        done = terminated | truncated
        if done.any():
            seeds: list[int | None] = [None] * n
            for i in np.flatnonzero(done):
                running[i], following = following, following + 1
                seeds[i] = seed + int(running[i])
            obs, _ = reset(seed=seeds, options={"reset_mask": done.copy()})
    return EpisodeStats(returns, lengths)
