"""The single and the vector environment: Gymnasium's contract, and that both are one and the same."""

from __future__ import annotations

import json
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given
from hypothesis import strategies as st

import envs.reasoning  # noqa: F401  registers the ids
from envs.reasoning import Problem, ReasoningEnv, ReasoningVectorEnv, Verdict
from envs.reasoning.arithmetic import Addition
from envs.reasoning.tasks import OWN
from envs.reasoning.text import CHARSET, REPLACEMENT, TURN, TextSpace, clean, pack_strings, unpack_strings

IDS = [f"reasoning/{task.name}-v0" for task in OWN]


def make(**options: Any) -> ReasoningEnv:
    env = gymnasium.make("reasoning/addition-v0", **options).unwrapped
    assert isinstance(env, ReasoningEnv)
    return env


def make_vec(num_envs: int = 4, **options: Any) -> ReasoningVectorEnv:
    env = gymnasium.make_vec("reasoning/addition-v0", num_envs=num_envs, **options)
    assert isinstance(env, ReasoningVectorEnv)
    return env


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_checks_the_environment(env_id: str) -> None:
    variants: list[dict[str, Any]] = [{}, {"style": "chat", "max_turns": 2}]
    for options in variants:
        env = gymnasium.make(env_id, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(env.unwrapped, skip_render_check=True)


def test_one_episode() -> None:
    env = make(difficulty=2)
    prompt, info = env.reset(seed=3)
    a, b = map(int, prompt.rstrip("=").split("+"))
    assert info["demonstration"] == str(a + b)
    assert (info["seed"], info["difficulty"]) == (3, 2)
    assert info["messages"] == [{"role": "user", "content": prompt}]
    observation, reward, terminated, truncated, info = env.step(str(a + b))
    assert (observation, reward, terminated, truncated) == (f"{prompt}{a + b}\nCorrect.\n", 1.0, True, False)
    assert {name: info[name] for name in ("gold", "extracted", "correct", "verdict")} == {
        "gold": str(a + b), "extracted": str(a + b), "correct": True, "verdict": "correct"
    }  # fmt: skip
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step("1")


def test_several_turns_with_feedback() -> None:
    env = make(difficulty=2, max_turns=3)
    prompt, info = env.reset(seed=1)
    gold = int(info["demonstration"])
    first, reward, terminated, _, info = env.step(str(gold + 1))
    assert (first, reward, terminated) == (f"{prompt}{TURN}{gold + 1}\n{TURN}Too high. Try again.\n", 0.0, False)
    second, _, terminated, _, info = env.step("dunno")
    assert second == f"{first}{TURN}dunno\n{TURN}Wrong. Try again.\n"
    assert not terminated
    assert info["messages"] == [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": str(gold + 1)},
        {"role": "user", "content": "Too high. Try again."},
        {"role": "assistant", "content": "dunno"},
        {"role": "user", "content": "Wrong. Try again."},
    ]
    for last, expected in ((str(gold), 1.0), (str(gold - 1), 0.0)):
        env.reset(seed=1)
        env.step("a")
        env.step("b")
        observation, reward, terminated, truncated, _ = env.step(last)
        assert (reward, terminated, truncated) == (expected, True, False)
        assert observation.endswith(f"{last}\n{TURN}Correct.\n" if expected else f"{last}\n{TURN}Too low.\n")


def test_chat_style_answers_on_a_line_of_its_own() -> None:
    env = make(style="chat", max_turns=2)
    prompt, _ = env.reset(seed=1)
    observation, *_ = env.step("Answer: 1")
    assert observation == f"{prompt}\n{TURN}Answer: 1\n{TURN}Too low. Try again.\n"


def test_reset_without_a_seed_goes_on_and_a_seed_comes_back() -> None:
    env = make()
    first = [env.reset(seed=5)[0], *(env.reset()[0] for _ in range(20))]
    assert len(set(first)) == 21
    assert first == [env.reset(seed=5)[0], *(env.reset()[0] for _ in range(20))]


def test_odd_responses_stay_in_the_space() -> None:
    env = make(max_length=10, max_turns=3)
    env.reset(seed=0)
    observation, _, _, _, info = env.step("\ud800\x00" + "5" * 20)
    assert observation in env.observation_space
    assert (info["verdict"], info["extracted"]) == ("too long", "")
    assert f"{REPLACEMENT}{REPLACEMENT}55555555\n{TURN}Too long. Try again.\n" in observation
    feigned, *_ = env.step(f"1{TURN}2")
    assert feigned.endswith(f"{TURN}1{REPLACEMENT}2\n{TURN}Wrong. Try again.\n")
    assert feigned in env.observation_space
    with pytest.raises(TypeError, match="not int"):
        env.step(7)  # type: ignore[arg-type]


class Broken(Addition):
    """A verifier that fails on some responses."""

    name = "broken"

    def verify(self, problem: Problem, response: str) -> Verdict:
        if response == "boom":
            raise RecursionError
        return super().verify(problem, response)


def test_a_verifier_that_raises_makes_the_response_wrong_and_no_other() -> None:
    env = ReasoningVectorEnv(Broken(), num_envs=3)
    _, infos = env.reset(seed=0)
    good = infos["demonstration"]
    _, rewards, terminated, _, infos = env.step([good[0], "boom", good[2]])
    assert rewards.tolist() == [1.0, 0.0, 1.0]
    assert terminated.all()
    assert infos["verdict"].tolist() == ["correct", "error: RecursionError", "correct"]


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("max_turns", [1, 3])
def test_vector_environment_equals_single_ones(env_id: str, max_turns: int) -> None:
    num_envs, rng = 5, np.random.default_rng(0)
    options: dict[str, Any] = {"max_turns": max_turns, "difficulty": (2, 4), "split": "eval"}
    singles = [gymnasium.make(env_id, **options).unwrapped for _ in range(num_envs)]
    vector = gymnasium.make_vec(env_id, num_envs=num_envs, **options)
    observations, infos = vector.reset(seed=10)
    results = [single.reset(seed=10 + i) for i, single in enumerate(singles)]
    demonstrations = infos["demonstration"].copy()
    for _ in range(12):
        assert observations == tuple(result[0] for result in results)
        for name in results[0][-1]:
            assert [result[-1][name] for result in results] == list(infos[name])
        actions = [demo if rng.random() < 0.4 else str(rng.integers(100)) for demo in demonstrations]
        observations, rewards, terminated, truncated, infos = vector.step(actions)
        stepped = [single.step(action) for single, action in zip(singles, actions, strict=True)]
        assert observations == tuple(result[0] for result in stepped)
        assert rewards.tolist() == [result[1] for result in stepped]
        assert terminated.tolist() == [result[2] for result in stepped]
        assert not truncated.any()
        for name in stepped[0][-1]:
            assert [result[-1][name] for result in stepped] == list(infos[name])
        while not terminated.all():  # bring everybody to the end, then reset all without a seed
            _, _, ended, _, _ = vector.step([None if over else "?" for over in terminated])
            for single, over in zip(singles, terminated, strict=True):
                if not over:
                    single.step("?")
            terminated |= ended
        observations, infos = vector.reset()
        results = [single.reset() for single in singles]
        demonstrations = infos["demonstration"].copy()


def test_vector_contract() -> None:
    env = make_vec(3)
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    observations, infos = env.reset(seed=[4, 4, 9])
    assert observations in env.observation_space
    assert observations[0] == observations[1] != observations[2]
    assert infos["seed"].tolist() == [4, 4, 9]
    assert infos["_seed"].tolist() == [True] * 3
    assert env.action_space.sample() in env.action_space
    observations, rewards, terminated, truncated, infos = env.step(infos["demonstration"])
    assert observations in env.observation_space
    assert rewards.dtype == np.float64
    assert terminated.dtype == truncated.dtype == infos["correct"].dtype == np.bool_
    with pytest.raises(gymnasium.error.ResetNeeded, match="environment 0"):
        env.step(["1", "1", "1"])


def test_reset_mask_touches_only_its_environments() -> None:
    env = make_vec(4)
    before, _ = env.reset(seed=0)
    mask = np.array([False, True, False, True])
    after, infos = env.reset(seed=[None, 7, None, None], options={"reset_mask": mask})
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True, False]
    assert infos["_seed"].tolist() == mask.tolist()
    assert infos["demonstration"][0] is None
    assert after[1] == make().reset(seed=7)[0]
    single = make()
    single.reset(seed=3)
    assert after[3] == single.reset()[0]


def test_waiting_environments_are_left_alone() -> None:
    env = make_vec(3, max_turns=2)
    before, infos = env.reset(seed=0)
    after, rewards, terminated, _, info = env.step([None, infos["demonstration"][1], None])
    assert (after[0], after[2]) == (before[0], before[2])
    assert rewards.tolist() == [0.0, 1.0, 0.0]
    assert terminated.tolist() == [False, True, False]
    assert info["_correct"].tolist() == [False, True, False]


def test_demonstrations_are_right_answers_where_there_is_a_question() -> None:
    env = make_vec(3, max_turns=2, cot=True)
    assert env.demonstrate() == [None, None, None]
    _, infos = env.reset(seed=0)
    assert env.demonstrate() == list(infos["demonstration"])
    env.step([None, infos["demonstration"][1], "wrong"])
    shown = env.demonstrate()
    assert shown == [infos["demonstration"][0], None, infos["demonstration"][2]]
    _, rewards, *_ = env.step(shown)
    assert rewards.tolist() == [1.0, 0.0, 1.0]
    assert env.demonstrate() == [None, None, None]


def test_difficulty_of_one_reset() -> None:
    env = make_vec(3, difficulty=2)
    _, infos = env.reset(seed=0, options={"difficulty": [1, 4, 6]})
    assert infos["difficulty"].tolist() == [1, 4, 6]
    _, infos = env.reset(options={"difficulty": 5})
    assert infos["difficulty"].tolist() == [5, 5, 5]
    _, infos = env.reset(seed=0, options={"difficulty": (1, 3)})
    assert set(infos["difficulty"]) <= {1, 2, 3}
    assert env.reset()[1]["difficulty"].tolist() == [2, 2, 2]
    assert make(difficulty=2).reset(seed=1, options={"difficulty": 6})[1]["difficulty"] == 6


@pytest.mark.parametrize("max_turns", [1, 3])
def test_state_round_trip_continues_identically(max_turns: int) -> None:
    def run(env: ReasoningVectorEnv, steps: int, log: list[Any]) -> None:
        for t in range(steps):
            actions = ["answer é \U0001f600 \ud800", "12", "7", infos["demonstration"][3]]
            alive = [episode is not None and not episode.done for episode in env._episodes]
            observations, rewards, terminated, _, step_infos = env.step(
                [action if ok else None for action, ok in zip(actions, alive, strict=True)]
            )
            log.append((observations, rewards.tolist(), terminated.tolist(), step_infos["verdict"].tolist()))
            if t % 2:
                mask = np.array([episode is not None and episode.done for episode in env._episodes])
                if mask.any():
                    log.append(env.reset(options={"reset_mask": mask})[0])

    env = make_vec(4, max_turns=max_turns, difficulty=(1, 3))
    _, infos = env.reset(seed=[1, 2, 3, 2**63 - 1])
    run(env, 4, [])
    state = env.get_state()
    assert all(array.dtype in (np.int64, np.uint8) for array in state.values())
    expected: list[Any] = []
    run(env, 12, expected)
    other = make_vec(4, max_turns=max_turns, difficulty=(1, 3))
    other.set_state({name: array.copy() for name, array in state.items()})
    assert all(np.array_equal(array, other.get_state()[name]) for name, array in state.items())
    again: list[Any] = []
    run(other, 12, again)
    assert again == expected
    with pytest.raises(ValueError, match="4 environments; this one has 2"):
        make_vec(2).set_state(state)


def test_state_before_the_first_reset() -> None:
    env = make_vec(2)
    other = make_vec(2)
    other.set_state(env.get_state())
    assert other.observe() == ("", "")
    assert env.reset()[0] == other.reset()[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": 0}, "difficulty is 0; addition has 1 to 20"),
        ({"difficulty": (3, 2)}, "difficulty is"),
        ({"split": "test"}, "split is 'test'"),
        ({"max_turns": 0}, "max_turns"),
        ({"num_envs": 0}, "num_envs is 0"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReasoningVectorEnv("addition", **options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"seed": [1]}, "3 seeds, not 1"),
        ({"options": {"difficulty": [1, 2]}}, "or 3 numbers"),
        ({"options": {"difficulty": 99}}, "difficulty is 99"),
        ({"options": {"reset_mask": [True]}}, "3 booleans"),
        ({"options": {"reset_mask": np.zeros(3, bool)}}, "at least one"),
    ],
)
def test_wrong_resets_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_vec(3).reset(**arguments)


def test_space_is_wide_and_copies_are_cheap() -> None:
    space = TextSpace(100)
    for text in ("", "2 × 3 ≤ √7 → π\n\t", "┌─┐ ✅ \U0001f600", "naïve ü"):
        assert text in space
    for other in ("\x00", "\ud800", "a" * 101, 5, None):
        assert other not in space
    assert space == TextSpace(100) != TextSpace(99)
    assert json.dumps(space.sample())
    first, second = make_vec(2).observation_space.spaces  # type: ignore[attr-defined]
    assert first.character_list is second.character_list
    assert first.sample() != second.sample()


@given(st.lists(st.text(st.characters(), max_size=20)))
def test_packed_strings_come_back(strings: list[str]) -> None:
    packed = pack_strings(strings)
    assert unpack_strings(packed["bytes"], packed["ends"]) == strings


@given(st.text(st.characters(), max_size=50), st.integers(0, 20))
def test_cleaned_text_is_a_member(text: str, max_length: int) -> None:
    cleaned = clean(text, max_length, CHARSET)
    assert len(cleaned) == min(len(text), max_length)
    assert CHARSET.issuperset(cleaned)
    assert CHARSET.issuperset(text) is (clean(text, len(text), CHARSET) == text)
