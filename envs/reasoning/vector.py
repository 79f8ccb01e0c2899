"""N text environments in one: no subprocesses, no wrapper per environment, and a state that can be saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.reasoning.env import SEED_LIMIT, Difficulty, check_range, check_seed, settings
from envs.reasoning.episode import Episode, judge
from envs.reasoning.problem import Split, Task, make_problem, pick_difficulty
from envs.reasoning.text import TURN, pack_strings, unpack_strings
from envs.rng import SeedStream

Infos = dict[str, Any]


class ReasoningVectorEnv(VectorEnv[tuple[str, ...], Sequence[str | None], NDArray[Any]]):
    """N times `ReasoningEnv`, with the same episodes under the same seeds.

    A finished environment waits for `reset(options={"reset_mask": mask})` (AutoresetMode.DISABLED). `seed` is
    an int (environment i gets seed + i) or one int or None for each; equal seeds give equal problems, which
    is how groups are formed. `options={"difficulty": ...}` takes one number or range, or a number for each
    environment. An action of None leaves its environment as it is, for a response that is still being
    written.
    """

    metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": []}

    def __init__(
        self,
        task: str | Task,
        num_envs: int = 1,
        *,
        split: Split = "train",
        difficulty: Difficulty | None = None,
        max_turns: int = 1,
        max_length: int = 4096,
        **options: Any,
    ) -> None:
        if num_envs < 1:
            raise ValueError(f"num_envs is {num_envs}; it must be at least 1.")
        self.task, self.difficulty, self.single_observation_space, self.single_action_space = settings(
            task, split, difficulty, max_turns, max_length, **options
        )
        self.num_envs = num_envs
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.split: Split = split
        self.max_turns = max_turns
        self.max_length = max_length
        self._charset = self.single_action_space.character_set
        self._turn = TURN if max_turns > 1 else ""  # else nothing comes after the response
        origins = np.random.default_rng().integers(SEED_LIMIT, size=num_envs)
        self._streams = [SeedStream(int(origin), 0, SEED_LIMIT) for origin in origins]
        self._episodes: list[Episode | None] = [None] * num_envs

    @property
    def levels(self) -> tuple[int, int]:
        """Easiest and hardest difficulty of the task."""
        return self.task.levels

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[tuple[str, ...], Infos]:
        """Start episodes where `options["reset_mask"]` (bool [N]) is true, or everywhere. See the class.

        Infos hold, for the environments that were reset, `seed`, `difficulty`, `demonstration` and
        `messages`.
        """
        options = options or {}
        chosen = self._chosen(options.get("reset_mask"))
        seeds = self._seeds(seed)
        bounds = self._bounds(options.get("difficulty"))
        infos = self._empty_infos(chosen, seed=np.int64, difficulty=np.int64, demonstration=object, messages=object)
        for i in chosen:
            given = seeds[i]
            if given is None:
                instance = self._streams[i].next()
            else:
                instance = check_seed(given)
                self._streams[i] = SeedStream(instance, 0, SEED_LIMIT)
            difficulty = pick_difficulty(instance, *bounds[i])
            problem = make_problem(self.task, instance, difficulty, self.split)
            episode = self._episodes[i] = Episode(problem, instance, difficulty)
            infos["seed"][i] = instance
            infos["difficulty"][i] = difficulty
            infos["demonstration"][i] = self.task.demonstration(problem)
            infos["messages"][i] = episode.messages()
        return self.observe(), infos

    def step(
        self, actions: Sequence[str | None]
    ) -> tuple[tuple[str, ...], NDArray[Any], NDArray[Any], NDArray[Any], Infos]:
        """Judge one response for each environment. See the class.

        Rewards are float64 [N]; infos hold, for the environments that answered, `gold`, `extracted`,
        `correct`, `verdict` and `messages`. Raises ResetNeeded when an environment answers that has ended or
        not begun.
        """
        if len(actions) != self.num_envs:
            raise ValueError(f"step() takes {self.num_envs} responses, one for each environment, not {len(actions)}.")
        rewards = np.zeros(self.num_envs)
        terminated = np.zeros(self.num_envs, dtype=np.bool_)
        answered = [i for i, action in enumerate(actions) if action is not None]
        episodes: list[Episode] = []
        responses: list[str] = []
        for i in answered:
            episode, action = self._episodes[i], actions[i]
            if episode is None or episode.done:
                raise gymnasium.error.ResetNeeded(
                    f"The episode of environment {i} has ended (or not begun): reset it before it answers."
                )
            if not isinstance(action, str):
                raise TypeError(f"A response is a text (str), not {type(action).__name__} (environment {i}).")
            episodes.append(episode)
            responses.append(action)
        kept, verdicts = judge(
            self.task, [episode.problem for episode in episodes], responses, self.max_length, self._charset
        )
        infos = self._empty_infos(
            answered, gold=object, extracted=object, correct=np.bool_, verdict=object, messages=object
        )
        for i, episode, response, verdict in zip(answered, episodes, kept, verdicts, strict=True):
            episode.advance(response, verdict, self.max_turns)
            rewards[i] = verdict.correct
            terminated[i] = episode.done
            infos["gold"][i] = episode.problem.answer
            infos["extracted"][i] = verdict.extracted
            infos["correct"][i] = verdict.correct
            infos["verdict"][i] = verdict.reason
            infos["messages"][i] = episode.messages()
        return self.observe(), rewards, terminated, np.zeros(self.num_envs, dtype=np.bool_), infos

    def observe(self) -> tuple[str, ...]:
        """The current observations; "" for an environment that was never reset."""
        return tuple("" if episode is None else episode.observation(self._turn) for episode in self._episodes)

    def demonstrate(self) -> list[str | None]:
        """A right response in each environment's present state, with its chain of thought.

        None where the episode is over (or not begun), or where no answer to the problem is known.
        """
        return [
            None if episode is None or episode.done else self.task.demonstration(episode.problem) or None
            for episode in self._episodes
        ]

    def get_state(self) -> dict[str, NDArray[Any]]:
        """All that decides what comes next, as plain arrays: seed streams, instances, conversations."""
        episodes = self._episodes
        texts = [text for episode in episodes if episode is not None for turn in episode.turns for text in turn]
        state = {
            "stream_origin": [stream.origin for stream in self._streams],
            "stream_drawn": [stream.drawn for stream in self._streams],
            "seed": [-1 if episode is None else episode.seed for episode in episodes],
            "difficulty": [-1 if episode is None else episode.difficulty for episode in episodes],
            "turns": [0 if episode is None else len(episode.turns) for episode in episodes],
            "done": [episode is not None and episode.done for episode in episodes],
        }
        arrays = {name: np.array(values, dtype=np.int64) for name, values in state.items()}
        return arrays | {f"text_{name}": array for name, array in pack_strings(texts).items()}

    def set_state(self, state: dict[str, NDArray[Any]]) -> None:
        """Put back what `get_state` gave, in an environment made with the same options.

        Raises ValueError where the number of environments differs.
        """
        rows = {name: array.tolist() for name, array in state.items() if not name.startswith("text_")}
        if len(rows["seed"]) != self.num_envs:
            raise ValueError(f"The state is that of {len(rows['seed'])} environments; this one has {self.num_envs}.")
        texts = iter(unpack_strings(state["text_bytes"], state["text_ends"]))
        self._streams = [
            SeedStream(origin, 0, SEED_LIMIT, drawn)
            for origin, drawn in zip(rows["stream_origin"], rows["stream_drawn"], strict=True)
        ]
        for i in range(self.num_envs):
            if rows["seed"][i] < 0:
                self._episodes[i] = None
                continue
            problem = make_problem(self.task, rows["seed"][i], rows["difficulty"][i], self.split)
            turns = [(next(texts), next(texts)) for _ in range(rows["turns"][i])]
            self._episodes[i] = Episode(problem, rows["seed"][i], rows["difficulty"][i], turns, bool(rows["done"][i]))

    def _chosen(self, mask: NDArray[np.bool_] | None) -> list[int]:
        if mask is None:
            return list(range(self.num_envs))
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
            raise ValueError(f"reset_mask must be {self.num_envs} booleans, at least one of them true.")
        chosen: list[int] = np.flatnonzero(mask).tolist()
        return chosen

    def _seeds(self, seed: int | Sequence[int | None] | None) -> Sequence[int | None]:
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, int | np.integer):
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"reset() takes one seed, or {self.num_envs} seeds, not {len(seed)}.")
        return seed

    def _bounds(self, asked: Any) -> list[tuple[int, int]]:
        if asked is None:
            return [self.difficulty] * self.num_envs
        if isinstance(asked, list | np.ndarray) and np.ndim(asked) == 1:
            if len(asked) != self.num_envs:
                raise ValueError(f'options["difficulty"] takes a number, a tuple (lo, hi) or {self.num_envs} numbers.')
            return [check_range(self.task, int(value)) for value in asked]
        return [check_range(self.task, asked)] * self.num_envs

    def _empty_infos(self, present: list[int], **dtypes: Any) -> Infos:
        mask = np.zeros(self.num_envs, dtype=np.bool_)
        mask[present] = True
        infos: Infos = {}
        for name, dtype in dtypes.items():
            infos[name] = np.full(self.num_envs, None) if dtype is object else np.zeros(self.num_envs, dtype)
            infos[f"_{name}"] = mask.copy()
        return infos
