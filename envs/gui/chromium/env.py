"""One page as a `gymnasium.Env`: the vector environment of one."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.gui.chromium.vector import ChromiumVectorEnv
from envs.gui.viewer import Viewer

Observation = dict[str, Any]


class ChromiumEnv(gymnasium.Env[Observation, Any]):
    """A page with a MiniWoB++ task, or of this host: see `ChromiumVectorEnv`, of which this is one row."""

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 2}

    def __init__(self, task: str, *, render_mode: str | None = None, **options: Any) -> None:
        """task: of MiniWoB++, or "page". options: see `setup.miniwob_setup` and `setup.page_setup`."""
        if render_mode not in (None, "rgb_array", "human"):
            raise ValueError(f'render_mode is {render_mode!r}; it must be "rgb_array", "human" or None.')
        self.vector = ChromiumVectorEnv(task, 1, **options)
        self.render_mode = render_mode
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self._viewer = Viewer(self.vector.setup.site.size) if render_mode == "human" else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode: instance `seed`, or the next of this environment's own stream."""
        super().reset(seed=seed)
        instance = int(self.np_random.integers(*self.vector.setup.seeds)) if seed is None else seed
        observations, infos = self.vector.reset(seed=[instance])
        return self._first(observations, infos)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out an action. Raises gymnasium.error.ResetNeeded after the end of an episode."""
        observations, rewards, terminated, truncated, infos = self.vector.step([action])
        observation, info = self._first(observations, infos)
        return observation, float(rewards[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """The screen, uint8 [H, W, 3] (render_mode "rgb_array"); "human" shows every step in a window by itself."""
        return self.vector.render()[0] if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Ends the browser, and closes the window if there is one."""
        self.vector.close()
        if self._viewer is not None:
            self._viewer.close()

    def _first(self, observations: Observation, infos: dict[str, Any]) -> tuple[Observation, dict[str, Any]]:
        observation = {"screenshot": observations["screenshot"][0], "instruction": observations["instruction"][0]}
        info = {name: values[0] for name, values in infos.items() if not name.startswith("_")}
        if self._viewer is not None:
            column, row = info["pointer"].tolist()
            self._viewer.show(observation["screenshot"], (column, row), observation["instruction"])
        return observation, info
