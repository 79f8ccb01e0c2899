"""Stable-Baselines3's and Gymnasium's checkers on the vector environments, seen one environment at a time."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from gymnasium.vector import VectorEnv
from stable_baselines3.common.env_checker import check_env as sb3_check

import envs
from tests.envs.mujoco.ids import IDS


class One(gym.Env[Any, Any]):
    """The only environment of a vector of one, as a gymnasium.Env."""

    def __init__(self, vector: VectorEnv) -> None:
        self.vector = vector
        self.observation_space = vector.single_observation_space
        self.action_space = vector.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        obs, _ = self.vector.reset(seed=seed, options=options)
        return obs[0], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, _ = self.vector.step(np.asarray(action)[None])
        return obs[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), {}


@pytest.mark.parametrize("id", [*IDS, "CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCarContinuous-v0"])
def test_checkers_accept(id: str) -> None:
    env = One(envs.make_vec(id, num_envs=1))
    sb3_check(env, warn=False, skip_render_check=True)
    gymnasium_check(env, skip_render_check=True)
    env.vector.close()
