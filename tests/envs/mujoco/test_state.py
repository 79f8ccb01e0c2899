"""A restored environment continues as the original does, to the last bit, over resets."""

import mujoco
import numpy as np
import pytest
from gymnasium.error import ResetNeeded

import envs
from envs.mujoco import MujocoVectorEnv
from tests.envs.mujoco.ids import IDS


def rollout(env, actions, done=None):
    """Bytes of all that steps and resets return; ended episodes are reset before each step."""
    seen = []
    for action in actions:
        if done is not None and done.any():
            obs, infos = env.reset(options={"reset_mask": done})
            seen += [obs.tobytes(), *(infos[key].tobytes() for key in infos)]
        obs, reward, terminated, truncated, infos = env.step(action)
        seen += [array.tobytes() for array in (obs, reward, terminated, truncated)]
        seen += [infos[key].tobytes() for key in infos]
        done = terminated | truncated
    return seen, done


@pytest.mark.parametrize("id", IDS)
def test_a_restored_environment_continues_bit_for_bit(id):
    options = {"max_episode_steps": 17}
    env, fresh = envs.make_vec(id, 3, **options), envs.make_vec(id, 3, **options)
    space = env.action_space
    actions = np.random.default_rng(0).uniform(space.low, space.high, (60, *space.shape))
    env.reset(seed=3)
    for cut in (4, 17):  # in the midst of episodes, and with episodes that have ended
        _, done = rollout(env, actions[:cut])
        state = {name: array.copy() for name, array in env.get_state().items()}
        expected, _ = rollout(env, actions[20:], done)
        fresh.reset(seed=99)  # what it did before must not matter
        fresh.step(actions[0])
        fresh.set_state(state)
        found, _ = rollout(fresh, actions[20:], done)
        assert found == expected
        # Reading the state changes nothing, and it can be used again.
        fresh.set_state(state)
        for name, array in fresh.get_state().items():
            assert array.tobytes() == state[name].tobytes(), name
        env.reset(seed=5)


def test_the_solvers_warm_start_is_part_of_the_state():
    """Without it the next step differs, so that a test of continuation can tell."""
    env, fresh = (envs.make_vec("Ant-v5", 16) for _ in range(2))
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 16, 8))
    rollout(env, actions)
    fresh.set_state(env.get_state())
    fresh._physics.batch.qacc_warmstart[:] = 0
    assert rollout(fresh, actions[:1])[0] != rollout(env, actions[:1])[0]


def test_a_restored_environment_is_drawn_where_it_is():
    env, fresh = (envs.make_vec("Walker2d-v5", 2) for _ in range(2))
    env.reset(seed=0)
    rollout(env, np.ones((5, 2, 6)))
    fresh.set_state(env.get_state())
    for i in range(2):
        data, restored = (each._physics.get_data(i, mujoco.MjData(each._physics.model)) for each in (env, fresh))
        mujoco.mj_forward(env._physics.model, data)
        assert restored.xpos.tobytes() == data.xpos.tobytes()
        assert restored.geom_xmat.tobytes() == data.geom_xmat.tobytes()


def test_the_state_is_plain_numbers():
    env = envs.make_vec("Ant-v5", 2)
    env.reset(seed=0)
    for name, array in env.get_state().items():
        assert type(array) is np.ndarray, name
        assert array.dtype.kind in "fiub", name
        assert len(array) == 2, name


def test_before_the_first_reset():
    env, fresh = (envs.make_vec("Reacher-v5", 2) for _ in range(2))
    fresh.set_state(env.get_state())
    with pytest.raises(ResetNeeded):
        fresh.step(np.zeros((2, 2)))
    assert fresh.reset()[0].tobytes() == env.reset()[0].tobytes()


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    env = envs.make_vec("Hopper-v5", 2)
    env.reset(seed=0)
    before = env.get_state()
    broken = {name: array for name, array in before.items() if name != "mark"}
    for other in (envs.make_vec("Hopper-v5", 3).get_state(), envs.make_vec("Ant-v5", 2).get_state(), broken):
        with pytest.raises(ValueError, match="does not fit"):
            env.set_state(other)
    for name, array in env.get_state().items():
        assert array.tobytes() == before[name].tobytes()


def test_an_interrupted_step_asks_for_a_reset(monkeypatch):
    env = MujocoVectorEnv("Swimmer-v5", 2)
    env.reset(seed=0)

    def interrupted(ctrl):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(env._physics, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.step(np.zeros((2, 2)))
    with pytest.raises(ResetNeeded):
        env.step(np.zeros((2, 2)))
    env.reset()
    env.step(np.zeros((2, 2)))
