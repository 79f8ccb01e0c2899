"""Countdown: reach the target from the given numbers with + - * / and parentheses.

Each given number may be used **at most once**, as in the television game; intermediate results may be
fractions or negative, though the generator's own solution keeps to positive whole numbers.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import ClassVar

from envs.reasoning.arithmetic import Style, finish
from envs.reasoning.expression import ExpressionError, evaluate, literals, parse
from envs.reasoning.problem import CHAT_FORMAT, Problem, Task, Verdict, extract_answer

MAX_TARGET = 999


@dataclass(frozen=True, slots=True)
class _Part:
    """A number on the way to the target: its value, how it is written, and the steps that lead to it."""

    value: int
    text: str
    steps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Countdown(Task):
    """`difficulty` + 1 numbers from 1 to 25 and a target up to 999 that is none of them.

    With `cot` a demonstration works out its expression step by step: `25-3=22 22*7=154`.
    """

    name: ClassVar[str] = "countdown"
    levels = (1, 7)
    default_difficulty = 2
    style: Style = "plain"
    cot: bool = True

    def generate(self, rng: Random, difficulty: int) -> Problem:
        while True:
            numbers = [rng.randint(1, 25) for _ in range(difficulty + 1)]
            parts = [_Part(number, str(number)) for number in numbers]
            while len(parts) > 1:
                first = parts.pop(rng.randrange(len(parts)))
                second = parts.pop(rng.randrange(len(parts)))
                parts.append(_combine(rng, first, second))
            target = parts[0]
            if target.value <= MAX_TARGET and target.value not in numbers:
                break
        listed = " ".join(map(str, numbers))
        if self.style == "plain":
            question = f"{listed} make {target.value}="
        else:
            question = (
                f"Using the numbers {listed}, each at most once, with + - * / and parentheses, "
                f"write an expression that equals {target.value}. {CHAT_FORMAT}"
            )
        key = f"countdown {sorted(numbers)} {target.value}"
        text = target.text[1:-1] if target.text.startswith("(") else target.text
        return Problem(question, text, key, (tuple(numbers), target.value, target.steps))

    def demonstration(self, problem: Problem) -> str:
        return finish(" ".join(problem.data[2]) if self.cot else "", problem.answer, self.style)

    def verify(self, problem: Problem, response: str) -> Verdict:
        extracted = extract_answer(response)
        numbers, target, _ = problem.data
        reason = check_expression(extracted, numbers, Fraction(target))
        return Verdict(reason == "correct", extracted, reason)


def _combine(rng: Random, first: _Part, second: _Part) -> _Part:
    """A random operation whose result is a positive whole number, so that every draw leads somewhere."""
    if first.value < second.value:
        first, second = second, first
    operations = "+*"
    if first.value > second.value:
        operations += "-"
    if first.value % second.value == 0:
        operations += "/"
    operation = rng.choice(operations)
    value = {
        "+": first.value + second.value,
        "*": first.value * second.value,
        "-": first.value - second.value,
        "/": first.value // second.value,
    }[operation]
    step = f"{first.value}{operation}{second.value}={value}"
    return _Part(value, f"({first.text}{operation}{second.text})", (*first.steps, *second.steps, step))


def check_expression(text: str, numbers: tuple[int, ...], target: Fraction, use_all: bool = False) -> str:
    """ "correct", or what is wrong with an expression that should make `target` from `numbers`.

    Each number may be used at most once; `use_all` asks for each exactly once.
    """
    try:
        tree = parse(text)
        used, given = Counter(literals(tree)), Counter(Fraction(number) for number in numbers)
        if used - given:
            return f"uses {min(used - given)}, which is not left"
        if use_all and given - used:
            return f"does not use {min(given - used)}"
        value = evaluate(tree)
    except ExpressionError as error:
        return f"no valid expression: {error}"
    return "correct" if value == target else f"equals {value}"
