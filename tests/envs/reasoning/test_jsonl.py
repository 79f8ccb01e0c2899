"""The user's own file: reading, splitting, and comparing mathematical answers."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from hypothesis import given
from hypothesis import strategies as st

import envs.reasoning  # noqa: F401  registers the ids
from envs.reasoning.mathematics import answers_equal, format_number, parse_answer, parse_number


def write(path: Path, rows: list[Any]) -> str:
    file = path / "questions.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(file)


def test_questions_are_asked_and_judged(tmp_path: Path) -> None:
    rows = [{"question": f"Capital {i}?", "answer": f"City {i}"} for i in range(60)]
    path = write(tmp_path, rows)
    seen: dict[str, set[str]] = {}
    for split in ("train", "eval", "all"):
        env = gymnasium.make_vec("reasoning/jsonl-v0", num_envs=8, path=path, split=split, style="plain")
        seen[split] = set()
        for start in range(0, 800, 8):
            observations, infos = env.reset(seed=start)
            seen[split] |= set(observations)
            _, rewards, *_ = env.step(list(infos["demonstration"]))
            assert rewards.all()
            env.reset(seed=start)
            _, rewards, *_ = env.step(["City", "", "City 1 2", "City 99", "is City 1", "[]", "{}", "0"])
            assert not rewards.any()
    assert not seen["train"] & seen["eval"]
    assert seen["train"] | seen["eval"] == seen["all"] == {row["question"] for row in rows}


def test_demonstration_difficulty_and_other_scripts(tmp_path: Path) -> None:
    rows = [
        {"question": "二加二?", "answer": 4, "demonstration": "2+2=4\nAnswer: 4", "difficulty": 1},
        {"question": "二加三?", "answer": "5", "difficulty": 7},
    ]
    env = gymnasium.make("reasoning/jsonl-v0", path=write(tmp_path, rows), split="all", difficulty=1)
    observation, info = env.reset(seed=0)
    assert observation in env.observation_space
    assert observation.startswith("二加二?\n")
    assert info["demonstration"] == "2+2=4\nAnswer: 4"
    assert env.step(info["demonstration"])[1] == 1.0
    assert env.unwrapped.levels == (1, 7)  # type: ignore[attr-defined]
    assert env.reset(options={"difficulty": 7})[1]["demonstration"] == "Answer: 5"
    with pytest.raises(ValueError, match=r"has difficulties \[1, 7\], not 3"):
        env.reset(options={"difficulty": 3})


def test_bad_lines_are_named(tmp_path: Path) -> None:
    good = {"question": "q", "answer": "a"}
    rows = [
        good, "{", "[1]", "", {"question": "q"}, {"question": "", "answer": "a"},
        {"question": "q", "answer": ["a"]},
        {**good, "difficulty": "hard"}, {**good, "demonstration": 3},
        '{"question": "\\ud800", "answer": "a"}',
        "[" * 100_000,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="bad line") as caught:
        gymnasium.make("reasoning/jsonl-v0", path=write(tmp_path, rows))
    assert str(caught.value).endswith(
        "questions.jsonl has 9 bad line(s): line 2: not valid JSON; line 3: not a JSON object; "
        'line 5: no "answer"; line 6: "question" is not a text; line 7: "answer" is not a text (and 4 more).'
    )


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no problems"):
        gymnasium.make("reasoning/jsonl-v0", path=write(tmp_path, [""]))
    with pytest.raises(ValueError, match=r'needs path="\.\.\."'):
        gymnasium.make("reasoning/jsonl-v0")
    with pytest.raises(FileNotFoundError):
        gymnasium.make("reasoning/jsonl-v0", path=str(tmp_path / "none.jsonl"))
    (tmp_path / "latin").write_bytes(b'{"question": "\xe9", "answer": "a"}')
    with pytest.raises(ValueError, match="line 1: not utf-8"):
        gymnasium.make("reasoning/jsonl-v0", path=str(tmp_path / "latin"))
    (tmp_path / "bom").write_bytes(b'\xef\xbb\xbf{"question": "q", "answer": "a"}')
    assert gymnasium.make("reasoning/jsonl-v0", path=str(tmp_path / "bom"), split="all").reset(seed=0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("-3", -3), ("1/2", Fraction(1, 2)), ("0.5", Fraction(1, 2)), (".5", Fraction(1, 2)),
        ("1,234.5", 1234.5),
        (r"\frac{1}{2}", Fraction(1, 2)), (r"\dfrac12", Fraction(1, 2)), (r"-\frac{1}{2}", Fraction(-1, 2)),
        ("$3$", 3), (r"\boxed{3}", 3), (r"$\boxed{-3}$", -3), (r"\boxed{$3$}", 3), ("24/6", 4),
        ("", None), ("1/0", None), (r"\frac{1}{0}", None), ("1e3", None), ("nan", None), ("٣", None),
        ("1 2", None),
        ("12,34", None), ("1_0", None), ("--1", None), ("3.", None), ("9" * 400, None), ("3 apples", None),
        ("$$", None),
    ],
)  # fmt: skip
def test_numbers(text: str, value: Fraction | None) -> None:
    assert parse_number(text) == value


def test_answers_must_be_in_lowest_terms() -> None:
    assert [parse_answer(text) for text in ("24/6", "2/4", "3/1", r"\frac{2}{4}", "1/2", "4", "x = 1/2")] == [
        None, None, None, None, Fraction(1, 2), 4, Fraction(1, 2)
    ]  # fmt: skip


@given(st.fractions(max_denominator=10**6))
def test_formatted_numbers_come_back(value: Fraction) -> None:
    assert parse_answer(format_number(value)) == value


@given(st.text(max_size=40))
def test_a_numeric_gold_takes_nothing_but_its_value(text: str) -> None:
    (outcome,) = answers_equal([("5/8", text)], time_limit=0.0)  # decided without a worker
    assert outcome == ("correct" if parse_answer(text) == Fraction(5, 8) else "wrong")


def test_formulas_go_to_math_verify() -> None:
    pytest.importorskip("math_verify")
    correct = [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"), ("x^2+1", "$1+x^2$"), (r"\{1,2\}", r"\{2,1\}"),
        (r"(1,2)", "(1, 2)"), ("x=3", "3"), (r"2\pi", r"\pi \cdot 2"),
    ]  # fmt: skip
    wrong = [
        (r"\frac{\sqrt{2}}{2}", r"\sqrt{2}"), ("x^2+1", "x^2+2"), ("x^2+1", "x^2+1 or so"),
        ("Paris", "sirPa"),
        (r"x^2+1", r"x^2+1 \text{ junk}"), ("3+2", "5 apples"), (r"2\pi", "6.283185"), ("5", "3+2"),
        ("10", "2*5"),
        (r"2\pi", "__import__('os').system('touch pwned')"), ("x^2", "$x^2$ or $x^3$"), (r"2\pi", ""),
    ]  # fmt: skip
    assert answers_equal(correct, time_limit=20.0) == ["correct"] * len(correct)
    assert answers_equal(wrong, time_limit=20.0) == ["wrong"] * len(wrong)


def test_a_formula_that_never_ends_is_wrong(tmp_path: Path) -> None:
    pytest.importorskip("math_verify")
    env = gymnasium.make_vec(
        "reasoning/jsonl-v0", num_envs=2, split="all", time_limit=0.3,
        path=write(tmp_path, [{"question": "q", "answer": r"2\pi"}]),
    )  # fmt: skip
    env.reset(seed=0)
    answers_equal([(r"2\pi", r"\pi \cdot 2")], time_limit=30.0)  # a worker with its imports done
    _, rewards, terminated, _, infos = env.step([r"Answer: 9^{9^{9^{9^{9}}}}", r"Answer: 2\pi"])
    assert rewards.tolist() == [0.0, 1.0]
    assert terminated.all()
    assert infos["verdict"].tolist() == ["timeout", "correct"]
