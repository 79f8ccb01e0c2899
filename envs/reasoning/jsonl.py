"""The user's own questions and answers: one JSON object a line with "question" and "answer", optionally
"demonstration" (a response that ends in the answer) and "difficulty" (a whole number from 0).

Answers are compared by `mathematics.answers_equal`. Lines with the same question (up to white space) are one
problem.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, ClassVar, Literal

from envs.reasoning.arithmetic import finish
from envs.reasoning.mathematics import answers_equal
from envs.reasoning.problem import CHAT_FORMAT, Problem, Task, Verdict, extract_answer
from envs.reasoning.text import CHARSET

MAX_QUESTION = 1 << 16
_SHOWN = 5


@dataclass(frozen=True)
class JsonLines(Task):
    """Problems from `path`. style "chat" adds the answer format to each question, "plain" leaves it alone."""

    name: ClassVar[str] = "jsonl"
    path: str = ""
    style: Literal["chat", "plain"] = "chat"
    time_limit: float = 2.0
    rows: tuple[dict[str, Any], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError('reasoning/jsonl-v0 needs path="...", a file with one {"question", "answer"} a line.')
        object.__setattr__(self, "rows", read_jsonl(self.path))
        difficulties = [row["difficulty"] for row in self.rows]
        object.__setattr__(self, "levels", (min(difficulties), max(difficulties)))
        object.__setattr__(self, "default_difficulty", min(difficulties))

    @cached_property
    def _by_difficulty(self) -> dict[int, list[dict[str, Any]]]:
        groups: dict[int, list[dict[str, Any]]] = {}
        for row in self.rows:
            groups.setdefault(row["difficulty"], []).append(row)
        return groups

    def characters(self) -> frozenset[str]:
        return frozenset("".join(row["question"] for row in self.rows)) - CHARSET

    def generate(self, rng: Random, difficulty: int) -> Problem:
        rows = self._by_difficulty.get(difficulty)
        if rows is None:
            raise ValueError(f"{self.path} has difficulties {sorted(self._by_difficulty)}, not {difficulty}.")
        row = rows[rng.randrange(len(rows))]
        question = f"{row['question']}\n{CHAT_FORMAT}" if self.style == "chat" else row["question"]
        return Problem(question, row["answer"], "jsonl " + " ".join(row["question"].split()), row["demonstration"])

    def demonstration(self, problem: Problem) -> str:
        return problem.data or finish("", problem.answer, self.style)

    def verify(self, problem: Problem, response: str) -> Verdict:
        return self.verify_many([problem], [response])[0]

    def verify_many(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Verdict]:
        answers = [extract_answer(response) for response in responses]
        pairs = [(problem.answer, answer) for problem, answer in zip(problems, answers, strict=True)]
        outcomes = answers_equal(pairs, self.time_limit)
        return [
            Verdict(outcome == "correct", answer, outcome) for outcome, answer in zip(outcomes, answers, strict=True)
        ]


def read_jsonl(path: str) -> tuple[dict[str, Any], ...]:
    """The file's problems, with "demonstration" and "difficulty" filled in.

    Raises ValueError, with the numbers of the first bad lines and what is wrong with them; FileNotFoundError.
    """
    rows: list[dict[str, Any]] = []
    bad: list[str] = []
    for number, line in enumerate(Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            rows.append(_read_row(line))
        except ValueError as error:
            bad.append(f"line {number}: {error}")
    if bad:
        more = f" (and {len(bad) - _SHOWN} more)" if len(bad) > _SHOWN else ""
        raise ValueError(f"{path} has {len(bad)} bad line(s): {'; '.join(bad[:_SHOWN])}{more}.")
    if not rows:
        raise ValueError(f"{path} holds no problems.")
    return tuple(rows)


def _read_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except UnicodeDecodeError:
        raise ValueError("not utf-8") from None
    except (ValueError, RecursionError):
        raise ValueError("not valid JSON") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    for name in ("question", "answer"):
        if name not in row:
            raise ValueError(f'no "{name}"')
    answer = row["answer"]
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    demonstration, difficulty = row.get("demonstration") or "", row.get("difficulty", 0)
    for name, value in (("question", row["question"]), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f'"{name}" is not a text')
    if not isinstance(demonstration, str):
        raise ValueError('"demonstration" is not a text')
    if isinstance(difficulty, bool) or not isinstance(difficulty, int) or not 0 <= difficulty <= 255:
        raise ValueError('"difficulty" is not a whole number from 0 to 255')
    if len(row["question"]) > MAX_QUESTION - 256:
        raise ValueError(f'"question" is longer than {MAX_QUESTION - 256} characters')
    if any(0xD800 <= ord(char) <= 0xDFFF for char in row["question"] + answer + demonstration):
        raise ValueError("holds half of a surrogate pair")
    return {
        "question": row["question"],
        "answer": answer.strip(),
        "demonstration": demonstration,
        "difficulty": difficulty,
    }
