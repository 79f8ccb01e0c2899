"""Numbers written as text, and whether two mathematical answers are the same.

Numbers, fractions and decimals are compared exactly, here: to a numeric answer only a number will do, as a
comparison up to algebra would give credit for the question itself (`3+2` for 5). What remains (LaTeX,
symbols) goes to math-verify in a worker process where that package is installed. Only its LaTeX grammar is
used: its reader of plain expressions calls sympy's `parse_expr`, which evaluates its text as Python.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import cache

from envs.reasoning.pool import Call, shared_pool

MAX_LENGTH = 300

_NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?:(?P<whole>0|[1-9]\d{0,59})(?:/(?P<under>\d{1,60}))?|(?P<decimal>\d{0,60}\.\d{1,60})"
    r"|\\[dt]?frac(?:\{(?P<top>-?\d{1,60})\}\{(?P<bottom>\d{1,60})\}|(?P<digit_top>\d)(?P<digit_bottom>\d)))",
    re.ASCII,
)
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d+)?", re.ASCII)
_ASSIGNMENT = re.compile(r"[A-Za-z]\s*=(?!=)")
_TEXT_COMMAND = re.compile(r"\\(?:text|mathrm|mbox|hbox|operatorname|mathbf|boxed|textbf)")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_MATHEMATICAL = re.compile(r"[\d\\^+*/=<>]")


def parse_number(text: str, lowest_terms: bool = False) -> Fraction | None:
    """The exact value of `-3`, `1/2`, `0.5`, `1,234` or `\\frac{1}{2}`; None for anything else.

    With `lowest_terms` a fraction that can be reduced is None too: `24/6` is a division yet to be done.
    """
    if len(text) > MAX_LENGTH:
        return None
    text = bare(text)
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    part = match.groupdict()
    if part["decimal"] is not None:
        value = Fraction(part["decimal"])
    else:
        under = part["under"] or part["bottom"] or part["digit_bottom"]
        denominator = int(under or 1)
        if denominator == 0:
            return None
        value = Fraction(int(part["whole"] or part["top"] or part["digit_top"]), denominator)
        if lowest_terms and under is not None and (value.denominator != denominator or denominator == 1):
            return None
    return -value if part["sign"] == "-" else value


def parse_answer(text: str) -> Fraction | None:
    """The number that an answer states: `parse_number` in lowest terms, after `x=` or without."""
    text = bare(text[: MAX_LENGTH + 1])
    assignment = _ASSIGNMENT.match(text)
    return parse_number(text[assignment.end() :] if assignment else text, lowest_terms=True)


def bare(text: str) -> str:
    """`text` without the `$...$` and `\\boxed{...}` that a chat model may put around its answer."""
    text = text.strip()
    for start, end in (("$", "$"), ("\\boxed{", "}"), ("$", "$")):
        if text.startswith(start) and text.endswith(end) and len(text) > len(start) + len(end):
            text = text[len(start) : -len(end)].strip()
    return text


def format_number(value: Fraction) -> str:
    """`3`, or `-7/2` in lowest terms."""
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


@cache
def has_math_verify() -> bool:
    """Whether math-verify can be imported, found out without importing it."""
    return importlib.util.find_spec("math_verify") is not None


def answers_equal(pairs: Sequence[tuple[str, str]], time_limit: float) -> list[str]:
    """For each (gold, answer): "correct", "wrong", or why it could not be judged ("timeout", "error").

    Equal text (up to white space) is correct. To a numeric gold, so is the same number (`parse_answer`).
    Another gold that looks mathematical is put to math-verify, within `time_limit` seconds; without the
    package, or for words, the answer is wrong.
    """
    outcomes: list[str] = ["wrong"] * len(pairs)
    asked: list[int] = []
    for i, (gold, answer) in enumerate(pairs):
        if " ".join(gold.split()) == " ".join(answer.split()):
            outcomes[i] = "correct"
            continue
        value = parse_number(gold)
        if value is not None:
            outcomes[i] = "correct" if parse_answer(answer) == value else "wrong"
        elif _is_formula(gold) and _is_formula(answer) and has_math_verify():
            asked.append(i)
    if asked:
        calls = [Call("envs.reasoning.mathematics:prepare_math_verify", pairs[i]) for i in asked]
        for i, outcome in zip(asked, shared_pool().run(calls, time_limit), strict=True):
            if outcome.status != "ok":
                outcomes[i] = outcome.status
            elif outcome.value is True:
                outcomes[i] = "correct"
    return outcomes


def _is_formula(text: str) -> bool:
    # math-verify reads words as products of letters (an anagram would be equal) and drops \text{...} and
    # units (junk beside the answer would pass), so that neither may reach it.
    return (
        0 < len(text) <= MAX_LENGTH
        and _MATHEMATICAL.search(text) is not None
        and _WORD.search(text) is None
        and _TEXT_COMMAND.search(bare(text)) is None
        and "%" not in text
        and "$" not in bare(text)
    )


def prepare_math_verify(gold: str, answer: str) -> Callable[[], bool]:
    """In a worker: the comparison, imports done. math-verify's own limits use signals: they are off."""
    import math_verify
    from latex2sympy2_extended import NormalizationConfig

    plain = NormalizationConfig(
        basic_latex=True, units=False, malformed_operators=False, nits=False, boxed="none", equations=False
    )
    config = math_verify.LatexExtractionConfig(boxed_match_priority=-1, normalization_config=plain)

    def read(text: str) -> list[object]:
        return math_verify.parse(
            f"${bare(text)}$",
            [config],
            fallback_mode="no_fallback",
            extraction_mode="first_match",
            parsing_timeout=None,
        )

    def compare() -> bool:
        expected, given = read(gold), read(answer)
        if not expected or not given:
            return False
        return bool(math_verify.verify(expected, given, float_rounding=12, timeout_seconds=None))

    return compare
