from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import yaml
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from experiments import evaluate, run, sb3
from experiments.settings import SB3_ALGORITHMS, parse_run, tuned

Refused = Callable[[Callable[[list[str]], int], list[str]], str]


@pytest.mark.parametrize("algo", SB3_ALGORITHMS)
def test_tuned_settings_reach_the_algorithm(algo: str) -> None:
    if algo == "sb3/trpo":
        pytest.importorskip("sb3_contrib")
    argv = [algo, "HalfCheetah-v4"]
    if algo in ("sb3/ddpg", "sb3/sac", "sb3/td3"):
        argv += ["--agent.buffer-size", "10"]
    options = parse_run(argv)
    env = sb3.make_env(options)
    model = sb3.make_model(options, env)
    settings = tuned(algo, "HalfCheetah-v4")["agent"]
    assert settings
    assert isinstance(env, VecNormalize) == settings.pop("normalize", False)
    settings.pop("policy_kwargs", None)
    if settings.pop("action_noise", None):
        np.testing.assert_array_equal(model.action_noise._sigma, np.full(6, settings.pop("noise_std")))
    for name, value in settings.items():
        found = getattr(model, name)
        if name == "clip_range":
            found = found(1.0)
        if name == "train_freq":
            found = found.frequency
        assert found == value, name
    env.close()


def test_policy_settings() -> None:
    argv = ["sb3/ppo", "HalfCheetah-v4", "--agent.net-arch", "5", "7", "--agent.policy-kwargs", "{log_std_init: -3}"]
    options = parse_run([*argv, "--agent.activation-fn", "elu"])
    model = sb3.make_model(options, sb3.make_env(options))
    layers = [tuple(p.shape) for p in model.policy.mlp_extractor.policy_net.parameters()]
    assert layers == [(5, 17), (5,), (7, 5), (7,)]
    assert "ELU" in str(model.policy)
    assert model.policy.log_std[0].item() == -3


def test_the_predictor_is_stable_baselines3s_own_evaluation(ppo_run: Path) -> None:
    """Same return as `evaluate_policy` on an environment with VecNormalize, from the same initial state."""
    options = parse_run(["--resume", str(ppo_run)])
    predictor = sb3.load_predictor(options, ppo_run / "checkpoints" / "latest.zip")
    env = predictor.env
    assert isinstance(env, VecNormalize)
    assert not np.allclose(env.obs_rms.mean, 0)  # type: ignore[union-attr]
    env.training = env.norm_reward = False
    env.seed(5)
    returns, _ = evaluate_policy(predictor.model, env, 1, return_episode_rewards=True)

    from agents.core.evaluation import evaluate
    from experiments.environments import make_eval_env

    ours = evaluate(predictor, make_eval_env("HalfCheetah-v4", 1, {}), 1, seed=5)
    np.testing.assert_allclose(ours.returns, returns, rtol=1e-4)


def test_runs_cannot_be_resumed_and_say_so(ppo_run: Path, refused: Refused) -> None:
    sentence = refused(run.command, ["--resume", str(ppo_run), "--total-timesteps", "9999"])
    assert f"{ppo_run} cannot be resumed" in sentence


@pytest.mark.parametrize("env_id", ["gui/click-button-v0", "reasoning/addition-v0", "Blackjack-v1"])
def test_spaces_that_stable_baselines3_does_not_take(refused: Refused, tmp_path: Path, env_id: str) -> None:
    out = tmp_path / "run"
    sentence = refused(run.command, ["sb3/ppo", env_id, "--out", str(out)])
    assert sentence.startswith(("sb3/ppo takes no such environment", "sb3/ppo refuses these settings"))
    assert not out.exists()


class Falls(gymnasium.Env[np.ndarray, int]):
    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict[str, object]]:
        return np.zeros(2, np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        raise IndexError("off the table")


def test_an_environment_that_crashes_under_stable_baselines3(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        gymnasium.registry, "Falls-v0", gymnasium.envs.registration.EnvSpec("Falls-v0", entry_point=Falls)
    )
    sentence = refused(run.command, ["sb3/a2c", "Falls-v0", "--out", str(tmp_path / "run"), "--quiet"])
    assert sentence == "an environment crashed in step: IndexError: off the table"


def test_a_zip_of_another_environment_is_refused(refused: Refused, ppo_run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    shutil.copytree(ppo_run, other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump({**config, "env": "Pendulum-v1", "env_options": {}}))
    assert "holds no sb3/ppo for Pendulum-v1" in refused(evaluate.command, [str(other)])


def test_trpo_without_sb3_contrib(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sb3_contrib", None)
    sb3.config_type.cache_clear()
    assert refused(run.command, ["sb3/trpo", "HalfCheetah-v4"]) == (
        "sb3/trpo needs sb3-contrib: pip install 'rl-suite[peers]'"
    )
    sb3.config_type.cache_clear()
