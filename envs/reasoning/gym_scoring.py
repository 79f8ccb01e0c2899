"""Strict scoring of reasoning-gym's datasets: right or wrong, no credit for substrings or junk.

The package's scorers give partial credit, and several give *full* credit to wrong or padded answers: a
correct prefix of the list (word_sorting), any text at all (game_of_life_halting), `0` for `0.5` (coin_flip),
NaN for every number (number_sorting), any four numbers (puzzle24), a number with prose around it
(gsm_symbolic). Some evaluate the answer as Python (`eval`, sympy's `parse_expr`). So each dataset has a rule
here, found by reading its scorer:

- EXACT (also for datasets this table does not know): equal to the dataset's answer, up to space at line ends.
- another function: a check of our own, in this process, that parses the answer by hand.
- a pattern: where several answers can be right, the package's scorer decides, in a worker process with a time
  limit, on answers that match the pattern entirely. Only a score of 1 counts.

None of the scorers put to work here evaluates its input as code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from envs.reasoning.algebra import is_antiderivative, same_polynomial
from envs.reasoning.countdown import check_expression
from envs.reasoning.mathematics import parse_number

Entry = dict[str, Any]
Check = Callable[[str, Entry], bool]


@dataclass(frozen=True, slots=True)
class Package:
    """Ask the package's scorer, if the whole answer matches `pattern`."""

    pattern: re.Pattern[str]


def _package(pattern: str) -> Package:
    return Package(re.compile(pattern, re.ASCII | re.DOTALL))


def exact(answer: str, entry: Entry) -> bool:
    """Equal text, line by line, up to space at the ends."""
    gold = entry["answer"]
    return gold is not None and _lines(answer) == _lines(gold)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip().split("\n")]


def _no_case(answer: str, entry: Entry) -> bool:
    return " ".join(answer.split()).casefold() == " ".join(entry["answer"].split()).casefold()


def _words(answer: str, entry: Entry) -> bool:
    return answer.split() == entry["answer"].split()


def _grid(answer: str, entry: Entry) -> bool:
    rows = [line.split() for line in answer.strip().split("\n")]
    return rows == [line.split() for line in entry["answer"].strip().split("\n")]


def _number(answer: str, entry: Entry) -> bool:
    value, gold = parse_number(answer), parse_number(entry["answer"])
    return value is not None and value == gold


def _probability(answer: str, entry: Entry) -> bool:
    value, gold = parse_number(answer), parse_number(entry["answer"])
    return value is not None and gold is not None and abs(value - gold) <= Fraction(1, 10_000)


def _json_lists(answer: str, entry: Entry) -> bool:
    return _load(answer) == _load(entry["answer"]) is not None


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _sorted_numbers(answer: str, entry: Entry) -> bool:
    given, gold = (_load(text.replace("'", '"')) for text in (answer, entry["answer"]))
    if not isinstance(given, list) or len(given) != len(gold):
        return False
    try:
        values = [float(item) for item in given]
    except (TypeError, ValueError, OverflowError):
        return False
    return all(map(math.isfinite, values)) and values == [float(item) for item in gold]


def _sorted_words(answer: str, entry: Entry) -> bool:
    return [word.strip() for word in answer.split(",")] == entry["metadata"]["sorted_words"]


def _queens(answer: str, entry: Entry) -> bool:
    return answer in entry["metadata"]["valid_answers"]


def _countdown(answer: str, entry: Entry) -> bool:
    metadata = entry["metadata"]
    return check_expression(answer, tuple(metadata["numbers"]), Fraction(metadata["target"]), True) == "correct"


def _puzzle24(answer: str, entry: Entry) -> bool:
    return check_expression(answer, tuple(entry["metadata"]["numbers"]), Fraction(24), True) == "correct"


def _integral(answer: str, entry: Entry) -> bool:
    metadata = entry["metadata"]
    return is_antiderivative(answer, metadata["integrand"], metadata["variable"])


def _polynomial(answer: str, entry: Entry) -> bool:
    return same_polynomial(answer, entry["answer"])


_N = r"[-+]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})"
_JSON = _package(r"[\[{].{0,3990}[\]}]|[Nn]o")
_DECIMAL = _package(_N)
_WITH_COMMAS = _package(r"[-+]?(?:\d{1,40}|\d{1,3}(?:,\d{3}){1,12})(?:\.\d{1,40})?")
_DIGITS = _package(r"[-+\d\s]+")

RULES: dict[str, Check | Package] = {
    "advanced_geometry": _package(rf"{_N}\s?°?|\(?\s?{_N},\s?{_N}\s?\)?"),
    "arc_agi": _grid,
    "bitwise_arithmetic": _package(r"[-+]?(?:0x[0-9a-fA-F]{1,64}|\d{1,64})"),
    "boxnet": _JSON,
    "calendar_arithmetic": _package(r"[-+]?\d{1,9}|[A-Za-z]+"),
    "chain_sum": _WITH_COMMAS,
    "codeio": _package(r"\{.*\}"),
    "coin_flip": _probability,
    "color_cube_rotation": _no_case,
    "complex_arithmetic": _package(r"[-+\d.ij() ]{1,60}"),
    "countdown": _countdown,
    "cryptarithm": _package(r"[A-Z]\s?=\s?\d(?:\s?,\s?[A-Z]\s?=\s?\d){0,9}"),
    "decimal_arithmetic": _DECIMAL,
    "decimal_chain_sum": _DECIMAL,
    "dice": _no_case,
    "family_relationships": _no_case,
    "figlet_font": _no_case,
    "fraction_simplification": _package(
        r"\$?\s?(?:\d{1,40}\s?/\s?\d{1,40}|\\d?frac\{\s?\d{1,40}\s?\}\{\s?\d{1,40}\s?\})\s?\$?"
    ),
    "game_of_life": _json_lists,
    "graph_color": _package(r'\{\s*(?:"\d{1,4}"\s*:\s*\d{1,4}\s*(?:,\s*|(?=\})))*\}'),
    "group_anagrams": _JSON,
    "gsm_symbolic": _number,
    "intermediate_integration": _integral,
    "jugs": _JSON,
    "kakurasu": _package(r"[01\s]+"),
    "knight_swap": _JSON,
    "knights_knaves": _package(r"\w+ is an? \w+(?:(?:,| and|, and) \w+ is an? \w+){0,20}\.?"),
    "letter_jumble": _no_case,
    "manipulate_matrix": _grid,
    "n_queens": _queens,
    "needle_haystack": _no_case,
    "number_format": _WITH_COMMAS,
    "number_sorting": _sorted_numbers,
    "palindrome_generation": _package(r"[A-Za-z]+"),
    "palindrome_partitioning": _JSON,
    "path_star": _words,
    "polynomial_equations": _package(rf"{_N}(?:\s?,\s?{_N}){{0,9}}"),
    "polynomial_multiplication": _polynomial,
    "pool_matrix": _package(r"[-+\d.eE\s]+"),
    "power_function": _package(rf"{_N}(?:[eE][-+]?\d{{1,3}})?"),
    "prime_factorization": _package(r"\d{1,40}(?:\s?×\s?\d{1,40}){0,99}"),
    "products": _WITH_COMMAS,
    "propositional_logic": _package(r"[A-Z()¬∧∨→↔ ]{1,200}"),
    "puzzle24": _puzzle24,
    "quantum_lock": _package(r"[A-Ca-c](?:(?:\s?(?:,|→|->)\s?|\s)?[A-Ca-c]){0,99}"),
    "rearc": _grid,
    "rectangle_count": _package(r"\d{1,9}"),
    "rubiks_cube": _package(r"[A-Za-z]'?(?:\s+[A-Za-z]'?){0,499}"),
    "rush_hour": _package(r"[A-Z][-+]\d(?:\s+[A-Z][-+]\d){0,299}"),
    "sentence_reordering": _no_case,
    "shortest_path": _package(r"[a-z]+(?:\s+[a-z]+){0,499}"),
    "simple_integration": _integral,
    "sokoban": _package(r"[UDLR]{1,999}"),
    "spell_backward": _no_case,
    "survo": _DIGITS,
    "time_intervals": _package(r"\d{1,6} days?|(?:\d{1,6} days?,\s)?\d{1,3}:\d{2}(?::\d{2}(?:\.\d{1,6})?)?"),
    "tower_of_hanoi": _package(
        r"Move disk \d from Peg \d to Peg \d(?: {0,3}\n{1,2} {0,3}Move disk \d from Peg \d to Peg \d)*"
    ),
    "tsumego": _no_case,
    "word_ladder": _package(r"[A-Za-z]+(?:\s?,\s?[A-Za-z]+){0,99}"),
    "word_sorting": _sorted_words,
    "zebra_puzzles": _no_case,
}

# Datasets whose every answer must be the given one.
_NAMES = """
    ab acre aiw arc_1d base_conversion basic_arithmetic bf binary_alternation binary_matrix
    caesar_cipher circuit_logic count_bits count_primes course_schedule emoji_mystery futoshiki
    game_of_life_halting gcd isomorphic_strings largest_island lcm leg_counting letter_counting
    list_functions mahjong_puzzle maze mini_sudoku modulo_grid number_filtering number_sequence
    ransom_note rotate_matrix rotten_oranges self_reference simple_equations simple_geometry
    spiral_matrix string_insertion string_manipulation string_splitting string_synthesis sudoku
    syllogism word_sequence_reversal
"""
EXACT = frozenset(_NAMES.split())
DATASETS = tuple(sorted(EXACT | RULES.keys()))
