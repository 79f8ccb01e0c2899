"""The fast MuJoCo environments against Gymnasium's own: every value bit for bit, every dtype, every info."""

import ctypes
import warnings

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import envs
from envs.mujoco import MujocoVectorEnv, pace, physics
from tests.envs.mujoco.ids import IDS


def gymnasium_vec(id, num_envs, **kwargs):
    return SyncVectorEnv([lambda: gym.make(id, **kwargs)] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


def assert_same(ours, theirs, where="obs"):
    """Equal to the last bit, NaN included, in the same dtype; dicts in the same order."""
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs), where
        for key in theirs:
            assert_same(ours[key], theirs[key], f"{where}/{key}")
    elif isinstance(theirs, tuple):
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), where
        assert ours.tobytes() == theirs.tobytes(), (where, ours, theirs)


def random_actions(env, steps, dtype=np.float32, scale=1.3, seed=0):
    """Actions [steps, N, nu], some outside the bounds."""
    low, high = env.action_space.low, env.action_space.high
    unit = np.random.default_rng(seed).uniform(-scale, scale, (steps, *low.shape))
    return ((high + low) / 2 + (high - low) / 2 * unit).astype(dtype)


def follow(ours, theirs, actions):
    """Step both, reset what has ended, compare all; return the terminations and truncations."""
    terminated = truncated = 0
    for action in actions:
        mine = ours.step(action)
        assert_same(mine, theirs.step(action), "step")
        terminated += mine[2].sum()
        truncated += mine[3].sum()
        done = mine[2] | mine[3]
        if done.any():
            assert_same(
                ours.reset(options={"reset_mask": done.copy()}),
                theirs.reset(options={"reset_mask": done.copy()}),
                "reset",
            )
    return terminated, truncated


def compare(id, *, steps=60, num_envs=3, dtype=np.float32, seed=0, scale=1.3, **kwargs):
    ours, theirs = envs.make_vec(id, num_envs, **kwargs), gymnasium_vec(id, num_envs, **kwargs)
    try:
        assert isinstance(ours, MujocoVectorEnv)
        assert ours.single_observation_space == theirs.single_observation_space
        assert ours.observation_space == theirs.observation_space
        assert ours.single_action_space == theirs.single_action_space
        assert ours.action_space == theirs.action_space
        assert ours.metadata == theirs.metadata
        first = ours.reset(seed=seed)
        assert first[0] in ours.observation_space
        assert_same(first, theirs.reset(seed=seed), "reset")
        return follow(ours, theirs, random_actions(ours, steps, dtype, scale))
    finally:
        ours.close()
        theirs.close()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("id", IDS)
def test_trajectories_are_gymnasiums(id, dtype):
    terminated, truncated = compare(id, dtype=dtype, max_episode_steps=25)
    # Random actions make these fall within 25 steps, and the others not at all.
    falls_soon = id.startswith(("Inverted", "Humanoid-"))
    assert terminated > 0 if falls_soon or id.startswith(("Hopper", "Walker2d", "Ant")) else terminated == 0
    assert truncated > 0 or falls_soon


@pytest.mark.parametrize("id", ["HalfCheetah-v4", "Hopper-v5", "Ant-v5", "Humanoid-v4"])
def test_a_whole_episode_at_the_registered_length(id):
    assert sum(compare(id, num_envs=2, steps=1001)) >= 2


FORWARD = {"forward_reward_weight": 0.7, "ctrl_cost_weight": 0.3, "reset_noise_scale": 0.02}
HEALTH = {"healthy_reward": 2, "terminate_when_unhealthy": False}
POSITIONS = {"exclude_current_positions_from_observation": False}
OPTIONS = [
    ("HalfCheetah-v4", FORWARD | POSITIONS),
    ("HalfCheetah-v5", FORWARD | POSITIONS | {"frame_skip": 3}),
    ("Swimmer-v4", FORWARD | POSITIONS),
    ("Swimmer-v5", FORWARD | POSITIONS | {"frame_skip": 2}),
    ("Walker2d-v4", FORWARD | HEALTH | POSITIONS),
    ("Walker2d-v5", FORWARD | HEALTH | POSITIONS | {"xml_file": "walker2d.xml"}),
    ("Walker2d-v5", {"healthy_z_range": (1.1, 1.5), "healthy_angle_range": (-0.05, 0.05)}),
    ("Hopper-v4", FORWARD | HEALTH | POSITIONS),
    ("Hopper-v5", {"healthy_state_range": (-2.0, 2.0), "healthy_reward": 3}),
    ("Ant-v4", {"use_contact_forces": True, "contact_force_range": (-0.5, 0.2), "reset_noise_scale": 0.3}),
    ("Ant-v4", {"use_contact_forces": True} | HEALTH | POSITIONS),
    ("Ant-v5", FORWARD | HEALTH | POSITIONS | {"main_body": "front_left_leg", "contact_cost_weight": 0.1}),
    ("Ant-v5", {"include_cfrc_ext_in_observation": False, "healthy_z_range": (0.5, 0.8), "main_body": 2}),
    ("Humanoid-v4", FORWARD | HEALTH | POSITIONS),
    ("Humanoid-v5", FORWARD | POSITIONS | {"contact_cost_weight": 1e-3, "contact_cost_range": (0.1, 2)}),
    ("Humanoid-v5", {"include_cinert_in_observation": False, "include_cfrc_ext_in_observation": False}),
    ("Humanoid-v5", {"include_cvel_in_observation": False, "include_qfrc_actuator_in_observation": False}),
    ("HumanoidStandup-v5", POSITIONS | {"uph_cost_weight": 2, "impact_cost_range": (0.0, 1e-3)}),
    ("HumanoidStandup-v5", {"include_cinert_in_observation": False, "ctrl_cost_weight": 0.3}),
    ("InvertedPendulum-v5", {"reset_noise_scale": 0.1, "frame_skip": 4}),
    ("InvertedDoublePendulum-v5", {"healthy_reward": 3, "reset_noise_scale": 0.2}),
    ("Reacher-v5", {"reward_dist_weight": 0.4, "reward_control_weight": 3}),
    ("Pusher-v5", {"reward_near_weight": 2, "reward_dist_weight": 0.3, "reward_control_weight": 0.7}),
]


@pytest.mark.parametrize(("id", "options"), OPTIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_options_mean_what_they_mean_in_gymnasium(id, options):
    compare(id, steps=30, seed=5, max_episode_steps=12, **options)


@pytest.mark.parametrize("id", ["InvertedDoublePendulum-v4", "InvertedDoublePendulum-v5"])
def test_many_squares(id):
    """Scalars are squared by pow(), which rounds unlike a product once in a thousand times."""
    compare(id, num_envs=32, steps=100)


def test_without_a_time_limit():
    assert compare("Reacher-v4", max_episode_steps=-1, steps=60) == (0, 0)
    assert compare("Reacher-v4", steps=60) == (0, 3)


@pytest.mark.parametrize("scale", [0.0, 30.0])
@pytest.mark.parametrize("id", ["HumanoidStandup-v4", "Hopper-v4", "InvertedDoublePendulum-v5"])
def test_extreme_actions(id, scale):
    compare(id, steps=40, scale=scale)


def test_a_capped_impact_is_reported_as_gymnasium_reports_it(tmp_path, monkeypatch):
    """HumanoidStandup-v4 reports an int when it caps the cost; the falling body must be hit hard enough."""
    monkeypatch.chdir(tmp_path)
    ours, theirs = envs.make_vec("HumanoidStandup-v4", 3), gymnasium_vec("HumanoidStandup-v4", 3)
    ours.reset(seed=0)
    theirs.reset(seed=0)
    for i, height in enumerate((40.0, 0.1, 60.0)):
        data = theirs.envs[i].unwrapped.data
        for qpos, qvel in ((ours._physics.batch.qpos[i], ours._physics.batch.qvel[i]), (data.qpos, data.qvel)):
            qpos[2] = height
            qvel[2] = -20 * height
    seen = set()
    for action in random_actions(ours, 40):
        mine = ours.step(action)
        assert_same(mine, theirs.step(action))
        seen.add(mine[4]["reward_impact"].dtype.kind)
    assert seen == {"i", "f"}


def test_diverging_physics_is_reset_by_mujoco_alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its warning to a file
    ours, theirs = envs.make_vec("Humanoid-v5", 2), gymnasium_vec("Humanoid-v5", 2)
    ours.reset(seed=0)
    theirs.reset(seed=0)
    for qvel in (ours._physics.batch.qvel[1], theirs.envs[1].unwrapped.data.qvel):
        qvel[:] = 1e12
    action = random_actions(ours, 1)[0]
    assert_same(ours.step(action), theirs.step(action))


def test_seeding():
    ours, theirs = envs.make_vec("Reacher-v5", 3), gymnasium_vec("Reacher-v5", 3)
    for seed in (7, [3, 1, 2], None, [None, 5, None], None):
        assert_same(ours.reset(seed=seed), theirs.reset(seed=seed), "reset")
        if seed is not None and None not in np.atleast_1d(seed):
            assert ours.np_random_seed == theirs.np_random_seed
    with pytest.raises(ValueError, match="must match num_envs=3"):
        ours.reset(seed=[1, 2])


def test_without_a_seed_episodes_start_differently():
    first, second = (envs.make_vec("Reacher-v5", 2).reset()[0] for _ in range(2))
    assert len({row.tobytes() for row in np.concatenate((first, second))}) == 4


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_mask_at_any_time(data):
    ours = envs.make_vec("Hopper-v5", 4, max_episode_steps=9)
    theirs = gymnasium_vec("Hopper-v5", 4, max_episode_steps=9)
    ours.reset(seed=1)
    theirs.reset(seed=1)
    done = np.zeros(4, dtype=bool)
    for action in random_actions(ours, 12):
        wanted = np.array(data.draw(st.lists(st.booleans(), min_size=4, max_size=4))) | done
        if wanted.any():
            seed = data.draw(st.none() | st.integers(0, 9) | st.lists(st.integers(0, 9), min_size=4, max_size=4))
            assert_same(
                ours.reset(seed=seed, options={"reset_mask": wanted.copy()}),
                theirs.reset(seed=seed, options={"reset_mask": wanted.copy()}),
            )
        mine = ours.step(action)
        assert_same(mine, theirs.step(action))
        done = mine[2] | mine[3]


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True, False], TypeError),
        (np.array([True]), ValueError),
        (np.array([1, 0]), TypeError),
        (np.array([False, False]), ValueError),
    ],
)
def test_bad_masks_are_refused_as_gymnasium_refuses_them(mask, error):
    ours, theirs = envs.make_vec("Swimmer-v5", 2), gymnasium_vec("Swimmer-v5", 2)
    for env in (ours, theirs):
        env.reset(seed=0)
        with pytest.raises(error):
            env.reset(options={"reset_mask": mask})


def test_the_callers_options_stay_as_they_are():
    env = envs.make_vec("Swimmer-v5", 2)
    env.reset(seed=0)
    options = {"reset_mask": np.array([True, False])}
    env.reset(options=options)
    assert list(options) == ["reset_mask"]


def test_steps_out_of_order_are_refused():
    env = envs.make_vec("Swimmer-v5", 2, max_episode_steps=1)
    action = np.zeros(env.action_space.shape)
    with pytest.raises(ResetNeeded):
        env.step(action)
    with pytest.raises(ResetNeeded):
        env.render()
    with pytest.raises(ResetNeeded):
        env.reset(options={"reset_mask": np.array([True, False])})
    env.reset(seed=0)
    env.step(action)
    with pytest.raises(ResetNeeded, match=r"\[0, 1\] have ended"):
        env.step(action)
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ResetNeeded, match=r"\[1\] have ended"):
        env.step(action)
    env.close()
    with pytest.raises(ClosedEnvironmentError):
        env.step(action)


@pytest.mark.parametrize("shape", [(2,), (2, 5), (3, 6), (2, 6, 1)])
def test_actions_of_another_shape_are_refused(shape):
    env = envs.make_vec("HalfCheetah-v4", 2)
    env.reset(seed=0)
    with pytest.raises(ValueError, match=r"expected \(2, 6\)"):
        env.step(np.zeros(shape))
    env.step(np.zeros((2, 6)))  # nothing was stepped, so that the episode goes on


def test_what_is_handed_out_is_the_callers():
    """Writing into returned arrays changes nothing that comes later."""
    careful, careless = (envs.make_vec("Ant-v5", 2) for _ in range(2))
    for env in (careful, careless):
        env.reset(seed=0)
    mask = np.array([False, True])
    for action in random_actions(careful, 3):
        expected = careful.step(action.copy())
        found = careless.step(action)
        assert_same(found, expected)
        action.fill(9)
        for array in (*found[:4], *found[4].values()):
            array.fill(1)
        expected = careful.reset(options={"reset_mask": mask})
        found = careless.reset(options={"reset_mask": mask})
        assert_same(found, expected)
        found[0].fill(1)


def test_any_number_of_threads_steps_alike():
    results = []
    for threads in (1, 2, 5, None):  # None: alone at first, then perhaps not
        env = MujocoVectorEnv("Walker2d-v5", 5, num_threads=threads)
        env.reset(seed=0)
        results.append([env.step(action)[0] for action in random_actions(env, 8)])
        env.close()
    for result in results[1:]:
        assert_same(tuple(results[0]), tuple(result))


@pytest.mark.parametrize("worthwhile", [0.0, float("inf")])
def test_sharing_a_round_or_not_changes_nothing_but_time(worthwhile, monkeypatch):
    monkeypatch.setattr(pace, "WORTHWHILE", worthwhile)
    monkeypatch.setattr(pace, "TRIAL", 3)
    monkeypatch.setattr(pace, "PERIOD", 5)
    monkeypatch.setattr(physics, "available_cores", lambda: 2)
    env, alone = envs.make_vec("Swimmer-v5", 3), MujocoVectorEnv("Swimmer-v5", 3, num_threads=1)
    env.reset(seed=0)
    alone.reset(seed=0)
    shared = []
    for action in random_actions(env, 16):
        shared.append(env._physics._pace.shared)
        assert_same(env.step(action), alone.step(action))
    chosen = worthwhile > 0
    assert shared == [False] * 3 + [True] * 3 + [chosen] * 5 + [not chosen] * 3 + [chosen] * 2
    env.close()


def test_the_model_is_shared_and_left_alone():
    env = envs.make_vec("HalfCheetah-v4", 3)
    fresh = gym.make("HalfCheetah-v4").unwrapped.model
    env.reset(seed=0)
    for action in random_actions(env, 5):
        env.step(action)
    model = env._physics.model
    for name in ("body_mass", "geom_size", "jnt_range", "dof_damping", "qpos0", "actuator_gear"):
        assert_same(getattr(model, name), getattr(fresh, name), name)


def test_mujocos_timers_stand_still_unless_the_user_has_set_a_clock():
    env = envs.make_vec("HalfCheetah-v4", 2)
    action = random_actions(env, 1)[0]

    def timers_after_a_step():
        data = mujoco.MjData(env._physics.model)  # comes with MuJoCo's own clock
        env.reset(seed=0)
        env.step(action)
        mujoco.mj_step(env._physics.model, data)
        return data.timer.duration.any()

    ticks = iter(range(10**9))
    clock = ctypes.CFUNCTYPE(ctypes.c_double)(lambda: float(next(ticks)))
    assert not timers_after_a_step()
    mujoco.set_mjcb_time(clock)
    try:
        assert timers_after_a_step()
    finally:
        mujoco.set_mjcb_time(None)
    assert not timers_after_a_step()


def test_construction_is_quiet(tmp_path, monkeypatch, capfd):
    """No note that v4 is dated, and none from MuJoCo, on the screen or in its log file."""
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs.make_vec("HalfCheetah-v4", 2).close()
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_constructor():
    with pytest.raises(ImportError, match="mujoco<3"):
        envs.make_vec("Pusher-v4")
    with pytest.raises(TypeError, match="no_such_option"):
        envs.make_vec("Ant-v5", no_such_option=1)
    with pytest.raises(ValueError, match="no render mode 'ansi'"):
        envs.make_vec("Ant-v5", render_mode="ansi")


def test_frames_are_gymnasiums():
    options = {"render_mode": "rgb_array", "width": 64, "height": 48}
    ours, theirs = envs.make_vec("Swimmer-v5", 2, **options), gymnasium_vec("Swimmer-v5", 2, **options)
    ours.reset(seed=0)
    theirs.reset(seed=0)
    for action in random_actions(ours, 2):
        ours.step(action)
        theirs.step(action)
    try:
        frames = ours.render()  # first: without a display it chooses a backend, which Gymnasium then takes
    except Exception as error:
        try:
            theirs.render()
        except Exception:
            pytest.skip(f"no OpenGL here, for Gymnasium neither: {error}")
        raise
    assert frames[0].shape == (48, 64, 3)
    assert len(frames) == 2
    assert np.ptp(frames[0]) > 0
    assert_same(frames, theirs.render())
    ours.close()
    theirs.close()
