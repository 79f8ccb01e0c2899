"""reasoning-gym's datasets: every one works, and none gives credit for what is not the answer."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from typing import Any

import gymnasium
import pytest

import envs.reasoning  # noqa: F401  registers the ids
from envs.reasoning.gym_scoring import DATASETS, EXACT, RULES, Package
from envs.reasoning.problem import MARKER, Problem, make_problem
from envs.reasoning.tasks import make_task
from envs.reasoning.text import CHARSET

factory = pytest.importorskip("reasoning_gym.factory")

SLOW = {"futoshiki", "intermediate_integration", "knight_swap", "sokoban", "zebra_puzzles"}  # to generate
WITHOUT_GOLD = {"boxnet", "rush_hour"}


def example(dataset: str, seed: int = 0, **options: Any) -> tuple[Any, Problem]:
    task = make_task("reasoning_gym", dataset=dataset, **options)
    return task, make_problem(task, seed, 0, "all")


def test_table_covers_the_package() -> None:
    assert set(DATASETS) == set(factory.DATASETS) - {"composite"}  # composite mixes others, it has no problems
    assert not EXACT & RULES.keys()
    assert all(f"reasoning_gym/{name}-v0" in gymnasium.registry for name in DATASETS)


@pytest.mark.parametrize("dataset", DATASETS)
def test_gold_passes_and_padding_does_not(dataset: str) -> None:
    for seed in range(1 if dataset in SLOW else 4):
        task, problem = example(dataset, seed)
        assert example(dataset, seed)[1].question == problem.question
        assert CHARSET.issuperset(problem.question + problem.answer)
        assert len(problem.question) < 1 << 16
        if dataset in WITHOUT_GOLD:
            assert task.demonstration(problem) == ""
            continue
        padded = [
            f"{problem.answer} and more", f"I say {problem.answer}", f"{problem.answer}\njunk",
            f"# {problem.answer}", f"{problem.answer} # junk", f"{problem.answer}, junk",
            f"({problem.answer}) or ({problem.answer})", "NaN",
            "[NaN]", "inf", "...", "", "[]", "{}", "No answer", "0 or 1",
        ]  # fmt: skip
        responses = [task.demonstration(problem), *(f"{MARKER} {text}" for text in padded)]
        verdicts = task.verify_many([problem] * len(responses), responses)
        credited = [v.extracted for v in verdicts[1:] if v.correct and v.extracted != problem.answer]
        assert verdicts[0].correct
        assert not credited


# What the package's own scorers give full marks to, dataset by dataset.
FOOLED: list[tuple[str, Any]] = [
    ("word_sorting", lambda p: p.answer + ", zebra"),
    ("game_of_life_halting", lambda p: "perhaps"),
    ("coin_flip", lambda p: p.answer[:1]),
    ("number_sorting", lambda p: json.dumps([float("nan")] * len(json.loads(p.answer.replace("'", '"'))))),
    ("gsm_symbolic", lambda p: f"{p.answer} or 12"),
    ("gsm_symbolic", lambda p: f"-{p.answer}"),
    ("puzzle24", lambda p: "6*4*1*1"),
    ("game_of_life", lambda p: p.answer[:-1] + ",[1,1,1]]"),
    ("sokoban", lambda p: f"the moves are {p.answer}"),
    ("knights_knaves", lambda p: f"maybe {p.answer}"),
    ("quantum_lock", lambda p: "x".join(p.answer)),
]


@pytest.mark.parametrize(("dataset", "cheat"), FOOLED)
def test_known_loopholes_are_closed(dataset: str, cheat: Any) -> None:
    scorer = factory.create_dataset(dataset, seed=0)
    fooled = False
    for seed in range(6 if dataset not in SLOW else 2):
        task, problem = example(dataset, seed)
        answer = cheat(problem)
        fooled |= scorer.score_answer(answer, problem.data[1]) >= 0.99
        if task.verify(problem, f"{MARKER} {problem.answer}").extracted != answer:
            assert not task.verify(problem, f"{MARKER} {answer}").correct
    assert fooled  # else the package has mended its scorer, and this row can go


def test_other_right_answers_are_accepted() -> None:
    cases: dict[str, Any] = {
        "countdown": lambda text: f"({text}) * 1".replace(" * 1", ""),
        "chain_sum": lambda text: f"{text}.0",
        "group_anagrams": lambda text: json.dumps([group[::-1] for group in json.loads(text)][::-1]),
        "prime_factorization": lambda text: " × ".join(reversed(text.split(" × "))),
        "cryptarithm": lambda text: ",".join(reversed(text.split(","))),
        "simple_integration": lambda text: f"7 + {text}",
        "polynomial_multiplication": lambda text: f"0*x + {text}",
        "knights_knaves": lambda text: " and ".join(reversed(text.removesuffix(".").replace(", and", ",").split(", "))),
        "bitwise_arithmetic": lambda text: str(int(text, 16)),
        "shortest_path": lambda text: f" {text} ",
        "codeio": lambda text: json.dumps(json.loads(text), indent=1),
    }
    for dataset, rewrite in cases.items():
        for seed in range(3):
            task, problem = example(dataset, seed)
            answer = rewrite(problem.answer)
            verdict = task.verify(problem, f"{MARKER} {answer}")
            assert verdict.correct, (dataset, answer, verdict)


@pytest.mark.parametrize("dataset", ["countdown", "puzzle24", "simple_integration", "spiral_matrix", "n_queens"])
def test_answers_are_never_run(dataset: str, tmp_path: Any) -> None:
    task, problem = example(dataset)
    target = tmp_path / "pwned"
    code = f"[open({str(target)!r}, 'w').close()]"
    for text in (code, f"__import__('pathlib').Path({str(target)!r}).touch()", "9**9**9**9"):
        assert not task.verify(problem, f"{MARKER} {text}").correct
    assert not target.exists()


@pytest.mark.parametrize("dataset", [name for name, rule in RULES.items() if isinstance(rule, Package)])
def test_patterns_do_not_backtrack_for_ever(dataset: str) -> None:
    pattern = RULES[dataset].pattern  # type: ignore[union-attr]
    units = [
        "1",
        "1 ",
        "A",
        "A ",
        "a ",
        " ",
        "\n",
        "{",
        "[",
        "-",
        "1, ",
        "A=1,",
        '"1":1,',
        "A → ",
        "A+1 ",
        "1 × ",
        "1/",
    ]
    units += ["a is a b and ", "Move disk 1 from Peg 1 to Peg 1\n", " \n", "(1,", "1 days, ", "1:11", r"\frac{1"]
    for unit in units:
        for start in ("", "{", "[", "A", "1"):
            assert not pattern.fullmatch((start + unit * 4096)[:4095] + "!")


def test_puzzle24_wants_the_given_numbers() -> None:
    task, problem = example("puzzle24")
    difficulty, entry = problem.data
    entry = {**entry, "metadata": {**entry["metadata"], "numbers": [4, 6, 1, 1]}}
    problem = replace(problem, data=(difficulty, entry))
    assert task.verify(problem, f"{MARKER} (4*6)*1/1").correct
    for wrong in ("4*6", "8*3*1*1", "4*6*1*1*1", "4*6+1/1"):
        assert not task.verify(problem, f"{MARKER} {wrong}").correct


def test_difficulty_is_the_curriculum() -> None:
    env = gymnasium.make("reasoning_gym/chain_sum-v0", split="all")
    lo, hi = env.unwrapped.levels  # type: ignore[attr-defined]
    assert lo == 0
    lengths = [
        sum(len(env.reset(seed=seed, options={"difficulty": level})[0]) for seed in range(20)) for level in (1, hi)
    ]
    assert lengths[0] < lengths[1]
    assert make_task("reasoning_gym", dataset="knight_swap").levels == (
        0,
        0,
    )  # the package's levels are invalid


def test_config_reaches_the_dataset() -> None:
    task = make_task("reasoning_gym", dataset="chain_sum", config={"min_terms": 7, "max_terms": 7})
    for seed in range(5):
        assert make_problem(task, seed, 0, "train").question.split("\n")[0].count(" ") >= 12
    with pytest.raises(ValueError, match="chain_sum has no setting 'terms'"):
        make_task("reasoning_gym", dataset="chain_sum", config={"terms": 7})
    with pytest.raises(ValueError, match="no dataset 'nonsense'"):
        make_task("reasoning_gym", dataset="nonsense")


def test_vector_environment_and_split() -> None:
    seen: dict[str, set[str]] = {}
    for split in ("train", "eval"):
        env = gymnasium.make_vec("reasoning_gym/leg_counting-v0", num_envs=4, split=split)
        seen[split] = set()
        for _ in range(10):
            observations, infos = env.reset()
            seen[split] |= set(observations)
            _, rewards, *_ = env.step(list(infos["demonstration"]))
            assert rewards.all()
    assert not seen["train"] & seen["eval"]


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "rl-suite\[reasoning\]"'):
        gymnasium.make("reasoning_gym/sudoku-v0")
