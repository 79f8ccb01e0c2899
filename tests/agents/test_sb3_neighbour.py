"""Stable-Baselines3's evaluation, callbacks and loggers work on our agents unchanged."""

import csv
import json

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers.vector import DictInfoToList, RecordEpisodeStatistics
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import KVWriter, Logger, configure
from stable_baselines3.common.monitor import Monitor

import agents
import envs
from agents.core.evaluation import evaluate
from tests.agents.toys import Fixed, vector

SMALL = {
    "trpo": {"n_steps": 16, "hidden": (8,), "critic_epochs": 1},
    "actor-critic": {"hidden": (8,)},
    "ddpg": {"hidden": (8,), "batch_size": 16, "learning_starts": 16},
}
each_algorithm = pytest.mark.parametrize("name", SMALL)


def cartpole(name="trpo", **config):
    return agents.make(name, envs.make_vec("CartPole-v1", 2), seed=0, **{**SMALL[name], **config})


# --- evaluate_policy ------------------------------------------------------------------------------------------------


@each_algorithm
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_evaluate_policy(name, env_id):
    agent = agents.make(name, envs.make_vec(env_id, 2), **SMALL[name]).learn(64)
    for env in (Monitor(gym.make(env_id)), make_vec_env(env_id, 3)):
        returns, lengths = evaluate_policy(agent, env, n_eval_episodes=4, return_episode_rewards=True, warn=False)
        assert len(returns) == len(lengths) == 4
        assert env_id != "CartPole-v1" or returns == lengths
        assert np.isfinite(returns).all()


def test_evaluate_policy_and_our_evaluation_agree():
    """On the same start state, episode for episode."""
    agent = cartpole().learn(256)
    ours = evaluate(agent, envs.make_vec("CartPole-v1", 1), 1, seed=2**31)
    env = Monitor(gym.make("CartPole-v1"))
    reset = env.reset
    env.reset = lambda **kwargs: reset(seed=2**31)
    returns, _ = evaluate_policy(agent, env, n_eval_episodes=1, return_episode_rewards=True)
    assert returns == ours.returns.tolist()


@pytest.mark.parametrize(
    "observation",
    [
        spaces.Dict({"speed": spaces.Box(-1, 1, (2,)), "image": spaces.Box(0, 255, (8, 8, 3), np.uint8)}),
        spaces.Discrete(3),
    ],
    ids=["dict", "discrete"],
)
def test_evaluate_policy_on_other_observations(observation):
    def make():
        return Fixed(observation, spaces.MultiDiscrete([2, 3]))

    agent = agents.make("trpo", vector(make, 2), **SMALL["trpo"])
    for env in (make(), make_vec_env(make, 2)):
        mean, _ = evaluate_policy(agent, env, n_eval_episodes=2, deterministic=False, warn=False)
        assert 0 <= mean <= 5


# --- callbacks ------------------------------------------------------------------------------------------------------


class Recorder(BaseCallback):
    """Everything that a callback may look at."""

    def __init__(self):
        super().__init__()
        self.events, self.infos, self.dones, self.steps = [], [], 0, []

    def _on_training_start(self):
        assert self.locals["total_timesteps"] == self.model.total_timesteps
        assert self.training_env is self.model.get_env()
        assert self.logger is self.model.logger
        self.events.append("start")

    def _on_rollout_start(self):
        self.events.append("rollout")

    def _on_step(self):
        self.events.append("step")
        assert len(self.locals["infos"]) == len(self.locals["dones"]) == len(self.locals["rewards"]) == 2
        self.infos += [dict(info) for info in self.locals["infos"]]
        self.dones += int(np.sum(self.locals["dones"]))
        self.steps.append((self.n_calls, self.num_timesteps, self.model.num_timesteps))
        return True

    def _on_rollout_end(self):
        self.events.append("end of rollout")

    def _on_training_end(self):
        self.events.append("end")


def test_a_callback_sees_what_it_sees_elsewhere():
    recorder = Recorder()
    agent = cartpole("actor-critic", n_steps=3).learn(12, callback=recorder)
    rollout = ["rollout", "step", "step", "step", "end of rollout"]
    assert recorder.events == ["start", *rollout, *rollout, "rollout", "end"]
    assert recorder.steps == [(k, 2 * k, 2 * k) for k in range(1, 7)]
    assert agent.num_timesteps == 12


def test_infos_come_one_dict_an_environment():
    class Talking(Fixed):
        def step(self, action):
            *rest, info = super().step(action)
            if self.t == 2:
                info = {"twice": self.t * 10, "nested": {"deep": [self.t]}}
            return *rest, info

    recorder = Recorder()
    box = spaces.Box(-1, 1, (2,))
    env = RecordEpisodeStatistics(vector(lambda: Talking(box, box), 2))
    agents.make("trpo", env, **SMALL["trpo"]).learn(32, callback=recorder)
    second, fifth = recorder.infos[2:4], recorder.infos[8:10]
    assert all(info["twice"] == 20 and info["nested"]["deep"] == [2] for info in second)
    assert all(info["episode"]["l"] == 5 for info in fifth)
    assert "twice" not in recorder.infos[0]
    assert recorder.dones == 6


def test_evalcallback_stops_at_a_threshold_and_keeps_the_best(tmp_path):
    calls = []

    class After(BaseCallback):
        def _on_step(self):
            calls.append(self.num_timesteps)
            return True

    stop = StopTrainingOnRewardThreshold(reward_threshold=5, verbose=0)
    callback = EvalCallback(
        Monitor(gym.make("CartPole-v1")),
        callback_on_new_best=stop,
        callback_after_eval=After(),
        eval_freq=20,
        n_eval_episodes=2,
        best_model_save_path=str(tmp_path / "best"),
        log_path=str(tmp_path / "log"),
        verbose=0,
        warn=False,
    )
    agent = cartpole().learn(100_000, callback=callback)
    assert agent.num_timesteps == 40  # CartPole never gives less than 5: the first evaluation ends it
    assert callback.best_mean_reward >= 5
    best = agents.load(tmp_path / "best" / "best_model")
    obs = np.array([0.1, 0.2, -0.1, 0.3], np.float32)
    assert best.predict(obs, deterministic=True)[0] == agent.predict(obs, deterministic=True)[0]
    assert np.load(tmp_path / "log" / "evaluations.npz")["timesteps"].tolist() == [40]
    agent.learn(64, reset_num_timesteps=False)
    assert agent.num_timesteps >= 104


@each_algorithm
def test_checkpointcallback(tmp_path, name):
    agent = cartpole(name)
    agent.learn(128, callback=CheckpointCallback(save_freq=20, save_path=str(tmp_path), name_prefix="run"))
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == ["run_120_steps.zip", "run_40_steps.zip", "run_80_steps.zip"]
    assert [agents.load(tmp_path / file).num_timesteps for file in found] == [120, 40, 80]


def test_lists_functions_and_other_callbacks():
    seen = []
    function = lambda local, _: seen.append(local["self"].num_timesteps) or True  # noqa: E731
    cartpole().learn(32, callback=function)
    assert seen == list(range(2, 33, 2))
    one, two = Recorder(), Recorder()
    cartpole().learn(32, callback=[one, CallbackList([two])])
    assert one.events == two.events
    every = EveryNTimesteps(10, Recorder())
    cartpole().learn(32, callback=every)
    assert every.callback.n_calls == 3
    agent = cartpole().learn(10_000, callback=StopTrainingOnMaxEpisodes(max_episodes=4))
    assert 4 <= len(agent.ep_info_buffer) <= 6 or agent.num_timesteps < 10_000


def test_callbacks_that_log_between_iterations():
    agent = agents.TRPO("CartPole-v1", n_steps=64, hidden=(8,))
    output = Recording()
    agent.set_logger(Logger(folder=None, output_formats=[output]))
    agent.learn(2048, callback=LogEveryNTimesteps(256), log_interval=1000, tb_log_name="name")
    assert output.steps[:3] == [256, 512, 768]
    assert all("time/fps" in row for row in output.rows)
    assert "rollout/ep_rew_mean" in output.rows[-1]


class Recording(KVWriter):
    def __init__(self):
        self.steps, self.rows = [], []

    def write(self, key_values, key_excluded, step=0):
        self.steps.append(step)
        self.rows.append(set(key_values))


def test_a_callback_sees_actions_and_what_they_led_to():
    seen = []

    def look(local, _):
        seen.append((local["actions"].copy(), local["new_obs"].copy(), local["dones"].copy()))
        return True

    agent = agents.DDPG("Pendulum-v1", learning_starts=10, batch_size=8, hidden=(8,)).learn(30, callback=look)
    assert len(seen) == 30
    assert all(action.shape == (1, 1) and (abs(action) <= 2).all() for action, _, _ in seen)
    stored = agent.buffer.data["next_obs"][: len(seen), 0].numpy()
    assert np.array_equal(np.concatenate([obs for _, obs, _ in seen]), stored)


def test_infos_that_a_wrapper_has_made_a_list_of():
    env = DictInfoToList(RecordEpisodeStatistics(envs.make_vec("CartPole-v1", 2)))
    seen = []
    agents.TRPO(env, n_steps=16, hidden=(8,)).learn(64, callback=lambda local, _: seen.append(local["infos"]) or True)
    assert all(isinstance(infos, list) and len(infos) == 2 for infos in seen)


def test_callbacks_change_nothing_about_learning():
    plain, watched = cartpole().learn(96), cartpole().learn(96, callback=Recorder())
    for a, b in zip(plain.policy.parameters(), watched.policy.parameters(), strict=True):
        assert bool((a == b).all())
    assert plain.num_timesteps == watched.num_timesteps


def test_progress_bar(capsys):
    cartpole().learn(64, progress_bar=True)
    cartpole("actor-critic").learn(64, progress_bar=True, callback=Recorder())
    out, err = capsys.readouterr()
    assert "64/64" in out + err


# --- loggers --------------------------------------------------------------------------------------------------------


@each_algorithm
def test_every_log_format(tmp_path, name):
    agent = cartpole(name)
    agent.set_logger(configure(str(tmp_path), ["csv", "json", "log", "tensorboard"]))
    agent.learn(320, log_interval=1)
    agent.logger.close()
    with open(tmp_path / "progress.csv") as file:
        rows = list(csv.DictReader(file))
    last = rows[-1]
    assert int(last["time/total_timesteps"]) == 320
    assert int(last["time/iterations"]) == len(rows) == agent.iterations
    assert float(last["rollout/ep_rew_mean"]) == pytest.approx(np.mean([e["r"] for e in agent.ep_info_buffer]))
    assert float(last["rollout/ep_len_mean"]) == float(last["rollout/ep_rew_mean"])
    trained = {key for row in rows for key, value in row.items() if key.startswith("train/") and value}
    assert len(trained) >= 2
    lines = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    assert [line["time/total_timesteps"] for line in lines] == [int(row["time/total_timesteps"]) for row in rows]
    assert "ep_rew_mean" in (tmp_path / "log.txt").read_text()

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    scalars = events.Scalars("rollout/ep_rew_mean")
    assert scalars[-1].step == 320
    assert scalars[-1].value == pytest.approx(float(last["rollout/ep_rew_mean"]), rel=1e-5)
    assert trained <= set(events.Tags()["scalars"])


def test_without_a_logger_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cartpole().learn(64)
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""
