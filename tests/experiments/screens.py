"""A little screen that needs no desktop: a coloured square somewhere on grey, and an instruction that names its colour.

Importing this module registers `toy/Squares-v0`.
"""

from __future__ import annotations

import string
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255), "black": (0, 0, 0)}
CELLS = (5, 5)  # of 8 pixels a side, which is what a grid action chooses from


class Squares(gym.Env):
    """Click the square: action = cell, reward 1 for the right one. An episode is one click, or `clicks` at most."""

    def __init__(self, clicks: int = 3) -> None:
        rows, columns = CELLS
        image = spaces.Box(0, 255, (8 * rows, 8 * columns, 3), np.uint8)
        self.observation_space = spaces.Dict(
            {"instruction": spaces.Text(40, charset=string.printable), "screenshot": image}
        )
        self.action_space = spaces.Discrete(rows * columns)
        self.clicks = clicks

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        self.name = list(COLOURS)[self.np_random.integers(len(COLOURS))]
        self.cell = int(self.np_random.integers(self.action_space.n))
        return self.observe(), {}

    def observe(self) -> dict[str, Any]:
        image = np.full(self.observation_space["screenshot"].shape, 128, np.uint8)
        row, column = divmod(self.cell, CELLS[1])
        image[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = COLOURS[self.name]
        image[0, : 2 * self.t] = 90
        return {"instruction": f"click the {self.name} square", "screenshot": image}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        hit = int(action) == self.cell
        return self.observe(), float(hit), hit, not hit and self.t >= self.clicks, {}


gym.register("toy/Squares-v0", Squares)
