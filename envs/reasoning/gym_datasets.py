"""Every dataset of the reasoning-gym package as a task. Scoring is strict: see `gym_scoring`.

The package is imported when the first such environment is made. Its items are pure functions of dataset seed
and index; instance seeds map to indices.
"""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Any, ClassVar, Literal

from envs.reasoning.arithmetic import finish
from envs.reasoning.gym_scoring import RULES, Package, exact
from envs.reasoning.pool import Call, shared_pool
from envs.reasoning.problem import CHAT_FORMAT, Problem, Task, Verdict, extract_answer

MAX_INDEX = 1 << 31
# These lay out their items on construction: instance = a small dataset of its own.
_PRECOMPUTED = frozenset({"acre", "gsm_symbolic", "list_functions"})


@dataclass(frozen=True)
class GymDataset(Task):
    """One dataset. Difficulty 0 is the package's default configuration, 1, 2, ... the levels of its
    curriculum.

    `config` sets fields of the dataset's configuration on top of either.
    """

    name: ClassVar[str] = "reasoning_gym"
    dataset: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    style: Literal["chat", "plain"] = "chat"
    time_limit: float = 2.0

    def __post_init__(self) -> None:
        if importlib.util.find_spec("reasoning_gym") is None:
            raise ModuleNotFoundError(
                f'reasoning_gym/{self.dataset}-v0 needs the reasoning-gym package: pip install "rl-suite[reasoning]"'
            )
        object.__setattr__(self, "name", f"reasoning_gym/{self.dataset}")
        object.__setattr__(self, "config", dict(self.config))
        _check_settings(self.dataset, self.config)
        object.__setattr__(self, "levels", (0, _count_levels(self.dataset)))
        object.__setattr__(self, "default_difficulty", 0)

    def generate(self, rng: Random, difficulty: int) -> Problem:
        settings = tuple(self.config.items())
        index = rng.randrange(MAX_INDEX)
        try:
            if self.dataset in _PRECOMPUTED:
                entry = _build(self.dataset, difficulty, settings, seed=index, size=10)[0]
            else:
                entry = load_dataset(self.dataset, difficulty, settings)[index]
        except Exception as error:
            raise RuntimeError(
                f"reasoning-gym could not make a {self.dataset} problem at difficulty {difficulty} "
                f"(index {index}): {error}"
            ) from error
        text = entry["question"].strip()
        question = f"{text}\n\n{CHAT_FORMAT}" if self.style == "chat" else text
        return Problem(question, _gold(entry), f"{self.name} {text}", (difficulty, entry))

    def demonstration(self, problem: Problem) -> str:
        return finish("", problem.answer, self.style) if problem.answer else ""

    def verify(self, problem: Problem, response: str) -> Verdict:
        return self.verify_many([problem], [response])[0]

    def verify_many(self, problems: Sequence[Problem], responses: Sequence[str]) -> list[Verdict]:
        answers = [extract_answer(response) for response in responses]
        reasons: list[str] = []
        calls: list[Call] = []
        rule = RULES.get(self.dataset, exact)
        for problem, answer in zip(problems, answers, strict=True):
            difficulty, entry = problem.data
            if exact(answer, entry):
                reasons.append("correct")
            elif not isinstance(rule, Package):
                reasons.append("correct" if rule(answer, entry) else "wrong")
            elif rule.pattern.fullmatch(answer):
                reasons.append("")
                packed = base64.b64encode(pickle.dumps(entry)).decode()
                settings = list(self.config.items())
                calls.append(
                    Call(
                        "envs.reasoning.gym_datasets:prepare_score",
                        (self.dataset, difficulty, settings, packed, answer),
                    )
                )
            else:
                reasons.append("wrong")
        if calls:
            outcomes = iter(shared_pool().run(calls, self.time_limit))
            for i, reason in enumerate(reasons):
                if not reason:
                    outcome = next(outcomes)
                    passed = outcome.status == "ok" and outcome.value == 1.0
                    reasons[i] = "correct" if passed else "wrong" if outcome.status == "ok" else outcome.status
        return [Verdict(reason == "correct", answer, reason) for reason, answer in zip(reasons, answers, strict=True)]


def prepare_score(
    dataset: str, difficulty: int, settings: list[list[Any]], packed: str, answer: str
) -> Callable[[], float]:
    """In a worker: the package's score of an answer. `packed` is our own pickle; the answer is only text."""
    scorer = load_dataset(dataset, difficulty, tuple((name, value) for name, value in settings))
    entry = pickle.loads(base64.b64decode(packed))
    return lambda: float(scorer.score_answer(answer, entry))


def load_dataset(dataset: str, difficulty: int, settings: tuple[tuple[str, Any], ...]) -> Any:
    """The dataset of a difficulty, with seed 0 and room for `MAX_INDEX` items; made once a process."""
    try:
        return _load_cached(dataset, difficulty, settings)
    except TypeError:  # an option that cannot be hashed, such as a list
        return _sized(_build(dataset, difficulty, settings, seed=0, size=500))


@lru_cache(maxsize=256)
def _load_cached(dataset: str, difficulty: int, settings: tuple[tuple[str, Any], ...]) -> Any:
    return _sized(_build(dataset, difficulty, settings, seed=0, size=500))


def _sized(dataset: Any) -> Any:
    dataset.size = MAX_INDEX  # set afterwards, since some configurations refuse a large size
    return dataset


def _build(dataset: str, difficulty: int, settings: tuple[tuple[str, Any], ...], seed: int, size: int) -> Any:
    from reasoning_gym.factory import DATASETS

    make, configure = DATASETS[dataset]
    values: dict[str, Any] = {"seed": seed, "size": size}
    if difficulty > 0:
        level = _level_config(dataset, difficulty, values)
        values = {name: getattr(level, name) for name, field in _fields(level).items() if field.init}
    return make(_valid(configure(**{**values, **dict(settings)})))


def _level_config(dataset: str, difficulty: int, values: dict[str, Any]) -> Any:
    from reasoning_gym.factory import CURRICULA

    curriculum = CURRICULA[dataset]()
    curriculum.set_global_level(difficulty - 1)
    return curriculum.generate_configuration(values)


def _valid(config: Any) -> Any:
    if hasattr(config, "validate"):
        config.validate()
    return config


def _fields(config: Any) -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(config)}


def _count_levels(dataset: str) -> int:
    """Levels of the curriculum up to the first that the package itself refuses (some are invalid)."""
    from reasoning_gym.factory import CURRICULA

    if dataset not in CURRICULA:
        return 0
    count = max(len(attribute.levels) for attribute in CURRICULA[dataset]().attributes.values())
    for level in range(1, count + 1):
        try:
            _valid(_level_config(dataset, level, {"seed": 0, "size": 500}))
        except Exception:
            return level - 1
    return count


def _check_settings(dataset: str, config: Mapping[str, Any]) -> None:
    from reasoning_gym.factory import DATASETS

    if dataset not in DATASETS:
        raise ValueError(f"The installed reasoning-gym has no dataset {dataset!r}.")
    known = _fields(DATASETS[dataset][1]).keys() - {"seed", "size"}
    unknown = sorted(config.keys() - known)
    if unknown:
        raise ValueError(f"{dataset} has no setting {unknown[0]!r}; its config takes {', '.join(sorted(known))}.")


def _gold(entry: dict[str, Any]) -> str:
    """The answer, or the example that some datasets keep in their metadata; "" where there is none."""
    if entry["answer"] is not None:
        return str(entry["answer"]).strip()
    metadata = entry["metadata"]
    example = metadata.get("example_correct_answer") or metadata.get("example_answer")
    if example is None and "possible_answer" in metadata:
        pairs = ", ".join(f'"{vertex}": {color}' for vertex, color in metadata["possible_answer"].items())
        example = f"{{{pairs}}}"
    return str(example or "").strip()
