"""A single screen: a screenshot and an instruction in, mouse and keyboard out, reward for what was asked."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.gui.actions import Action, ActionError, format_action
from envs.gui.episode import Episode, pick_difficulty
from envs.gui.setup import check_difficulty, check_seed, make_setup
from envs.gui.viewer import Viewer

Observation = dict[str, Any]


class GuiEnv(gymnasium.Env[Observation, Any]):
    """One instance of a task an episode.

    Observations are `screenshot`, uint8 [H, W, 3], and `instruction`. `reset(seed=s)` gives instance number s,
    `reset()` the next one of the environment's own stream; `options={"difficulty": d}` (a number or a range) overrides
    the difficulty of this one episode. Reward 1.0 for success, else 0.0; an episode ends (terminated) when it has
    succeeded or can no more, or by the action `finished`, and is truncated after the task's step limit. A malformed
    action costs a step and does nothing.

    info: at reset `seed`, `difficulty`, `task`, `pointer`; at a step `success`, `reason` ("success", "wrong" or "step
    limit" where the episode ended), `malformed` (why, or ""), `action` (as UI-TARS's text), `task` and `pointer`
    (column, row).
    """

    metadata = {"render_modes": ["rgb_array", "human"], "render_fps": 2}

    def __init__(self, task: str | Sequence[str], *, render_mode: str | None = None, **options: Any) -> None:
        """task, options: see `setup.make_setup`. Raises ValueError for values that do not fit."""
        if render_mode not in (None, "rgb_array", "human"):
            raise ValueError(f'render_mode is {render_mode!r}; it must be "rgb_array", "human" or None.')
        self._made = {"task": task, "render_mode": render_mode, **options}
        self.setup = make_setup(task, **options)
        self.render_mode = render_mode
        self.observation_space = self.setup.observation_space
        self.action_space = self.setup.adapter.space
        width, height = self.setup.size
        self._pixels = np.zeros((height, width, 3), np.uint8)
        self._episode: Episode | None = None
        self._viewer = Viewer(self.setup.size) if render_mode == "human" else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode. See the class."""
        super().reset(seed=seed)
        instance = int(self.np_random.integers(*self.setup.seeds)) if seed is None else check_seed(seed)
        asked = (options or {}).get("difficulty")
        bounds = self.setup.bounds if asked is None else check_difficulty(asked)
        episode = self._begin(instance, pick_difficulty(instance, *bounds))
        self._show()
        return self._observe(episode), {
            "seed": instance,
            "difficulty": episode.difficulty,
            "task": episode.task.name,
            "pointer": np.array(episode.screen.pointer),
        }

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Carry out an action. See the class. Raises gymnasium.error.ResetNeeded after the end of an episode."""
        episode = self._episode
        if episode is None or episode.done:
            raise gymnasium.error.ResetNeeded("The episode has ended (or not begun): call reset() before step().")
        done: Action | None = None
        text = malformed = ""
        try:
            done = self.setup.adapter.decode(action)
            text = format_action(done, self.setup.size)
        except ActionError as error:
            malformed = str(error)
        outcome = episode.step(done)
        self._show()
        info = {
            "success": outcome.reward > 0,
            "reason": outcome.reason,
            "malformed": malformed,
            "action": text,
            "task": episode.task.name,
            "pointer": np.array(episode.screen.pointer),
        }
        return self._observe(episode), outcome.reward, outcome.terminated, outcome.truncated, info

    def demonstrate(self) -> Any:
        """The oracle's next action, as `step` takes it; None where the episode is over."""
        episode = self._episode
        return None if episode is None or episode.done else self.setup.adapter.encode(episode.demonstrate())

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """The screen, uint8 [H, W, 3] (render_mode "rgb_array"); "human" shows every step in a window by itself."""
        return self._pixels.copy() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        """Closes the window, if there is one."""
        if self._viewer is not None:
            self._viewer.close()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy (`copy`, `pickle`) is another environment in which the same has been done."""
        kept = {name: getattr(self, name) for name in ("spec", "action_space", "observation_space", "_np_random")}
        episode = self._episode
        begun = None if episode is None else (episode.seed, episode.difficulty, episode.pack())
        return functools.partial(type(self), **self._made), (), (kept, begun)

    def __setstate__(self, state: tuple[dict[str, Any], tuple[int, int, str] | None]) -> None:
        kept, begun = state
        vars(self).update(kept)
        if begun is not None:
            seed, difficulty, actions = begun
            self._begin(seed, difficulty).replay(actions)

    def _begin(self, seed: int, difficulty: int) -> Episode:
        self._episode = Episode(self.setup.tasks, seed, difficulty, self._pixels, self.setup.max_steps)
        return self._episode

    def _observe(self, episode: Episode) -> Observation:
        return {"screenshot": self._pixels.copy(), "instruction": episode.goal.instruction}

    def _show(self) -> None:
        if self._viewer is not None and self._episode is not None:
            self._viewer.show(self._pixels, self._episode.screen.pointer, self._episode.goal.instruction)
