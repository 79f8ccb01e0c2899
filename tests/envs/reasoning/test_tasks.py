"""Own task families: gold and demonstration pass, junk does not, instances are pure, splits disjoint."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.reasoning.problem import (
    EVAL_SHARE,
    MARKER,
    extract_answer,
    in_eval_split,
    make_problem,
    pick_difficulty,
)
from envs.reasoning.tasks import OWN, make_task
from envs.reasoning.text import CHARSET

NAMES = [task.name for task in OWN]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {"style": style, "cot": cot}) for name in NAMES for style in ("plain", "chat") for cot in (False, True)),
    ("addition", {"order": "reversed"}),
    ("addition", {"order": "reversed", "cot": True, "style": "chat"}),
    ("addition", {"cot": True, "rechecks": 3}),
]


def problems(task: Any, count: int, difficulty: int, split: Any = "train") -> list[Any]:
    return [make_problem(task, seed, difficulty, split) for seed in range(count)]


@pytest.mark.parametrize(("name", "options"), VARIANTS)
def test_gold_and_demonstration_pass_and_neighbours_do_not(name: str, options: dict[str, Any]) -> None:
    task = make_task(name, **options)
    for difficulty in sorted({*task.levels, task.default_difficulty}):
        for problem in problems(task, 60, difficulty):
            demonstration = task.demonstration(problem)
            assert extract_answer(demonstration) == problem.answer
            for response in (
                demonstration,
                problem.answer,
                f" {problem.answer}\n",
                f"so... {MARKER} {problem.answer}",
            ):
                assert task.verify(problem, response) == replace(
                    task.verify(problem, response), correct=True, extracted=problem.answer, reason="correct"
                )
            for response in (
                "",
                f"{problem.answer} {problem.answer}",
                f"it is {problem.answer}",
                f"{problem.answer}.",
                f"{MARKER} {problem.answer} or so",
                f"{MARKER} {problem.answer}\n{MARKER}",
                f"{MARKER} {problem.answer}\n{MARKER} 0{problem.answer}",
            ):
                assert not task.verify(problem, response).correct, response
            assert CHARSET.issuperset(problem.question + demonstration)


@pytest.mark.parametrize("name", NAMES)
def test_chain_of_thought_is_longer_and_optional(name: str) -> None:
    short, long = make_task(name, cot=False), make_task(name, cot=True)
    for problem in problems(long, 50, long.default_difficulty):
        assert len(long.demonstration(problem)) > len(short.demonstration(problem))
        assert short.verify(problem, long.demonstration(problem)).correct


@pytest.mark.parametrize("name", NAMES)
def test_an_instance_is_a_function_of_its_seed(name: str) -> None:
    first, second = make_task(name), make_task(name)
    difficulty = first.default_difficulty
    forward = [make_problem(first, seed, difficulty, "train") for seed in range(100)]
    backward = [make_problem(second, seed, difficulty, "train") for seed in reversed(range(100))]
    assert forward == backward[::-1]
    assert len({problem.question for problem in forward}) > 60


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("style", ["plain", "chat"])
def test_training_and_evaluation_share_no_content(name: str, style: str) -> None:
    task = make_task(name, style=style)
    for difficulty in (task.levels[0], task.default_difficulty):
        train = {problem.key for problem in problems(task, 400, difficulty, "train")}
        held_out = {problem.key for problem in problems(task, 200, difficulty, "eval")}
        assert train
        assert held_out
        assert not train & held_out


def test_split_ignores_wording_and_order_of_operands() -> None:
    plain, chat = make_task("addition"), make_task("addition", style="chat", order="reversed")
    keys = {}
    for seed in range(2000):
        for task in (plain, chat):
            problem = task.generate(Random(seed), 1)
            keys[frozenset(problem.data)] = problem.key
    assert len(keys) == len(set(keys.values())) == 55  # unordered pairs of digits
    assert 0 < sum(map(in_eval_split, keys.values())) < 55


def test_share_of_evaluation_problems() -> None:
    task = make_task("addition")
    share = sum(in_eval_split(task.generate(Random(seed), 6).key) for seed in range(4000)) / 4000
    assert share == pytest.approx(1 / EVAL_SHARE, abs=4 * (EVAL_SHARE * 4000) ** -0.5)


def test_a_split_without_problems_is_refused() -> None:
    class One(type(make_task("string_reversal"))):  # type: ignore[misc]
        def generate(self, rng: Random, difficulty: int) -> Any:
            return replace(super().generate(Random(0), difficulty))

    held_out = in_eval_split(One().generate(Random(1), 3).key)
    assert make_problem(One(), 0, 3, "all") == make_problem(One(), 0, 3, "eval" if held_out else "train")
    with pytest.raises(ValueError, match=r"too few different problems.*split=\"all\""):
        make_problem(One(), 0, 3, "train" if held_out else "eval")


def test_rechecked_columns_come_from_one_to_all_times_and_change_nothing_else() -> None:
    plain, verbose = make_task("addition", cot=True), make_task("addition", cot=True, rechecks=2)
    counts = set()
    for problem in problems(plain, 200, 3):
        columns = verbose.demonstration(problem).split("\n")[0].split(" ")
        kept = [column for i, column in enumerate(columns) if column not in columns[:i]]
        # Different columns may look alike; then the thoughts are compared as sets.
        assert set(kept) == set(plain.demonstration(problem).split("\n")[0].split(" "))
        assert verbose.demonstration(problem) == verbose.demonstration(problem)
        counts |= {columns.count(column) for column in columns}
    assert {1, 2, 3} <= counts


def test_addition_digits_and_carries() -> None:
    task = make_task("addition", cot=True)
    problem = replace(make_problem(task, 0, 3, "train"), question="957+68=", answer="1025", data=(957, 68))
    assert task.demonstration(problem) == f"7+8+0=15 5+6+1=12 9+0+1=10\n{MARKER} 1025"
    backwards = make_task("addition", order="reversed")
    assert backwards.demonstration(replace(problem, answer="5201")) == "5201"
    for difficulty in (1, 2, 5):
        sizes = {len(str(max(problem.data))) for problem in problems(task, 200, difficulty)}
        assert sizes == {difficulty}


def test_reasons_point_the_way() -> None:
    task = make_task("addition")
    problem = replace(make_problem(task, 0, 2, "train"), answer="46")
    reasons = {text: task.verify(problem, text).reason for text in ("45", "47", "046", "x", "-46", "4" * 50)}
    assert reasons == {
        "45": "too low", "47": "too high", "046": "wrong", "x": "wrong", "-46": "too low", "4" * 50: "wrong"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "correct"),
    [
        ("-7/2", True), ("-3.5", True), ("x=-7/2", True), ("x = -3.5", True), (r"-\frac{7}{2}", True),
        (r"$\boxed{-7/2}$", True), (r"\frac{-7}{2}", True), ("-14/4", False), ("7/2", False),
        ("y=-7/2 or so", False),
        ("-7/0", False), ("-7//2", False), ("7/-2", False), ("x==-7/2", False), ("-3.5000000001", False),
    ],
)  # fmt: skip
def test_linear_equations_take_any_form_of_the_number(text: str, correct: bool) -> None:
    task = make_task("linear_equation")
    problem = replace(make_problem(task, 0, 4, "train"), answer="-7/2")
    assert task.verify(problem, text).correct is correct


def test_linear_equations_are_solved() -> None:
    task = make_task("linear_equation")
    for difficulty in range(task.levels[0], task.levels[1] + 1):
        for problem in problems(task, 50, difficulty):
            a, b, c, d = problem.data
            x = eval(problem.answer.replace("/", "*1.0/"))
            assert a * x + b == pytest.approx(c * x + d)
            assert difficulty > 3 or "/" not in problem.answer


@pytest.mark.parametrize(
    ("expression", "reason"),
    [
        ("(25-3)*2", "correct"), ("2 * (25 - 3)", "correct"), ("2×(25−3)", "correct"), ("25-3", "equals 22"),
        ("44", "uses 44, which is not left"), ("(25-3)*2+3-3", "uses 3, which is not left"),
        ("25/(3-3)", "uses 3, which is not left"), ("(25-3)*2=44", "no valid expression: not an expression"),
        ("2*-3", "no valid expression: unexpected '-'"), ("(25-3)*2)", "no valid expression: unexpected ')'"),
    ],
)  # fmt: skip
def test_countdown_rules(expression: str, reason: str) -> None:
    task = make_task("countdown")
    problem = replace(make_problem(task, 0, 2, "train"), data=((25, 3, 2), 44, ()))
    assert task.verify(problem, expression).reason == reason


def test_countdown_draws_are_fair() -> None:
    task = make_task("countdown")
    for problem in problems(task, 300, 4):
        numbers, target, steps = problem.data
        assert target not in numbers
        assert 0 < target <= 999
        assert len(steps) == len(numbers) - 1 == 4


def test_difficulty_of_a_range_is_uniform_and_fixed_by_the_seed() -> None:
    drawn = [pick_difficulty(seed, 2, 4) for seed in range(3000)]
    assert drawn == [pick_difficulty(seed, 2, 4) for seed in range(3000)]
    assert all(drawn.count(level) == pytest.approx(1000, abs=120) for level in (2, 3, 4))
    assert pick_difficulty(2**63 - 1, 5, 5) == 5


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None)
@given(response=st.one_of(st.text(max_size=80), st.text("0123456789+-*/()=x. \nAnswer:", max_size=60)))
def test_no_text_crashes_a_verifier_or_is_credited_by_accident(name: str, response: str) -> None:
    task = make_task(name)
    problem = make_problem(task, 7, task.default_difficulty, "train")
    verdict = task.verify(problem, response)
    if verdict.correct and name not in ("countdown", "linear_equation"):
        assert verdict.extracted == problem.answer
    if not verdict.correct:
        assert verdict.reason != "correct"


@pytest.mark.parametrize("name", NAMES)
def test_long_repetitions_are_judged_at_once(name: str) -> None:
    task = make_task(name)
    problem = make_problem(task, 7, task.default_difficulty, "train")
    for unit in ("9", "(", "1+", "9*", "-", "x=", "1/", r"\frac{9", "$", r"\boxed{", " ", MARKER, "9**", "((1+1)*"):
        assert not task.verify(problem, unit * (4096 // len(unit))).correct


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("addition", {"carries": True}, "addition has no option 'carries'; it takes style, order, cot"),
        ("addition", {"order": "up"}, "order is 'up'; it must be one of 'normal', 'reversed'"),
        ("subtraction", {}, "There is no task 'subtraction'"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(name, **options)
