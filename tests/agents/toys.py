"""Small environments and actors whose every number is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv

from agents.core.buffer import Field, Ragged
from agents.core.spaces import decode_text

CHARACTERS = "0123456789:é-"


class Counting(gym.Env):
    """Episode e of an environment seeded with s lasts 1 + (s + e) % 4 steps, terminated if e is even, else truncated.

    The observation tells s, e, the step t and the last action, in the `form` asked for; the reward is unique.
    """

    SEEDS = 9973

    def __init__(self, form: str = "box") -> None:
        self.form = form
        numbers = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        text = spaces.Text(256, charset=CHARACTERS)
        image = spaces.Box(0, 255, (8, 9, 3), np.uint8)
        self.observation_space = {
            "box": numbers,
            "text": text,
            "dict": spaces.Dict({"numbers": numbers, "image": image, "deep": spaces.Dict({"instruction": text})}),
        }[form]
        self.action_space = spaces.Discrete(3)
        self.base = self.episode = self.t = self.last = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is None:
            self.episode += 1
        else:
            self.base, self.episode = seed % self.SEEDS, 0
        self.t, self.last = 0, 0
        return self.observe(), {}

    def observe(self) -> Any:
        values = [self.base, self.episode, self.t, self.last]
        numbers, text = np.array(values, np.float32), ":".join(map(str, values)) + "é" * self.t
        image = np.full((8, 9, 3), (self.base * 31 + self.episode * 7 + self.t) % 256, np.uint8)
        image[0, 0] = (self.t, self.last, self.episode % 256)
        whole = {"numbers": numbers, "image": image, "deep": {"instruction": text}}
        return {"box": numbers, "text": text, "dict": whole}[self.form]

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        self.last = int(action)
        over = self.t >= 1 + (self.base + self.episode) % 4
        reward = self.episode * 100 + self.t * 10 + self.last + 0.5
        terminated = over and self.episode % 2 == 0
        return self.observe(), reward, terminated, over and not terminated, {"t": self.t}


class CountingActor:
    """Acts on what it sees alone, so that the order of resets cannot matter."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.starts: list[np.ndarray] = []

    def act(self, obs: Any, episode_start: np.ndarray) -> dict[str, torch.Tensor]:
        self.starts.append(episode_start.copy())
        return {"action": (sum_of(obs) * 7 % 3).long()}

    def to_env(self, action: torch.Tensor, obs: Any) -> np.ndarray:
        return action.numpy()

    @staticmethod
    def schema() -> dict[str, Field]:
        return {"action": Field((), torch.int64)}


def sum_of(obs: Any) -> torch.Tensor:
    """base + episode + t + last, [N], from any form of observation."""
    if isinstance(obs, Mapping):
        return obs["numbers"].sum(-1)
    if isinstance(obs, Ragged):
        texts = decode_text(obs)
        return torch.tensor([sum(float(x) for x in text.rstrip("é").split(":")) for text in texts])
    return obs.sum(-1)


class Fixed(gym.Env):
    """Constant-length episodes of random observations from any space; the reward is 1 for action 0, else 0."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space, length: int = 5) -> None:
        self.observation_space, self.action_space, self.length = observation_space, action_space, length
        self.t = 0
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.actions.append(action)
        self.t += 1
        over = self.t == self.length
        return self.observation_space.sample(), float(np.sum(action) == 0), False, over, {}


def vector(make: Any, num_envs: int, mode: AutoresetMode = AutoresetMode.DISABLED) -> VectorEnv:
    """`num_envs` environments from `make()`."""
    return SyncVectorEnv([make] * num_envs, autoreset_mode=mode)


class Digits(gym.Env):
    """Up to two turns; a turn is worth the share of digits in the response."""

    def __init__(self, turns: int = 1) -> None:
        self.turns = turns
        characters = "".join(map(chr, range(1, 0x300)))
        self.observation_space = spaces.Text(4096, charset=characters)
        self.action_space = spaces.Text(4096, min_length=0, charset=characters)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.prompt, self.turn = f"say{int(self.np_random.integers(10))}:", 0
        return self.prompt, {}

    def step(self, action):
        if action is None:
            return self.prompt, 0.0, False, False, {}
        self.prompt, self.turn = f"{self.prompt}{self.turn}", self.turn + 1
        reward = sum(c in "0123456789" for c in action) / max(len(action), 1)
        return self.prompt, reward, self.turn == self.turns, False, {}


class TextVector(SyncVectorEnv):
    """Actions as a list, since Gymnasium iterates a Text space's batch as one text."""

    def step(self, actions):
        self.actions = list(actions)
        found = [env.step(action) for env, action in zip(self.envs, actions, strict=True)]
        self.observations = tuple(obs for obs, *_ in found)
        rewards, terminated, truncated = (np.array(column) for column in list(zip(*found, strict=True))[1:4])
        return self.observations, rewards, terminated, truncated, {}

    def reset(self, *, seed=None, options=None):
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        before = getattr(self, "observations", None)
        seeds = seed or [None] * self.num_envs
        self.observations = tuple(
            env.reset(seed=seeds[i])[0] if mask[i] else before[i] for i, env in enumerate(self.envs)
        )
        return self.observations, {}


def digits(turns: int = 1, num_envs: int = 8) -> VectorEnv:
    """`num_envs` of Digits."""
    return TextVector([lambda: Digits(turns)] * num_envs, autoreset_mode=AutoresetMode.DISABLED)
