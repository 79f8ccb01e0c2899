"""A single text environment: observation, action and reward are question, response and verdict."""

from __future__ import annotations

from typing import Any

import gymnasium

from envs.reasoning.episode import FEEDBACK_LENGTH, QUESTION_LENGTH, Episode, judge
from envs.reasoning.problem import SPLITS, Split, Task, make_problem, pick_difficulty
from envs.reasoning.tasks import make_task
from envs.reasoning.text import CHARSET, TURN, TextSpace

SEED_LIMIT = 1 << 63  # instance seeds are 0 <= seed < SEED_LIMIT
Difficulty = int | tuple[int, int]


def settings(
    task: str | Task,
    split: Split,
    difficulty: Difficulty | None,
    max_turns: int,
    max_length: int,
    **options: Any,
) -> tuple[Task, tuple[int, int], TextSpace, TextSpace]:
    """What both environments make of their options: task, difficulty range, observation and action space.

    Raises ValueError for a value that does not fit.
    """
    made = make_task(task, **options)
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; it must be one of {', '.join(map(repr, SPLITS))}.")
    if max_turns < 1 or max_length < 1:
        raise ValueError(f"max_turns ({max_turns}) and max_length ({max_length}) must be at least 1.")
    lo, hi = (made.default_difficulty,) * 2 if difficulty is None else check_range(made, difficulty)
    charset = CHARSET | made.characters()
    longest = QUESTION_LENGTH + max_turns * (max_length + FEEDBACK_LENGTH + 5)
    observed = charset | {TURN} if max_turns > 1 else charset
    return made, (lo, hi), TextSpace(longest, observed), TextSpace(max_length, charset - {TURN})


def check_range(task: Task, difficulty: Difficulty) -> tuple[int, int]:
    """A difficulty or range (lo, hi) as a range. Raises ValueError outside the task's levels."""
    lo, hi = difficulty if isinstance(difficulty, tuple | list) else (difficulty, difficulty)
    first, last = task.levels
    if not first <= lo <= hi <= last:
        raise ValueError(
            f"difficulty is {difficulty}; {task.name} has {first} to {last}, or a range (lo, hi) of these."
        )
    return int(lo), int(hi)


def check_seed(seed: int) -> int:
    """An instance seed as a Python int. Raises ValueError out of range."""
    if not 0 <= seed < SEED_LIMIT:
        raise ValueError(f"seed is {seed}; instance seeds are whole numbers from 0 to 2**63 - 1.")
    return int(seed)


class ReasoningEnv(gymnasium.Env[str, str]):
    """One problem an episode.

    `reset(seed=s)` gives instance number s of the split, `reset()` the next one of the environment's own
    stream; `options={"difficulty": d}` (a number or a range) overrides the difficulty of this one episode.
    Reward 1.0 for a correct response, else 0.0; an episode ends (terminated) when correct or after
    `max_turns` responses.

    info: at every step and reset `messages` (the conversation as chat messages); at reset `seed`,
    `difficulty` and `demonstration`; at a step `gold`, `extracted`, `correct` and `verdict` (the reason).
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        task: str | Task,
        *,
        split: Split = "train",
        difficulty: Difficulty | None = None,
        max_turns: int = 1,
        max_length: int = 4096,
        **options: Any,
    ) -> None:
        self.task, self.difficulty, self.observation_space, self.action_space = settings(
            task, split, difficulty, max_turns, max_length, **options
        )
        self.split: Split = split
        self.max_turns = max_turns
        self.max_length = max_length
        self._charset = self.action_space.character_set
        self._turn = TURN if max_turns > 1 else ""  # else nothing comes after the response
        self._episode: Episode | None = None

    @property
    def levels(self) -> tuple[int, int]:
        """Easiest and hardest difficulty of the task."""
        return self.task.levels

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Start an episode. See the class."""
        super().reset(seed=seed)
        instance = int(self.np_random.integers(SEED_LIMIT)) if seed is None else check_seed(seed)
        asked = (options or {}).get("difficulty")
        bounds = self.difficulty if asked is None else check_range(self.task, asked)
        difficulty = pick_difficulty(instance, *bounds)
        problem = make_problem(self.task, instance, difficulty, self.split)
        self._episode = Episode(problem, instance, difficulty)
        info = {
            "seed": instance,
            "difficulty": difficulty,
            "demonstration": self.task.demonstration(problem),
            "messages": self._episode.messages(),
        }
        return problem.question, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge a response. See the class. Raises gymnasium.error.ResetNeeded after the end of an episode."""
        episode = self._episode
        if episode is None or episode.done:
            raise gymnasium.error.ResetNeeded("The episode has ended (or not begun): call reset() before step().")
        if not isinstance(action, str):
            raise TypeError(f"A response is a text (str), not {type(action).__name__}.")
        (kept,), (verdict,) = judge(self.task, [episode.problem], [action], self.max_length, self._charset)
        episode.advance(kept, verdict, self.max_turns)
        info = {
            "gold": episode.problem.answer,
            "extracted": verdict.extracted,
            "correct": verdict.correct,
            "verdict": verdict.reason,
            "messages": episode.messages(),
        }
        return episode.observation(self._turn), float(verdict.correct), episode.done, False, info
