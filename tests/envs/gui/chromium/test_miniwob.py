"""MiniWoB++'s tasks in a real browser."""

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import envs
from envs.gui.actions import Action, to_space

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def two():
    env = envs.make_vec("chromium/click-test-2-v0", num_envs=2)
    yield env
    env.close()


def evaluate(env, i, expression):
    [value] = env.browser.run([env._pages[i].evaluate(expression)])
    if isinstance(value, BaseException):
        raise value
    return value


def click_on(env, i, selector):
    """A click on the middle of an element."""
    box = evaluate(
        env,
        i,
        f"(b => [b.x + b.width / 2, b.y + b.height / 2])(document.querySelector('{selector}').getBoundingClientRect())",
    )
    width, height = env.setup.site.size
    return to_space(Action("click", point=(box[0] / width, box[1] / height)))


WAIT = to_space(Action("wait"))


def test_an_instance_is_a_function_of_its_seed(two):
    first, infos = two.reset(seed=[3, 4])
    assert infos["seed"].tolist() == [3, 4]
    assert not np.array_equal(*first["screenshot"])
    two.step([to_space(Action("click", point=(0.5, 0.7)))] * 2)
    second, _ = two.reset(seed=[4, 3])
    np.testing.assert_array_equal(second["screenshot"], first["screenshot"][::-1])
    assert second["instruction"] == ("Click button ONE.", "Click button ONE.")


def test_the_first_screenshot_has_the_pictures_of_style_sheets():
    env = envs.make_vec("chromium/click-dialog-v0", num_envs=3)  # the x of a dialog is one
    try:
        first, _ = env.reset(seed=[5, 6, 7])
        again, _ = env.reset(seed=[5, 6, 7])
    finally:
        env.close()
    np.testing.assert_array_equal(first["screenshot"], again["screenshot"])


def test_the_right_button_succeeds_and_the_wrong_one_fails_with_a_last_screenshot(two):
    before, _ = two.reset(seed=[1, 2])
    obs, reward, terminated, truncated, infos = two.step([click_on(two, 0, "#subbtn"), click_on(two, 1, "#subbtn2")])
    assert reward.tolist() == [1.0, 0.0]
    assert terminated.tolist() == [True, True]
    assert not truncated.any()
    assert infos["reason"].tolist() == ["success", "wrong"]
    assert infos["raw_reward"].tolist() == [1.0, -1.0]
    # The page as it was but for the button that was clicked: no black cover.
    for i in range(2):
        assert (obs["screenshot"][i] != before["screenshot"][i]).any(axis=-1).mean() < 0.1
    with pytest.raises(ResetNeeded):
        two.step([WAIT, None])


def test_no_limit_of_time_ends_an_episode_or_scales_its_reward(two):
    two.reset(seed=1)
    for _ in range(4):  # 20 seconds of the page's own time; MiniWoB's limit is 10
        _, _, terminated, truncated, infos = two.step([WAIT, None])
        assert not (terminated | truncated).any()
        assert infos["_success"].tolist() == [True, False]
    _, reward, _, _, infos = two.step([click_on(two, 0, "#subbtn"), None])
    assert (reward[0], infos["raw_reward"][0]) == (1.0, 1.0)


def test_a_masked_reset_leaves_the_others_alone(two):
    before, _ = two.reset(seed=[5, 6])
    after, infos = two.reset(seed=[7, None], options={"reset_mask": np.array([True, False])})
    assert infos["_seed"].tolist() == [True, False]
    np.testing.assert_array_equal(after["screenshot"][1], before["screenshot"][1])
    assert not np.array_equal(after["screenshot"][0], before["screenshot"][0])
    two.step([None, WAIT])  # whose episode goes on


def test_finished_ends_the_episode_and_steps_are_limited():
    env = envs.make_vec("chromium/click-test-v0", num_envs=2, max_steps=2, actions="text")
    try:
        obs, _ = env.reset(seed=0)
        assert env.observation_space.contains(obs)
        _, reward, terminated, truncated, infos = env.step(["finished(content='')", "nonsense"])
        assert (reward[0], terminated.tolist(), truncated.tolist()) == (0.0, [True, False], [False, False])
        assert infos["malformed"][1]
        assert not infos["malformed"][0]
        _, _, terminated, truncated, infos = env.step([None, "wait()"])
        assert (terminated[1], truncated[1], infos["reason"][1]) == (False, True, "step limit")
    finally:
        env.close()


def test_a_state_goes_on_where_it_was_taken(two):
    two.reset(seed=[11, 12])
    two.step([to_space(Action("hotkey", keys="tab")), to_space(Action("click", point=(0.9, 0.9)))])
    state = two.get_state()
    two.step([WAIT, WAIT])
    expected, _ = two.reset()
    two.set_state(state)
    two.step([WAIT, WAIT])
    again, _ = two.reset()
    np.testing.assert_array_equal(again["screenshot"], expected["screenshot"])
    assert again["instruction"] == expected["instruction"]
    for name, array in state.items():
        assert array.dtype != object, name


def test_gymnasium_accepts_the_single_environment():
    env = gymnasium.make("chromium/focus-text-v0", render_mode="rgb_array")
    try:
        check_env(env.unwrapped, skip_render_check=True)
        obs, _ = env.reset(seed=0)
        np.testing.assert_array_equal(env.render(), obs["screenshot"])
    finally:
        env.close()


@pytest.mark.parametrize("task", ["drag-box", "choose-list", "use-autocomplete"])
def test_random_and_malformed_actions_do_no_harm(task):
    env = envs.make_vec(f"chromium/{task}-v0", num_envs=2)
    rng = np.random.default_rng(0)
    env.single_action_space.seed(0)
    malformed = [(99, {}), (0, {}), "click", (0, {"point": [np.nan, 2.0]}), (5, {"text": "é"})]
    try:
        obs, _ = env.reset(seed=0)
        for _ in range(12):
            actions = [
                malformed[rng.integers(len(malformed))] if rng.random() < 0.2 else env.single_action_space.sample()
                for _ in range(2)
            ]
            obs, reward, terminated, truncated, infos = env.step(actions)
            assert env.observation_space.contains(obs)
            assert set(reward) <= {0.0, 1.0}
            assert "crash" not in infos["reason"]
            over = terminated | truncated
            if over.any():
                obs, _ = env.reset(options={"reset_mask": over})
    finally:
        env.close()
