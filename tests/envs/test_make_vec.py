"""make_vec: which vector environment an id gets, and what it refuses."""

import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import ClipAction

import envs
from envs.mujoco import ENTRY_POINTS, MujocoVectorEnv


def test_the_registry_of_tasks_is_gymnasiums():
    registered = {
        spec.entry_point for spec in gym.registry.values() if str(spec.entry_point).startswith("gymnasium.envs.mujoco.")
    }
    assert registered == set(ENTRY_POINTS)


@pytest.mark.parametrize("id", ["HalfCheetah-v4", "CartPole-v1", "Pendulum-v1", "Blackjack-v1"])
def test_autoreset_is_disabled_everywhere(id):
    env = envs.make_vec(id, 3)
    assert isinstance(env, VectorEnv)
    assert env.metadata["autoreset_mode"] == AutoresetMode.DISABLED
    assert env.num_envs == 3
    assert env.spec.id == id
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.close()


def test_the_fast_environment_is_used_unless_another_is_asked_for():
    assert type(envs.make_vec("HalfCheetah-v4")) is MujocoVectorEnv
    assert type(envs.make_vec("HalfCheetah-v4", 2, vectorization_mode="sync")) is SyncVectorEnv
    assert type(envs.make_vec("HalfCheetah-v4", 2, wrappers=[ClipAction])) is SyncVectorEnv


def test_the_users_own_registration_of_a_task():
    entry_point = "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv"
    gym.register("SlowCheetah-v0", entry_point, max_episode_steps=3, kwargs={"frame_skip": 2})
    try:
        env, peer = (
            envs.make_vec("SlowCheetah-v0", 2),
            envs.make_vec("SlowCheetah-v0", 2, vectorization_mode="sync"),
        )
        assert type(env) is MujocoVectorEnv
        env.reset(seed=0)
        peer.reset(seed=0)
        for _ in range(3):
            mine, theirs = (e.step(np.full((2, 6), 0.3, dtype=np.float32)) for e in (env, peer))
            assert [a.tobytes() for a in mine[:4]] == [a.tobytes() for a in theirs[:4]]
        assert mine[3].all()
    finally:
        del gym.registry["SlowCheetah-v0"]


def test_options_reach_gymnasiums_environments():
    env = envs.make_vec("Pendulum-v1", 2, g=3.0, max_episode_steps=2)
    assert env.envs[0].unwrapped.g == 3.0
    env.reset(seed=0)
    env.step(np.zeros((2, 1), dtype=np.float32))
    assert env.step(np.zeros((2, 1), dtype=np.float32))[3].all()


@pytest.mark.parametrize("num_envs", [0, -1, 1.0, True, "2"])
def test_bad_numbers_of_environments(num_envs):
    with pytest.raises(ValueError, match="num_envs must be an integer of at least 1"):
        envs.make_vec("CartPole-v1", num_envs)


@pytest.mark.parametrize(
    ("id", "meant"),
    [
        ("HalfCheeta-v4", "HalfCheetah-v4"),
        ("cartpole-v1", "CartPole-v1"),
        ("Pendulum", "Pendulum-v1"),
        ("Ant-v9", "Ant-v[45]"),
    ],
)
def test_unknown_ids_name_the_nearest(id, meant):
    with pytest.raises(ValueError, match=f"There is no environment '{id}'. Did you mean .*{meant}"):
        envs.make_vec(id)


def test_hopeless_ids_name_none():
    with pytest.raises(ValueError, match=r"There is no environment 'qqqqqqqqqq'\.$"):
        envs.make_vec("qqqqqqqqqq")


def test_nearest():
    names = ["actor-critic", "ddpg", "trpo", "kimi"]
    assert envs.nearest("TROP", names) == ["trpo"]
    assert envs.nearest("ddgp", names)[0] == "ddpg"
    assert envs.nearest("zzzz", names) == []


def test_import_is_light():
    program = (
        "import sys, envs\n"
        "heavy = {'torch', 'transformers', 'PIL', 'mujoco', 'matplotlib'} & set(sys.modules)\n"
        "raise SystemExit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_ids_by_pattern():
    clicks = envs.find_ids("gui/click-*")
    assert "gui/click-button-v0" in clicks
    assert all(id.startswith("gui/click-") for id in clicks)
    assert envs.find_ids("gui/login") == envs.find_ids("gui/login-v0") == ["gui/login-v0"]
    assert envs.find_ids("CartPole-v?") == ["CartPole-v0", "CartPole-v1"]
    assert set(clicks) < set(envs.find_ids("*/*"))
    with pytest.raises(ValueError, match=r"No environment is called 'gui/clik-\*'.*gui/click-"):
        envs.find_ids("gui/clik-*")


def test_text_from_other_processes():
    """Which Gymnasium's shared memory would read but once."""
    env, other = (envs.make_vec("reasoning/addition-v0", 2, vectorization_mode=mode) for mode in ("sync", "async"))
    assert other.reset(seed=3)[0] == env.reset(seed=3)[0]
    other.close()
