"""The single and the vector environment: Gymnasium's contract, that both are one and the same, and saved states."""

from __future__ import annotations

import os
import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import envs
from envs.gui import TASKS, GuiEnv, GuiVectorEnv
from envs.gui.viewer import with_pointer
from envs.state import get_state, set_state


def make(task: str = "click-button", **options: Any) -> GuiEnv:
    env = gymnasium.make(f"gui/{task}-v0", **options).unwrapped
    assert isinstance(env, GuiEnv)
    return env


def make_vec(task: str = "mix", num_envs: int = 4, **options: Any) -> GuiVectorEnv:
    env = envs.make_vec(f"gui/{task}-v0", num_envs, **options)
    assert isinstance(env, GuiVectorEnv)
    return env


@pytest.mark.parametrize("task", [*TASKS, "mix"])
def test_gymnasium_checks_the_environment(task: str) -> None:
    for actions in ("typed", "text", "grid", "point"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(make(task, actions=actions, difficulty=(1, 3)), skip_render_check=True)


def test_one_episode() -> None:
    env = make("click-button", difficulty=2)
    observation, info = env.reset(seed=7)
    assert env.observation_space.contains(observation)
    assert observation["screenshot"].shape == (210, 160, 3)
    assert (info["seed"], info["difficulty"], info["task"]) == (7, 2, "click-button")
    seen = observation["screenshot"].copy()
    _, reward, terminated, truncated, info = env.step((0, {"point": [2.0, 0.5]}))
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert info["malformed"] == "the point (2, 0.5) is not on the screen"
    assert (observation["screenshot"] == seen).all()
    action = env.demonstrate()
    _, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info["action"].startswith("click(point='<point>")
    assert (info["success"], info["reason"], info["malformed"]) == (True, "success", "")
    x, y = action[1]["point"]
    assert info["pointer"].tolist() == [int(x * 160), int(y * 210)]
    assert env.demonstrate() is None
    with pytest.raises(ResetNeeded):
        env.step(action)


@pytest.mark.parametrize("actions", ["typed", "text"])
def test_the_vector_environment_is_the_single_one(actions: str) -> None:
    many, seeds = make_vec(num_envs=5, actions=actions, difficulty=(1, 3)), [3, 1, 4, 1, 5]
    assert many.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    ones = [make("mix", actions=actions, difficulty=(1, 3)) for _ in seeds]
    rng = np.random.default_rng(0)
    many.action_space.seed(0)
    observations, infos = many.reset(seed=seeds)
    singles = [env.reset(seed=seed) for env, seed in zip(ones, seeds, strict=True)]
    ended = 0
    for _ in range(60):
        assert many.observation_space.contains(observations)
        for i, (observation, info) in enumerate(singles):
            assert (observations["screenshot"][i] == observation["screenshot"]).all()
            assert observations["instruction"][i] == observation["instruction"]
            for name, value in info.items():
                assert infos[f"_{name}"][i]
                assert np.array_equal(infos[name][i], value)
        if rng.random() < 0.6:
            taken = list(many.demonstrate())
        else:
            taken = list(many.action_space.sample())
        assert many.action_space.contains(tuple(taken))
        observations, rewards, terminated, truncated, infos = many.step(taken)
        singles = []
        for i, env in enumerate(ones):
            observation, reward, *ends, info = env.step(taken[i])
            assert (rewards[i], terminated[i], truncated[i]) == (reward, *ends)
            singles.append((observation, info))
        done = terminated | truncated
        if done.any():
            ended += int(done.sum())
            observations, infos = many.reset(options={"reset_mask": done})
            assert (infos["_seed"] == done).all()
            for i in np.flatnonzero(done):
                singles[i] = ones[i].reset()
            singles = [
                (observation, info) if done[i] else (observation, {}) for i, (observation, info) in enumerate(singles)
            ]
    assert ended > 10


@pytest.mark.parametrize("actions", ["grid", "point"])
def test_small_policies_click(actions: str) -> None:
    env = make_vec("click-button", 8, actions=actions)
    wins = 0
    for seed in range(0, 40, 8):
        env.reset(seed=seed)
        taken = np.stack(env.demonstrate())
        assert env.action_space.contains(taken)
        wins += int(env.step(taken)[1].sum())
    assert wins >= 38  # the middle of the nearest cell may miss a button that is seventeen pixels wide


def test_equal_seeds_are_a_group_and_observations_are_kept() -> None:
    env = make_vec("click-color", 4)
    first, _ = env.reset(seed=[5, 5, 5, 6])
    shots = first["screenshot"].copy()
    assert (shots[0] == shots[1]).all()
    assert (shots[0] != shots[3]).any()
    env.step(env.action_space.sample())
    env.reset(seed=9)
    assert (first["screenshot"] == shots).all()


def test_idle_environments_wait() -> None:
    env = make_vec("click-button", 3)
    before, _ = env.reset(seed=0)
    action = env.demonstrate()[1]
    after, rewards, terminated, _, infos = env.step([None, action, None])
    assert rewards.tolist() == [0.0, 1.0, 0.0]
    assert terminated.tolist() == infos["_success"].tolist() == [False, True, False]
    assert (after["screenshot"][0] == before["screenshot"][0]).all()
    assert [action is None for action in env.demonstrate()] == [False, True, False]
    with pytest.raises(ResetNeeded, match="environment 1"):
        env.step([None, action, None])
    with pytest.raises(ValueError, match="takes 3 actions"):
        env.step([action])


@pytest.mark.parametrize("task", ["mix", "fill-form"])
def test_a_saved_state_goes_on_bit_for_bit(task: str) -> None:
    def act(env: GuiVectorEnv, steps: int) -> list[Any]:
        trace = []
        for k in range(steps):
            taken = env.demonstrate() if k % 3 else env.action_space.sample()
            observations, rewards, terminated, truncated, _ = env.step(taken)
            done = terminated | truncated
            if done.any():
                observations, infos = env.reset(options={"reset_mask": done})
                trace.append(infos["seed"].tolist())
            trace.append((observations["screenshot"].tobytes(), observations["instruction"], rewards.tolist()))
        return trace

    env, other = make_vec(task, difficulty=(1, 3)), make_vec(task, difficulty=(1, 3))
    env.reset(seed=1)
    env.action_space.seed(1)
    act(env, 23)
    state = get_state(env)
    assert state is not None
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "iu" for array in state.values())
    set_state(other, state)
    assert (other.observe()["screenshot"] == env.observe()["screenshot"]).all()
    env.action_space.seed(2)
    other.action_space.seed(2)
    assert act(env, 20) == act(other, 20)
    with pytest.raises(ValueError, match="is that of 4 environments"):
        make_vec(task, 3).set_state(state)


def test_the_state_of_what_has_ended_or_not_begun() -> None:
    env, other = make_vec("click-button", 2), make_vec("click-button", 2)
    other.reset(seed=3)
    set_state(other, get_state(env) or {})
    assert not other.observe()["screenshot"].any()
    env.reset(seed=0)
    env.step([env.demonstrate()[0], None])
    set_state(other, get_state(env) or {})
    assert [action is None for action in other.demonstrate()] == [True, False]


def test_splits_never_meet() -> None:
    for split, lowest, highest in (("train", 0, 2**31), ("eval", 2**31, 2**63)):
        env = make_vec("click-button", 4, split=split)
        single = make(split=split)
        for _ in range(20):
            _, infos = env.reset()
            assert all(lowest <= seed < highest for seed in infos["seed"].tolist())
            assert lowest <= single.reset()[1]["seed"] < highest


def test_difficulties_are_chosen_at_reset() -> None:
    env = make_vec("click-button", 3, difficulty=2)
    assert env.levels == (1, 3)
    assert env.reset(seed=0)[1]["difficulty"].tolist() == [2, 2, 2]
    assert env.reset(options={"difficulty": [1, 3, 2]})[1]["difficulty"].tolist() == [1, 3, 2]
    assert set(env.reset(options={"difficulty": (1, 2)})[1]["difficulty"].tolist()) <= {1, 2}
    assert make().reset(options={"difficulty": 3})[1]["difficulty"] == 3


def test_other_sizes_and_limits() -> None:
    env = make_vec("mix", 3, size=(400, 300), max_steps=2)
    observations, _ = env.reset(seed=0)
    assert observations["screenshot"].shape == (3, 300, 400, 3)
    assert env.observation_space.contains(observations)
    wait = (7, {})
    env.step([wait] * 3)
    assert env.step([wait] * 3)[3].all()


def test_a_mixture_of_some() -> None:
    env = envs.make_vec("gui/mix-v0", 16, task=["click-button", "login"])
    assert set(env.reset(seed=0)[1]["task"]) == {"click-button", "login"}


def test_malformed_text_does_nothing_and_says_why() -> None:
    env = make_vec("click-button", 2, actions="text")
    before, _ = env.reset(seed=0)
    after, _, terminated, _, infos = env.step(["I shall click.", "Action: click(point='<point>5000 1</point>')"])
    assert (after["screenshot"] == before["screenshot"]).all()
    assert not terminated.any()
    assert "there is no call" in infos["malformed"][0]
    assert "outside" in infos["malformed"][1]
    assert infos["action"].tolist() == ["", ""]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"difficulty": 4}, "difficulty is 4"),
        ({"difficulty": (3, 1)}, "difficulty is"),
        ({"size": (80, 80)}, "160 by 210"),
        ({"actions": "mouse"}, "actions is 'mouse'"),
        ({"actions": "text", "coordinates": "polar"}, "coordinates is"),
        ({"platform": "watch"}, "platform is 'watch'"),
        ({"split": "test"}, "split is 'test'"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"task": "click-buton"}, "did you mean click-button"),
        ({"task": []}, "tasks is empty"),
        ({"render_mode": "ansi"}, "render_mode is 'ansi'"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    options = {"task": "click-button", **options}
    for build in (GuiEnv, GuiVectorEnv):
        with pytest.raises(ValueError, match=message):
            build(**options)


@pytest.mark.parametrize(
    "call",
    [
        lambda env: env.reset(seed=-1),
        lambda env: env.reset(seed=2**63),
        lambda env: env.reset(options={"difficulty": 9}),
        lambda env: env.reset(seed=[1, 2, 3]),
        lambda env: env.reset(options={"reset_mask": np.zeros(2, bool)}),
        lambda env: env.reset(options={"difficulty": [1, 2, 3]}),
    ],
)
def test_bad_resets(call: Any) -> None:
    env = make_vec("click-button", 2)
    with pytest.raises(ValueError, match=r"seed|difficulty|reset_mask"):
        call(env)


def test_rendering() -> None:
    env = make("click-button", render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    frame = env.render()
    assert frame is not None
    assert (frame == observation["screenshot"]).all()
    many = make_vec("click-button", 2, render_mode="rgb_array")
    observations, _ = many.reset(seed=0)
    assert (np.stack(many.render()) == observations["screenshot"]).all()
    shown = with_pointer(frame, (80, 100))
    changed = np.argwhere((shown != frame).any(axis=-1))
    assert changed.min(axis=0).tolist() == [100, 80]
    assert (changed.max(axis=0) < (115, 90)).all()


def test_a_window_is_shown_or_refused_in_a_sentence() -> None:
    try:
        import tkinter

        tkinter.Tk().destroy()
    except Exception:
        with pytest.raises(RuntimeError, match=r'render_mode="human" needs tkinter .* "rgb_array"|rgb_array'):
            make("click-button", render_mode="human")
        return
    assert os.environ.get("DISPLAY")
    env = make("click-button", render_mode="human")
    env.reset(seed=0)
    env.step(env.demonstrate())
    env.close()


BROKEN = [
    (99, {}),
    (0, {"point": [np.nan, 0.5]}),
    (0, {"point": [0.5, np.inf]}),
    (0, {}),
    (4, {"keys": -1}),
    (5, {"text": "caf\u00e9"}),
    (5, {"text": "x" * 100}),
    (6, {"point": [0.5, 0.5], "direction": 9}),
    "click",
    3.5,
    (),
    {"type": "click"},
]


@pytest.mark.parametrize("actions", ["typed", "text"])
def test_random_and_broken_actions_leave_observations_in_their_space(actions: str) -> None:
    env = make_vec(num_envs=8, actions=actions, difficulty=(1, 3), platform="mobile")
    env.action_space.seed(0)
    rng = np.random.default_rng(0)
    observations, _ = env.reset(seed=0)
    for _ in range(150):
        taken = list(env.action_space.sample())
        for i in np.flatnonzero(rng.random(8) < 0.2):
            taken[i] = BROKEN[rng.integers(len(BROKEN))]
        observations, rewards, terminated, truncated, infos = env.step(taken)
        assert env.observation_space.contains(observations)
        assert np.isin(rewards, (0.0, 1.0)).all()
        assert ((rewards == 1.0) == infos["success"]).all()
        assert all((text == "") == (why != "") for text, why in zip(infos["action"], infos["malformed"], strict=True))
        done = terminated | truncated
        assert ((infos["reason"] != "") == done).all()
        if done.any():
            env.reset(options={"reset_mask": done})
