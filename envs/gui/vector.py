"""N screens in one vector environment, drawn into one array of pixels, with a state that can be saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.gui.actions import Action, ActionError, format_action
from envs.gui.episode import Episode, pick_difficulty
from envs.gui.rows import chosen_rows, empty_infos, row_seeds
from envs.gui.setup import SEED_LIMIT, check_difficulty, check_seed, make_setup
from envs.gui.task import LEVELS
from envs.reasoning.text import pack_strings, unpack_strings
from envs.rng import SeedStream
from envs.state import Copyable

Infos = dict[str, Any]
Observation = dict[str, Any]


class GuiVectorEnv(Copyable, VectorEnv[Observation, Any, NDArray[Any]]):
    """N times `GuiEnv`, with the same episodes under the same seeds.

    Observations are `screenshot`, uint8 [N, H, W, 3], and `instruction`, N strings; both are the caller's to keep. A
    finished environment waits for `reset(options={"reset_mask": mask})` (AutoresetMode.DISABLED). `seed` is an int
    (environment i gets seed + i) or one int or None for each; equal seeds give equal screens, which is how groups are
    formed. `options={"difficulty": ...}` takes one number or range, or a number for each environment. An action of
    None leaves its environment as it is; one that is malformed costs a step and does nothing, and `infos["malformed"]`
    tells why.

    infos, with Gymnasium's `_name` masks: at reset `seed`, `difficulty`, `task`, `pointer`; at a step `success`,
    `reason` ("success", "wrong" or "step limit" where the episode ended), `malformed`, `action` (as UI-TARS's text),
    `task` and `pointer` (int64 [N, 2], column and row).
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}

    def __init__(
        self, task: str | Sequence[str], num_envs: int = 1, *, render_mode: str | None = None, **options: Any
    ) -> None:
        """task, options: see `setup.make_setup`. Raises ValueError for values that do not fit."""
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1.")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f'render_mode is {render_mode!r}; several screens at once have "rgb_array" only.')
        self.made = {"task": task, "num_envs": num_envs, "render_mode": render_mode, **options}
        self.setup = make_setup(task, **options)
        self.render_mode = render_mode
        self.num_envs = num_envs
        self.single_observation_space = self.setup.observation_space
        self.single_action_space = self.setup.adapter.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        origins = np.random.default_rng().integers(SEED_LIMIT, size=num_envs)
        self._streams = [SeedStream(int(origin), *self.setup.seeds) for origin in origins]
        width, height = self.setup.size
        self._pixels = np.zeros((num_envs, height, width, 3), np.uint8)
        self._episodes: list[Episode | None] = [None] * num_envs

    @property
    def levels(self) -> tuple[int, int]:
        """Easiest and hardest difficulty."""
        return LEVELS

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Observation, Infos]:
        """Start episodes where `options["reset_mask"]` (bool [N]) is true, or everywhere. See the class."""
        options = options or {}
        chosen = chosen_rows(options.get("reset_mask"), self.num_envs)
        seeds = row_seeds(seed, self.num_envs)
        bounds = self._bounds(options.get("difficulty"))
        infos = empty_infos(self.num_envs, chosen, seed=np.int64, difficulty=np.int64, task=object)
        for i in chosen:
            given = seeds[i]
            if given is None:
                instance = self._streams[i].next()
            else:
                instance = check_seed(given)
                self._streams[i] = SeedStream(instance, *self.setup.seeds)
            episode = self._begin(i, instance, pick_difficulty(instance, *bounds[i]))
            infos["seed"][i] = instance
            infos["difficulty"][i] = episode.difficulty
            infos["task"][i] = episode.task.name
        self._add_pointers(infos, chosen)
        return self.observe(), infos

    def step(self, actions: Sequence[Any]) -> tuple[Observation, NDArray[Any], NDArray[Any], NDArray[Any], Infos]:
        """Carry out one action for each environment. See the class.

        Rewards are float64 [N]: 1.0 for success. Raises ResetNeeded when an environment acts that has ended or not
        begun, ValueError for another number of actions.
        """
        if len(actions) != self.num_envs:
            raise ValueError(f"step() takes {self.num_envs} actions, one for each environment, not {len(actions)}.")
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        acting = [i for i, action in enumerate(actions) if action is not None]
        for i in acting:
            episode = self._episodes[i]
            if episode is None or episode.done:
                raise ResetNeeded(f"The episode of environment {i} has ended (or not begun): reset it before it acts.")
        strings = dict.fromkeys(("reason", "malformed", "action", "task"), object)
        infos = empty_infos(self.num_envs, acting, success=np.bool_, **strings)
        for i in acting:
            episode = self._episodes[i]
            assert episode is not None
            action: Action | None = None
            infos["malformed"][i] = infos["action"][i] = ""
            try:
                action = self.setup.adapter.decode(actions[i])
                infos["action"][i] = format_action(action, self.setup.size)
            except ActionError as error:
                infos["malformed"][i] = str(error)
            outcome = episode.step(action)
            rewards[i] = outcome.reward
            terminated[i], truncated[i] = outcome.terminated, outcome.truncated
            infos["success"][i] = outcome.reward > 0
            infos["reason"][i] = outcome.reason
            infos["task"][i] = episode.task.name
        self._add_pointers(infos, acting)
        return self.observe(), rewards, terminated, truncated, infos

    def observe(self) -> Observation:
        """The current observations; black and "" for an environment that was never reset."""
        instructions = tuple(["" if episode is None else episode.goal.instruction for episode in self._episodes])
        return {"screenshot": self._pixels.copy(), "instruction": instructions}

    def demonstrate(self) -> list[Any]:
        """The oracle's next action for each environment, as `step` takes it; None where the episode is over.

        Raises ValueError where the form of the actions has none for it, such as typing by actions="grid".
        """
        return [
            None if episode is None or episode.done else self.setup.adapter.encode(episode.demonstrate())
            for episode in self._episodes
        ]

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """The screens, uint8 [H, W, 3] each."""
        return tuple(self._pixels.copy())

    def get_state(self) -> dict[str, NDArray[Any]]:
        """All that decides what comes next, as plain arrays: seed streams, instances, and what was done there."""
        episodes = self._episodes
        state = {
            "stream_origin": [stream.origin for stream in self._streams],
            "stream_drawn": [stream.drawn for stream in self._streams],
            "seed": [-1 if episode is None else episode.seed for episode in episodes],
            "difficulty": [-1 if episode is None else episode.difficulty for episode in episodes],
        }
        arrays = {name: np.array(values, dtype=np.int64) for name, values in state.items()}
        done = pack_strings(["[]" if episode is None else episode.pack() for episode in episodes])
        return arrays | {f"actions_{name}": array for name, array in done.items()}

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Put back what `get_state` gave, in an environment made with the same options: its actions are repeated.

        Raises ValueError where the number of environments differs.
        """
        rows = {name: array.tolist() for name, array in state.items() if not name.startswith("actions_")}
        if len(rows["seed"]) != self.num_envs:
            raise ValueError(f"The state is that of {len(rows['seed'])} environments; this one has {self.num_envs}.")
        actions = unpack_strings(state["actions_bytes"], state["actions_ends"])
        self._streams = [
            SeedStream(origin, *self.setup.seeds, drawn)
            for origin, drawn in zip(rows["stream_origin"], rows["stream_drawn"], strict=True)
        ]
        for i in range(self.num_envs):
            if rows["seed"][i] < 0:
                self._episodes[i] = None
                self._pixels[i] = 0
            else:
                self._begin(i, rows["seed"][i], rows["difficulty"][i]).replay(actions[i])

    def _begin(self, i: int, seed: int, difficulty: int) -> Episode:
        episode = Episode(self.setup.tasks, seed, difficulty, self._pixels[i], self.setup.max_steps)
        self._episodes[i] = episode
        return episode

    def _add_pointers(self, infos: Infos, present: list[int]) -> None:
        infos["pointer"] = np.zeros((self.num_envs, 2), np.int64)
        infos["_pointer"] = next(mask for name, mask in infos.items() if name.startswith("_")).copy()
        for i in present:
            episode = self._episodes[i]
            assert episode is not None
            infos["pointer"][i] = episode.screen.pointer

    def _bounds(self, asked: Any) -> list[tuple[int, int]]:
        if asked is None:
            return [self.setup.bounds] * self.num_envs
        if isinstance(asked, list | np.ndarray) and np.ndim(asked) == 1:
            if len(asked) != self.num_envs:
                raise ValueError(
                    f'options["difficulty"] takes a number, a tuple (low, high) or {self.num_envs} numbers.'
                )
            return [check_difficulty(int(value)) for value in asked]
        return [check_difficulty(asked)] * self.num_envs
