"""The surface that every algorithm shares: learn, predict, save, load, resume; and what it refuses."""

import copy
import pickle
import random
from collections import OrderedDict

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import RecordEpisodeStatistics, TransformReward
from stable_baselines3.common.callbacks import BaseCallback

import agents
import envs
from agents.core.errors import CheckpointError, Diverged, EnvironmentFailure
from agents.ddpg import Config as DDPGConfig
from tests.agents.toys import Counting, Fixed, vector

BOX = spaces.Box(-1, 1, (3,))
SMALL = {
    "trpo": {"n_steps": 8, "hidden": (8,), "critic_epochs": 2},
    "a2c": {"hidden": (8,)},
    "qac": {"variant": "qac", "hidden": (8,)},
    "off-policy": {"variant": "off-policy", "hidden": (8,), "batch_size": 16, "buffer_size": 100},
    "ddpg": {"hidden": (8,), "batch_size": 16, "buffer_size": 100, "learning_starts": 12},
    "ddpg-ou": {"hidden": (8,), "batch_size": 16, "buffer_size": 100, "learning_starts": 12, "noise": "ou"},
}
ACTIONS = {
    "box": spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([2.0, 0.5], np.float32)),
    "discrete": spaces.Discrete(3, start=1),
    "multi-discrete": spaces.MultiDiscrete([2, 3], start=[4, 0]),
    "multi-binary": spaces.MultiBinary(3),
}
OBSERVATIONS = {
    "flat": BOX,
    "scalar": spaces.Box(-1, 1, ()),
    "bytes": spaces.Box(0, 255, (4,), np.uint8),
    "discrete": spaces.Discrete(4, start=2),
    "multi-binary": spaces.MultiBinary(3),
    "image": spaces.Box(0, 255, (12, 12, 3), np.uint8),
    "dict": spaces.Dict(
        OrderedDict(
            speed=BOX, image=spaces.Box(0, 255, (3, 10, 9), np.uint8), deep=spaces.Dict({"which": spaces.Discrete(3)})
        )
    ),
    "tuple": spaces.Tuple((spaces.Discrete(2), BOX)),
}
each_algorithm = pytest.mark.parametrize("name", SMALL)


def algorithm(name):
    return {"trpo": "trpo", "ddpg": "ddpg", "ddpg-ou": "ddpg"}.get(name, "actor-critic")


def make(name, env, seed=0, **config):
    return agents.make(algorithm(name), env, seed=seed, **{**SMALL[name], **config})


def fixed(observation=BOX, action=ACTIONS["discrete"], num_envs=2):
    return vector(lambda: Fixed(observation, action), num_envs)


def flat(state, prefix=""):
    """Every number of a nested state, by path."""
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    else:
        return {prefix: np.asarray(state).tobytes() if isinstance(state, np.ndarray | torch.Tensor) else repr(state)}
    return {k: v for key, child in items for k, v in flat(child, f"{prefix}/{key}").items()}


def everything(agent):
    """All that an agent's future depends on, bit for bit."""
    parts = {name: part.state_dict() for name, part in agent.parts().items()}
    counters = [agent.num_timesteps, agent.iterations, list(agent.ep_info_buffer)]
    generators = [agent.generator.get_state(), agent.predict_generator.get_state()]
    return flat([parts, counters, generators, agent.buffer.state_dict(), agent.collector.state_dict()])


# --- save, load, predict --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
@each_algorithm
def test_a_loaded_agent_acts_alike(tmp_path, name, action):
    space = ACTIONS[action]
    agent = make(name, fixed(action=space)).learn(40)
    loaded = agents.load(agent.save(tmp_path / "agent"))
    assert type(loaded) is type(agent)
    assert (loaded.config, loaded.seed, loaded.num_timesteps) == (agent.config, agent.seed, agent.num_timesteps)
    assert (loaded.observation_space, loaded.action_space) == (agent.observation_space, agent.action_space)
    obs = np.random.default_rng(0).uniform(-1, 1, (20, 3)).astype(np.float32)
    for deterministic in (True, False):
        ours, theirs = (a.predict(obs, deterministic=deterministic)[0] for a in (agent, loaded))
        assert np.array_equal(ours, theirs)
        assert all(space.contains(a) for a in ours)
    one, state = loaded.predict(obs[0], deterministic=True)
    assert state is None
    assert space.contains(one)
    np.testing.assert_allclose(one, loaded.predict(obs, deterministic=True)[0][0], rtol=1e-5)


@pytest.mark.parametrize("observation", OBSERVATIONS)
@each_algorithm
def test_every_kind_of_observation_is_learned_from(tmp_path, name, observation):
    space = OBSERVATIONS[observation]
    agent = make(name, fixed(space)).learn(40)
    modules = [part for part in agent.parts().values() if isinstance(part, torch.nn.Module)]
    assert len(modules) >= 2
    assert all(bool(value.isfinite().all()) for module in modules for value in module.state_dict().values())
    batch = batch_space(space, 5).sample()
    loaded = agents.load(agent.save(tmp_path / "agent"))
    actions, _ = agent.predict(batch, deterministic=True)
    assert actions.shape == (5,)
    assert np.array_equal(actions, loaded.predict(batch, deterministic=True)[0])
    single, _ = agent.predict(space.sample(), deterministic=True)
    assert agent.action_space.contains(single)


def test_the_order_of_dict_keys_does_not_matter(tmp_path):
    space = spaces.Dict(OrderedDict(z=BOX, a=spaces.Box(-1, 1, (2,))))
    agent = make("trpo", fixed(space, ACTIONS["box"])).learn(40)
    loaded = agents.load(
        agent.save(tmp_path / "agent"), fixed(spaces.Dict({"a": space["a"], "z": BOX}), ACTIONS["box"])
    )
    obs = space.sample()
    expected = agent.predict(obs, deterministic=True)[0]
    for other in (agent, loaded):
        for o in (obs, dict(reversed(obs.items()))):
            assert np.array_equal(other.predict(o, deterministic=True)[0], expected)


# --- seeds and exact resumption -------------------------------------------------------------------------------------


@each_algorithm
def test_the_seed_decides_everything(name):
    one, same, other = (make(name, envs.make_vec("Pendulum-v1", 2), seed=s).learn(60) for s in (3, 3, 4))
    assert everything(one) == everything(same)
    assert everything(one) != everything(other)


@each_algorithm
def test_no_global_random_state_is_used(name):
    def states():
        return [torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()]  # noqa: NPY002

    env = envs.make_vec("CartPole-v1", 2)
    before = states()
    agent = make(name, env).learn(60)
    agent.predict(np.zeros(4, np.float32))
    assert states() == before


def exact_resume(tmp_path, name, env_id, total=240, cut=96, **kwargs):
    def env():
        return envs.make_vec(env_id, 2, **kwargs)

    whole = make(name, env()).learn(total)
    first = make(name, env()).learn(cut)
    assert first.num_timesteps < whole.num_timesteps
    path = first.save(tmp_path / "half", exact=True)
    second = agents.load(path, env())
    assert second.restored_exactly
    second.learn(total - second.num_timesteps, reset_num_timesteps=False)
    return everything(whole), everything(second)


@each_algorithm
def test_a_resumed_run_on_halfcheetah_is_bit_identical(tmp_path, name):
    whole, resumed = exact_resume(tmp_path, name, "HalfCheetah-v4", max_episode_steps=45)
    assert whole == resumed


@pytest.mark.parametrize(
    ("name", "env_id"), [("trpo", "CartPole-v1"), ("ddpg", "CartPole-v1"), ("ddpg-ou", "Pendulum-v1")]
)
def test_a_resumed_run_on_classic_control_is_bit_identical(tmp_path, name, env_id):
    whole, resumed = exact_resume(tmp_path, name, env_id)
    assert whole == resumed


@each_algorithm
def test_a_checkpoint_written_at_an_iteration_boundary_by_a_callback_resumes(tmp_path, name):
    class Save(BaseCallback):
        def _on_rollout_start(self):
            if self.num_timesteps >= 100 and not path.exists():
                self.model.save(path, exact=True)

        def _on_step(self):
            return True

    path = tmp_path / "boundary.safetensors"
    whole = make(name, envs.make_vec("Hopper-v5", 2)).learn(240, callback=Save())
    resumed = agents.load(path, envs.make_vec("Hopper-v5", 2))
    resumed.learn(whole.total_timesteps - resumed.num_timesteps, reset_num_timesteps=False)
    assert everything(whole) == everything(resumed)


def test_saving_changes_nothing(tmp_path):
    one, two = (make("trpo", envs.make_vec("CartPole-v1", 2)).learn(64) for _ in range(2))
    one.save(tmp_path / "agent", exact=True)
    for agent in (one, two):
        agent.learn(64, reset_num_timesteps=False)
    assert everything(one) == everything(two)


def test_an_environment_that_cannot_be_restored_starts_afresh(tmp_path):
    path = make("ddpg", envs.make_vec("CartPole-v1", 2)).learn(64).save(tmp_path / "agent", exact=True)
    wrapped = agents.load(path, RecordEpisodeStatistics(envs.make_vec("CartPole-v1", 2)))
    assert not wrapped.restored_exactly
    assert len(wrapped.buffer) == 32  # what was stored is kept
    wrapped.learn(16, reset_num_timesteps=False)
    assert wrapped.num_timesteps == 80
    unknown = make("trpo", vector(Counting, 2)).learn(32).save(tmp_path / "unknown", exact=True)
    assert not agents.load(unknown, vector(Counting, 2)).learn(16).restored_exactly
    with pytest.raises(CheckpointError, match="resume with num_envs=2"):
        agents.load(path, envs.make_vec("CartPole-v1", 3))


def test_a_loaded_agent_goes_on_without_being_given_an_environment(tmp_path):
    agent = make("a2c", envs.make_vec("CartPole-v1", 3, max_episode_steps=20)).learn(60)
    loaded = agents.load(agent.save(tmp_path / "agent"))
    assert loaded.env is None
    loaded.learn(300, reset_num_timesteps=False)
    assert loaded.num_timesteps == 360
    assert loaded.num_envs == 3
    assert max(e["l"] for e in loaded.ep_info_buffer) <= 20
    nowhere = agents.load(make("trpo", fixed()).save(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="set_env"):
        nowhere.learn(10)
    nowhere.set_env(fixed())
    assert nowhere.learn(16).num_timesteps == 16


# --- learning -------------------------------------------------------------------------------------------------------


def test_an_id_an_env_and_a_vector_env_all_work():
    assert make("trpo", "CartPole-v1").num_envs == 16
    assert agents.DDPG("Pendulum-v1").num_envs == 1
    single = make("trpo", gym.make("CartPole-v1")).learn(20)
    assert (single.num_envs, single.num_timesteps) == (1, 24)
    assert single.get_env() is single.env


@pytest.mark.parametrize("mode", list(AutoresetMode))
@each_algorithm
def test_environments_that_reset_themselves(name, mode):
    agent = make(name, vector(Counting, 3, mode)).learn(150)
    assert 150 <= agent.num_timesteps < 150 + 3 * agent.rows_per_iteration()
    assert {e["l"] for e in agent.ep_info_buffer} <= {1, 2, 3, 4}


def test_counting_steps():
    agent = make("a2c", fixed(num_envs=4))
    agent.learn(100)
    assert (agent.num_timesteps, agent.total_timesteps, agent.iterations) == (100, 100, 5)
    agent.learn(50, reset_num_timesteps=False)
    assert (agent.num_timesteps, agent.total_timesteps, agent.iterations) == (160, 150, 8)
    agent.learn(20)
    assert (agent.num_timesteps, agent.iterations) == (20, 1)
    before = everything(agent)
    agent.learn(0, reset_num_timesteps=False)
    assert everything(agent) == before


def test_episode_statistics():
    agent = make("a2c", vector(lambda: Fixed(BOX, spaces.Discrete(1)), 2)).learn(60)
    assert list(agent.ep_info_buffer) == [{"r": 5.0, "l": 5}] * 12


def test_stop_returns_at_the_next_boundary():
    agent = make("trpo", fixed())
    agent.learn(400, callback=lambda *_: agent.num_timesteps != 20 or agent.stop() is None)
    assert agent.num_timesteps == 32  # rollouts of 16: the second is finished and learned from
    assert agent.iterations == 2
    assert agent.learn(32, reset_num_timesteps=False).num_timesteps == 64


@each_algorithm
def test_learning_goes_on_after_a_callback_stopped_it(name):
    agent = make(name, fixed(), **({"n_steps": 8} if algorithm(name) != "ddpg" else {"train_freq": 8}))
    agent.learn(400, callback=lambda *_: agent.num_timesteps < 20)
    assert agent.num_timesteps == 20
    assert agent.learn(64, reset_num_timesteps=False).num_timesteps == 84


def test_set_env():
    agent = make("trpo", fixed(num_envs=2)).learn(32)
    weights = flat(agent.policy.state_dict())
    agent.set_env(fixed(num_envs=3))
    assert agent.num_envs == 3
    assert flat(agent.policy.state_dict()) == weights
    assert agent.learn(24, reset_num_timesteps=False).num_timesteps == 32 + 24
    for other in (fixed(OBSERVATIONS["image"]), fixed(action=ACTIONS["box"])):
        with pytest.raises(ValueError, match="the agent was made for the"):
            agent.set_env(other)
    assert agent.num_envs == 3


def test_loading_for_other_spaces_is_refused(tmp_path):
    path = make("trpo", fixed()).save(tmp_path / "agent")
    for other, what in ((fixed(OBSERVATIONS["image"]), "observation"), (fixed(action=ACTIONS["box"]), "action")):
        with pytest.raises(CheckpointError, match=f"made for the {what} space") as error:
            agents.load(path, other)
        assert "\n" not in str(error.value)


# --- what is refused ------------------------------------------------------------------------------------------------


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(ValueError, match=r"'trop'.*Did you mean trpo"):
        agents.make("trop", fixed())
    with pytest.raises(ValueError, match=r"no setting 'gama'.*Did you mean.*gamma"):
        make("trpo", fixed(), gama=0.9)
    with pytest.raises(ValueError, match=r"takes a config of type agents\.trpo\.Config; got agents\.ddpg\.Config"):
        agents.TRPO(fixed(), config=DDPGConfig())
    with pytest.raises(ValueError, match="Did you mean"):
        make("trpo", "HalfCheeta-v4")
    with pytest.raises(ValueError, match="activation is one of"):
        make("trpo", fixed(), activation="swish")


def test_configs_and_single_fields():
    config = DDPGConfig(batch_size=32)
    agent = agents.DDPG(fixed(), config=config, tau=0.25)
    assert (agent.config.batch_size, agent.config.tau) == (32, 0.25)
    assert config.tau != 0.25


def test_what_is_no_environment():
    for bad in (None, 7, [fixed()]):
        with pytest.raises(ValueError, match=r"an environment"):
            make("trpo", bad)


@each_algorithm
def test_observations_without_features_are_refused(name):
    space = spaces.Dict({"graph": spaces.Graph(spaces.Discrete(2), None)})
    with pytest.raises(ValueError, match="Text observations"):
        make(name, vector(lambda: Fixed(space, ACTIONS["discrete"]), 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@each_algorithm
def test_bad_numbers_stop_the_run_and_leave_the_agent_finite(name, value):
    class Bad(Fixed):
        def step(self, action):
            obs, reward, terminated, truncated, info = super().step(action)
            return obs, value if len(self.actions) == 17 else reward, terminated, truncated, info

    agent = make(name, vector(lambda: Bad(BOX, ACTIONS["discrete"]), 2))
    with pytest.raises(EnvironmentFailure, match=r"environment 0 returned a reward .* at step 16"):
        agent.learn(100)
    assert "nan" not in repr(agent.predict(np.zeros(3, np.float32), deterministic=True))


@each_algorithm
def test_metrics_are_numbers_with_stable_baselines3s_names(name):
    agent = make(name, fixed())
    seen = {}
    agent.logger.dump = lambda step=0: seen.update(agent.logger.name_to_value)
    agent.learn(200, log_interval=1)
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "time/fps", "time/iterations", "time/total_timesteps"} <= set(
        seen
    )
    losses = {key: value for key, value in seen.items() if key.startswith("train/")}
    assert len(losses) >= 2
    assert all(np.isfinite(value) or key == "train/explained_variance" for key, value in losses.items())


def test_advantages_of_a_single_step_are_not_normalised_away():
    agent = make("a2c", fixed(num_envs=1), n_steps=1, normalize_advantage=True).learn(10)
    assert all(bool(p.isfinite().all()) for p in agent.policy.parameters())


# --- one agent used in more than one way ----------------------------------------------------------------------------


class Interrupt(BaseCallback):
    """Raises KeyboardInterrupt in the middle of a rollout, once."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def _on_step(self):
        self.calls -= 1
        if self.calls == 0:
            raise KeyboardInterrupt
        return True


@each_algorithm
def test_learning_goes_on_after_an_interruption(name):
    agent = make(name, vector(lambda: Counting("box"), 2))
    with pytest.raises(KeyboardInterrupt):
        agent.learn(64, callback=Interrupt(13))
    agent.learn(64, reset_num_timesteps=False)
    assert agent.num_timesteps >= 64


@each_algorithm
def test_learning_anew_starts_fresh_episodes(name):
    """Whatever was done in the environment in between: the first row stored is the first of an episode."""
    env = vector(lambda: Counting("box"), 2)
    agent = make(name, env).learn(16)
    env.reset(seed=5)
    env.step(np.zeros(2, np.int64))
    seen = []
    act = agent.act
    agent.act = lambda obs, start: (seen.append((obs.clone(), start.copy())), act(obs, start))[1]
    agent.learn(16)
    obs, start = seen[0]
    assert start.all()
    assert (obs[:, 2] == 0).all()  # the step number


def test_learning_anew_does_not_repeat_the_first_episodes():
    env = vector(lambda: Counting("box"), 2)
    agent = make("a2c", env).learn(16)
    first = [one.base for one in env.envs]
    agent.learn(16)
    assert [one.base for one in env.envs] == first  # their generators went on: no new seed
    assert all(one.episode > 0 for one in env.envs)


def test_gymnasiums_own_vector_environments_which_take_one_seed():
    env = gym.make_vec("CartPole-v1", 4)
    assert not hasattr(env.unwrapped, "envs")  # CartPoleVectorEnv
    returns = []
    for _ in range(2):
        agent = agents.TRPO(gym.make_vec("CartPole-v1", 4), n_steps=64, hidden=(8,)).learn(512)
        returns.append([episode["r"] for episode in agent.ep_info_buffer])
    assert returns[0] == returns[1] != []


def test_ddpg_goes_on_where_it_was_loaded_without_its_transitions(tmp_path):
    env = vector(lambda: Fixed(BOX, ACTIONS["box"]), 2)
    agent = make("ddpg", env).learn(40)
    loaded = agents.load(agent.save(tmp_path / "agent"))
    loaded.set_env(env)
    before = [p.detach().clone() for p in loaded.actor.parameters()]
    loaded.learn(40, reset_num_timesteps=False)  # more than a batch
    assert any(not torch.equal(a, b) for a, b in zip(before, loaded.actor.parameters(), strict=True))


def test_another_environment_leaves_the_replay_alone():
    agent = make("ddpg", vector(lambda: Fixed(BOX, ACTIONS["box"]), 2)).learn(40)
    buffer = agent.buffer
    agent.set_env(vector(lambda: Fixed(BOX, ACTIONS["box"]), 2))
    agent.learn(10, reset_num_timesteps=False)
    assert agent.buffer is buffer
    assert buffer.rows == 25
    agent.set_env(vector(lambda: Fixed(BOX, ACTIONS["box"]), 3))  # of another width: its own
    agent.learn(9, reset_num_timesteps=False)
    assert agent.buffer.num_envs == 3


@each_algorithm
@pytest.mark.parametrize("copier", [copy.deepcopy, lambda agent: pickle.loads(pickle.dumps(agent))])
def test_a_copy_acts_alike_and_learns_apart(name, copier):
    agent = make(name, "Pendulum-v1").learn(64)
    other = copier(agent)
    obs = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    expected = agent.predict(obs, deterministic=True)[0]
    assert np.array_equal(other.predict(obs, deterministic=True)[0], expected)
    other.learn(64, reset_num_timesteps=False)
    assert not np.array_equal(other.predict(obs, deterministic=True)[0], expected)
    assert np.array_equal(agent.predict(obs, deterministic=True)[0], expected)


@pytest.mark.parametrize(
    ("space", "given", "message"),
    [
        (BOX, np.zeros(1), r"the observation has shape \(1,\); this agent sees \(3,\), or a batch of \(n, 3\)"),
        (BOX, np.zeros((2, 1)), r"has shape \(2, 1\)"),
        (BOX, np.zeros((1, 2, 3)), r"has shape \(1, 2, 3\)"),
        (BOX, np.float32(0), r"has shape \(\)"),
        (OBSERVATIONS["image"], np.zeros((3, 12, 12), np.uint8), r"sees \(12, 12, 3\)"),
        (
            spaces.Dict(a=BOX, b=spaces.Discrete(2)),
            {"a": np.zeros((2, 3)), "b": np.zeros((2, 2), int)},
            r"the observation's 'b' has shape \(2, 2\)",
        ),
        (spaces.Dict(a=BOX, b=spaces.Discrete(2)), {"a": np.zeros((2, 3)), "b": 1}, "others a batch"),
    ],
)
def test_predict_refuses_observations_of_another_shape(space, given, message):
    agent = make("a2c", fixed(space))
    with pytest.raises(ValueError, match=message):
        agent.predict(given)


def test_wrapped_and_unlimited_environments_are_not_mistaken_for_plain_ones(tmp_path):
    wrapped = TransformReward(envs.make_vec("CartPole-v1", 2), lambda reward: -reward)
    agent = agents.load(make("a2c", wrapped).save(tmp_path / "wrapped"))
    with pytest.raises(ValueError, match="give one with set_env"):
        agent.learn(16)
    unlimited = agents.load(make("a2c", envs.make_vec("Swimmer-v5", 2, max_episode_steps=-1)).save(tmp_path / "long"))
    unlimited.prepare()
    assert unlimited.env.spec.max_episode_steps is None


def test_settings_are_the_agents_own_and_a_seed_may_be_drawn():
    first, second = (make("a2c", "CartPole-v1", seed=None, gamma=0.5) for _ in range(2))
    assert first.gamma == 0.5
    assert first.n_envs == 16
    assert first.seed != second.seed
    with pytest.raises(AttributeError, match="ActorCritic has no attribute 'gama'"):
        first.gama  # noqa: B018


# --- numbers that are not finite ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ddpg", {"normalize_observations": True}),
        ("a2c", {"n_steps": 1}),
        ("a2c", {"n_steps": 2, "normalize_advantage": True}),
        ("qac", {"n_steps": 1}),
        ("off-policy", {"n_steps": 1}),
        ("trpo", {"n_steps": 1}),
    ],
)
@pytest.mark.parametrize("num_envs", [1, 3])
def test_rollouts_of_nothing_but_resets_teach_nothing(name, settings, num_envs):
    """NEXT_STEP environments that end together spend a whole row on their resets."""
    observation = spaces.Box(-1, 1, (3,))
    env = vector(lambda: Fixed(observation, ACTIONS["box"], length=1), num_envs, AutoresetMode.NEXT_STEP)
    agent = make(name, env, **settings).learn(60)
    weights = [p for part in agent.parts().values() if isinstance(part, torch.nn.Module) for p in part.parameters()]
    assert all(bool(p.isfinite().all()) for p in weights)
    assert np.isfinite(agent.predict(np.zeros(3, np.float32))[0]).all()


@pytest.mark.parametrize("name", ["a2c", "ddpg", "trpo"])
def test_an_agent_that_has_diverged_says_so_and_accuses_no_environment(name):
    agent = make(name, fixed(action=ACTIONS["box"])).learn(40)
    with torch.no_grad():
        for p in agent.policy.parameters():
            p.fill_(float("nan"))
    with pytest.raises(Diverged, match=r"the agent's action is nan .* its networks have diverged"):
        agent.learn(16, reset_num_timesteps=False)


def test_a_gradient_that_is_not_finite_stays_out_of_the_weights():
    agent = make("a2c", "CartPole-v1").learn(80)
    with torch.no_grad():
        next(agent.critic.parameters()).fill_(float("inf"))
    weights = [p.clone() for p in agent.policy.parameters()]
    with pytest.raises(Diverged, match="the gradient's norm is"):
        agent.learn(80)
    assert all(torch.equal(a, b) for a, b in zip(weights, agent.policy.parameters(), strict=True))
