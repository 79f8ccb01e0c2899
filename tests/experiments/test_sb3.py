from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize

from experiments import run, sb3
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


def test_trpo_without_sb3_contrib(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sb3_contrib", None)
    sb3.config_type.cache_clear()
    assert refused(run.command, ["sb3/trpo", "HalfCheetah-v4"]) == (
        "sb3/trpo needs sb3-contrib: pip install 'rl-suite[peers]'"
    )
    sb3.config_type.cache_clear()
