"""String tasks: reverse a string, count a letter."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from string import ascii_lowercase
from typing import ClassVar

from envs.reasoning.arithmetic import Style, finish
from envs.reasoning.problem import CHAT_FORMAT, Problem, Task, Verdict, exact_verdict


@dataclass(frozen=True)
class StringReversal(Task):
    """Reverse `difficulty` lower-case letters. With `cot` a demonstration spells both directions."""

    name: ClassVar[str] = "string_reversal"
    levels = (2, 64)
    default_difficulty = 5
    style: Style = "plain"
    cot: bool = False

    def generate(self, rng: Random, difficulty: int) -> Problem:
        text = "".join(rng.choices(ascii_lowercase, k=difficulty))
        answer = text[::-1]
        question = f"reverse({text})=" if self.style == "plain" else f'Write "{text}" backwards. {CHAT_FORMAT}'
        return Problem(question, answer, f"string_reversal {min(text, answer)}", text)

    def demonstration(self, problem: Problem) -> str:
        steps = f"{' '.join(problem.data)} -> {' '.join(problem.answer)}" if self.cot else ""
        return finish(steps, problem.answer, self.style)

    def verify(self, problem: Problem, response: str) -> Verdict:
        return exact_verdict(problem, response)


@dataclass(frozen=True)
class LetterCounting(Task):
    """How often a letter occurs in a word of 2 + 2 * difficulty letters. With `cot` a demonstration goes
    through the word and keeps count: `s0 t0 r1`."""

    name: ClassVar[str] = "letter_counting"
    levels = (1, 15)
    default_difficulty = 3
    style: Style = "plain"
    cot: bool = True

    def generate(self, rng: Random, difficulty: int) -> Problem:
        length = 2 + 2 * difficulty
        letter = rng.choice(ascii_lowercase)
        count = rng.randint(0, min(length, 9))
        letters = [letter] * count + rng.choices(ascii_lowercase.replace(letter, ""), k=length - count)
        rng.shuffle(letters)
        word = "".join(letters)
        if self.style == "plain":
            question = f"count({letter},{word})="
        else:
            question = f'How many times does "{letter}" occur in "{word}"? {CHAT_FORMAT}'
        return Problem(question, str(count), f"letter_counting {letter} {word}", (letter, word))

    def demonstration(self, problem: Problem) -> str:
        letter, word = problem.data
        steps = []
        count = 0
        for char in word if self.cot else "":
            count += char == letter
            steps.append(f"{char}{count}")
        return finish(" ".join(steps), problem.answer, self.style)

    def verify(self, problem: Problem, response: str) -> Verdict:
        return exact_verdict(problem, response)
