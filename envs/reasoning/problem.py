"""What a task is: it makes a problem from a random generator, shows how to solve it, and judges a response.

An instance is a pure function of (task, seed, difficulty, split). `split` divides the *content*: the hash of
a problem's canonical form decides once and for all whether it is for training or for evaluation, whatever the
seed, difficulty or wording, so that no training problem can turn up in an evaluation.

Left out: partial credit and format rewards. A response is right or wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any, ClassVar, Literal

Split = Literal["train", "eval", "all"]
SPLITS: tuple[Split, ...] = ("train", "eval", "all")
EVAL_SHARE = 8  # one problem in EVAL_SHARE is kept for evaluation
MAX_REDRAWS = 2000
MARKER = "Answer:"
CHAT_FORMAT = f'End your reply with "{MARKER}" followed by the answer alone.'


@dataclass(frozen=True, slots=True)
class Problem:
    """One instance.

    question: the prompt; answer: the gold answer; key: canonical content, which decides the split (equal for
    problems that are the same up to wording and order); data: what the verifier needs beyond the answer.
    """

    question: str
    answer: str
    key: str
    data: Any = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judged response: `reason` says in a few words why, and is also the feedback of the next turn."""

    correct: bool
    extracted: str
    reason: str


class Task(ABC):
    """A family of problems. A subclass is a frozen dataclass whose fields are its options."""

    name: ClassVar[str]
    levels: tuple[int, int] = (1, 1)  # easiest and hardest difficulty
    default_difficulty: int = 1

    @abstractmethod
    def generate(self, rng: Random, difficulty: int) -> Problem:
        """A problem of this difficulty, drawing on `rng` alone."""

    @abstractmethod
    def demonstration(self, problem: Problem) -> str:
        """A response that the verifier accepts, with its chain of thought; "" where none is known."""

    @abstractmethod
    def verify(self, problem: Problem, response: str) -> Verdict:
        """Judge a response of bounded length. Quick, and blind to everything but its arguments."""

    def verify_many(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Verdict]:
        """`verify` for several; tasks that ask worker processes override this to ask them at once."""
        return [self.verify(problem, response) for problem, response in zip(problems, responses, strict=True)]

    def characters(self) -> frozenset[str]:
        """Characters of the questions beyond the usual ones (`text.CHARSET`)."""
        return frozenset()


def extract_answer(response: str) -> str:
    """What a response answers: everything after the last `Answer:`, or all of it where there is no marker.

    So a tiny model replies `46`, a chat model reasons and closes with `Answer: 46`, and neither may add
    anything.
    """
    return response.rpartition(MARKER)[2].strip()


def in_eval_split(key: str) -> bool:
    """Whether the problem with this canonical form belongs to evaluation: one in `EVAL_SHARE` does."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()[0] % EVAL_SHARE == 0


def make_problem(task: Task, seed: int, difficulty: int, split: Split) -> Problem:
    """Instance number `seed` of a split: the first problem of the seed's stream that belongs to the split.

    Raises ValueError where `MAX_REDRAWS` problems in a row belong to the other split, that is, where the
    difficulty has too few different problems to have one on each side.
    """
    rng = Random((seed << 8) | difficulty)
    problem = task.generate(rng, difficulty)
    if split == "all":
        return problem
    wanted = split == "eval"
    for _ in range(MAX_REDRAWS):
        if in_eval_split(problem.key) is wanted:
            return problem
        problem = task.generate(rng, difficulty)
    raise ValueError(
        f"{task.name} at difficulty {difficulty} has too few different problems for a {split} split; "
        'use another difficulty, or split="all".'
    )


def pick_difficulty(seed: int, lo: int, hi: int) -> int:
    """Difficulty of instance `seed` where a range was asked for: uniform over lo..hi, both included."""
    if lo == hi:
        return lo
    return lo + int.from_bytes(blake2b(seed.to_bytes(8, "little"), digest_size=8).digest()) % (hi - lo + 1)


def exact_verdict(problem: Problem, response: str) -> Verdict:
    """Right when the extracted answer is the gold answer, character for character."""
    extracted = extract_answer(response)
    return Verdict(True, extracted, "correct") if extracted == problem.answer else Verdict(False, extracted, "wrong")
