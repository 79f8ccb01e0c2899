"""Sums and linear equations: short prompts for a tiny character model, English ones for a chat model.

`style="plain"` words a problem as `12+34=`, `style="chat"` in a sentence that names the answer format. `cot`
is whether demonstrations write the chain of thought; the verifier takes either.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import ClassVar, Literal

from envs.reasoning.mathematics import format_number, parse_answer
from envs.reasoning.problem import CHAT_FORMAT, MARKER, Problem, Task, Verdict, exact_verdict, extract_answer

Style = Literal["plain", "chat"]
_INTEGER = re.compile(r"-?\d{1,40}", re.ASCII)


def finish(steps: str, answer: str, style: Style) -> str:
    """A demonstration: the chain of thought, if any, then the answer in the format of the style."""
    if steps:
        return f"{steps}\n{MARKER} {answer}"
    return f"{MARKER} {answer}" if style == "chat" else answer


def _integer_verdict(problem: Problem, response: str) -> Verdict:
    verdict = exact_verdict(problem, response)
    if not verdict.correct and _INTEGER.fullmatch(verdict.extracted):
        value, gold = int(verdict.extracted), int(problem.answer)
        if value != gold:  # else there are leading zeros: right in value, wrong in form
            return Verdict(False, verdict.extracted, "too high" if value > gold else "too low")
    return verdict


@dataclass(frozen=True)
class Addition(Task):
    """a + b, where the longer number has exactly `difficulty` digits and the other at most as many.

    order "reversed" wants the lowest digit first (12+34= is then 64), the order in which carries arise. With
    `cot` a demonstration adds digit by digit: `a+b+carry=sum` for each column, lowest first, and writes each column
    up to `rechecks` times again, as often as the problem's own dice say: a model that learns from it overthinks.
    """

    name: ClassVar[str] = "addition"
    levels = (1, 20)
    default_difficulty = 2
    style: Style = "plain"
    order: Literal["normal", "reversed"] = "normal"
    cot: bool = False
    rechecks: int = 0

    def generate(self, rng: Random, difficulty: int) -> Problem:
        top = 10**difficulty
        a = rng.randrange(top // 10 if difficulty > 1 else 0, top)
        b = rng.randrange(top)
        if rng.random() < 0.5:
            a, b = b, a
        total = str(a + b)
        if self.style == "plain":
            question = f"{a}+{b}="
        else:
            digits = " Write its digits in reverse order, lowest first." if self.order == "reversed" else ""
            question = f"What is {a} + {b}?{digits} {CHAT_FORMAT}"
        key = f"addition {min(a, b)} {max(a, b)}"
        return Problem(question, total[::-1] if self.order == "reversed" else total, key, (a, b))

    def demonstration(self, problem: Problem) -> str:
        return finish(self._carries(*problem.data) if self.cot else "", problem.answer, self.style)

    def _carries(self, a: int, b: int) -> str:
        columns: list[str] = []
        carry, dice = 0, Random(f"{a}+{b}")
        while a or b or not columns:
            (a, x), (b, y) = divmod(a, 10), divmod(b, 10)
            columns += [f"{x}+{y}+{carry}={x + y + carry}"] * (1 + dice.randint(0, self.rechecks))
            carry = (x + y + carry) // 10
        return " ".join(columns)

    def verify(self, problem: Problem, response: str) -> Verdict:
        return (exact_verdict if self.order == "reversed" else _integer_verdict)(problem, response)


@dataclass(frozen=True)
class ChainSum(Task):
    """`difficulty` + 1 terms of up to 1 + difficulty // 2 digits, added and subtracted.

    With `cot` a demonstration keeps the running total: `12-5=7 7+33=40`.
    """

    name: ClassVar[str] = "chain_sum"
    levels = (1, 10)
    default_difficulty = 2
    style: Style = "plain"
    cot: bool = True

    def generate(self, rng: Random, difficulty: int) -> Problem:
        top = 10 ** (1 + difficulty // 2)
        first = rng.randrange(top)
        others = [rng.randrange(top) * rng.choice((1, -1)) for _ in range(difficulty)]
        text = f"{first}" + "".join(f"{'-' if term < 0 else '+'}{abs(term)}" for term in others)
        question = f"{text}=" if self.style == "plain" else f"What is {text}? {CHAT_FORMAT}"
        key = f"chain_sum {sorted([first, *others])}"
        return Problem(question, str(first + sum(others)), key, (first, *others))

    def demonstration(self, problem: Problem) -> str:
        first, *others = problem.data
        steps = []
        for term in others if self.cot else ():
            steps.append(f"{first}{'-' if term < 0 else '+'}{abs(term)}={first + term}")
            first += term
        return finish(" ".join(steps), problem.answer, self.style)

    def verify(self, problem: Problem, response: str) -> Verdict:
        return _integer_verdict(problem, response)


@dataclass(frozen=True)
class LinearEquation(Task):
    """Solve for x. Difficulty 1: x+b=c. 2: ax+b=c. 3: ax+b=cx+d, whole solutions. From 4 on fractions, with
    growing coefficients.

    Any form of the right number counts: `1/2`, `0.5`, `x=1/2`, `\\frac{1}{2}`; a fraction in lowest terms.
    """

    name: ClassVar[str] = "linear_equation"
    levels = (1, 10)
    default_difficulty = 2
    style: Style = "plain"
    cot: bool = True

    def generate(self, rng: Random, difficulty: int) -> Problem:
        size = 9 * max(1, difficulty - 2)
        a = 1 if difficulty == 1 else _nonzero(rng, size)
        c = 0
        while difficulty >= 3 and c in (0, a):
            c = rng.randint(-size, size)
        b = _nonzero(rng, size)
        if difficulty <= 3:
            d = (a - c) * rng.randint(-9, 9) + b
        else:
            d = rng.randint(-size, size)
        x = Fraction(d - b, a - c)
        equation = f"{_side(a, b)}={_side(c, d)}"
        question = f"{equation},x=" if self.style == "plain" else f"Solve {equation} for x. {CHAT_FORMAT}"
        key = f"linear_equation {sorted([(a, b), (c, d)])}"
        return Problem(question, format_number(x), key, (a, b, c, d))

    def demonstration(self, problem: Problem) -> str:
        a, b, c, d = problem.data
        steps = f"{_side(a - c, 0)}={d}{-b:+d}={d - b} x={d - b}/{a - c}" if self.cot else ""
        return finish(steps, problem.answer, self.style)

    def verify(self, problem: Problem, response: str) -> Verdict:
        extracted = extract_answer(response)
        value, gold = parse_answer(extracted), Fraction(problem.answer)
        if value is None:
            return Verdict(False, extracted, "not a number in lowest terms")
        reason = "correct" if value == gold else "too high" if value > gold else "too low"
        return Verdict(value == gold, extracted, reason)


def _nonzero(rng: Random, size: int) -> int:
    return rng.randint(1, size) * rng.choice((1, -1))


def _side(factor: int, constant: int) -> str:
    """`3x-5`, `-x`, `7`."""
    if factor == 0:
        return str(constant)
    term = {1: "x", -1: "-x"}.get(factor, f"{factor}x")
    return f"{term}{constant:+d}" if constant else term
