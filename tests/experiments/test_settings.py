from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments import run, settings
from experiments.settings import parse_run, tuned

Refused = Callable[[Callable[[list[str]], int], list[str]], str]

CONFIG = """
default: {num_envs: 3, agent: {gamma: 0.5, lam: 0.6, delta: 1e-3}}
"*Cheetah*": {num_envs: 5, agent: {lam: 0.7}}
HalfCheetah-v4: {total_timesteps: 500, agent: {delta: 0.9}}
Hopper-v4: {num_envs: 99}
"""


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "trpo.yaml").write_text(CONFIG)
    monkeypatch.setattr(settings.tuned, "__defaults__", (tmp_path, ("tiny",)))
    return tmp_path


def test_the_default_entry_gives_way_to_patterns_and_they_to_the_id(configs: Path) -> None:
    assert tuned("trpo", "HalfCheetah-v4", configs) == {
        "num_envs": 5,
        "total_timesteps": 500,
        "agent": {"gamma": 0.5, "lam": 0.7, "delta": 0.9},
        "warmup": {},
        "env": {},
    }
    assert tuned("trpo", "HalfCheetah-v5", configs)["agent"]["delta"] == 1e-3
    assert tuned("trpo", "CartPole-v1", configs)["num_envs"] == 3
    assert tuned("ddpg", "CartPole-v1", configs) == {}


def test_an_entry_for_one_language_model_comes_after_the_one_for_all(configs: Path) -> None:
    (configs / "kimi.yaml").write_text("""
    "text/* @ tiny": {agent: {tau: 1.0}, env: {cot: true}, warmup: {episodes: 5}}
    "text/*": {agent: {tau: 2.0, epochs: 3}}
    "text/* @ big": {num_envs: 9}
    """)
    assert tuned("kimi", "text/a", configs) == {
        "agent": {"tau": 1.0, "epochs": 3},
        "env": {"cot": True},
        "warmup": {"episodes": 5},
    }
    assert tuned("kimi", "text/a", configs, ("big",)) == {
        "agent": {"tau": 2.0, "epochs": 3},
        "env": {},
        "warmup": {},
        "num_envs": 9,
    }


def test_text_on_screens_has_settings_of_its_own() -> None:
    typed, text = (parse_run(["kimi", "gui/login-v0", "--env.actions", name]) for name in ("typed", "text"))
    assert (typed.agent, typed.num_envs) == (text.agent, text.num_envs)
    assert (typed.warmup.round_episodes, text.warmup.round_episodes) == (256, 512)


@pytest.mark.usefixtures("configs")
def test_command_line_over_tuned_over_default() -> None:
    options = parse_run(["trpo", "HalfCheetah-v4", "--agent.lam", "0.8", "--num-envs", "7"])
    assert (options.num_envs, options.total_timesteps) == (7, 500)
    agent = options.agent
    assert (agent.lam, agent.delta, agent.gamma) == (0.8, 0.9, 0.5)
    assert agent.damping == type(agent)().damping


@pytest.mark.usefixtures("configs")
def test_help_shows_the_defaults_that_apply(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_run(["trpo", "HalfCheetah-v4", "--total-timesteps", "200000", "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--agent.delta FLOAT Trust region" in text
    for shown in ("(default: 0.9)", "(default: 4000)", "(default: 10000)"):
        assert shown in text


@pytest.mark.usefixtures("capsys")
def test_general_help_needs_neither_algorithm_nor_environment() -> None:
    with pytest.raises(SystemExit) as stop:
        parse_run(["--help"])
    assert stop.value.code == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("default: {num_env: 3}", "trpo.yaml, default: there is no setting 'num_env'. Did you mean num_envs"),
        ("default: {agent: {lamb: 3}}", "trpo.yaml: there is no setting 'lamb'. Did you mean lam"),
    ],
)
def test_unknown_tuned_settings_are_refused(configs: Path, refused: Refused, content: str, message: str) -> None:
    (configs / "trpo.yaml").write_text(content)
    assert refused(run.command, ["trpo", "HalfCheetah-v4"]).startswith(message)


def shipped() -> list[tuple[str, str]]:
    found = []
    for path in sorted(settings.CONFIGS.glob("*.yaml")):
        algo = path.stem.replace("sb3-", "sb3/")
        for name in yaml.safe_load(path.read_text()):
            found.append((algo, "Pendulum-v1" if name == "default" else name.replace("?", "4")))
    return found


@pytest.mark.parametrize(("algo", "env_id"), shipped())
def test_shipped_settings_are_settings_of_the_algorithm(algo: str, env_id: str) -> None:
    values = tuned(algo, env_id)
    agent = settings.build(settings.config_type(algo), values["agent"], algo)
    for field in dataclasses.fields(agent):
        default = settings.field_default(field)
        loose = "PrimitiveConstructorSpec" in str(field.type)  # Stable-Baselines3's int | tuple[int, str], say
        if default is not None and not loose:
            assert type(getattr(agent, field.name)) is type(default), field.name


def test_algorithms_are_those_of_the_library() -> None:
    import agents

    assert set(settings.ALGORITHMS) == set(agents.ALGORITHMS)


def test_a_saved_configuration_gives_the_same_options(trpo_run: Path, ppo_run: Path) -> None:
    for path in (trpo_run, ppo_run):
        saved = yaml.safe_load((path / "config.yaml").read_text())
        options = parse_run(["--resume", str(path)])
        assert options.config() == {name: saved[name] for name in options.config()}
        assert saved["versions"]["torch"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_envs": "two"}, "config.yaml: num_envs must be int, got 'two'"),
        ({"agent": {"delta": [1]}}, r"agent settings in config.yaml: delta must be float, got \[1\]"),
        ({"env_options": {"ctrl_cost_weight": "a"}}, "environment options in config.yaml: ctrl_cost_weight must be"),
        ({"seed": None}, "is not the configuration of a run"),
    ],
)
def test_a_configuration_of_wrong_types_is_refused(trpo_run: Path, tmp_path: Path, change: dict, message: str) -> None:
    saved = yaml.safe_load((trpo_run / "config.yaml").read_text()) | change
    if saved["seed"] is None:
        del saved["seed"]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    with pytest.raises(ValueError, match=message):
        parse_run(["--resume", str(tmp_path)])


def test_intervals_follow_the_steps_given_however_they_are_written() -> None:
    options = parse_run(["trpo", "HalfCheetah-v4", "--total-timesteps", "1", "--total-timesteps", "200_000"])
    assert (options.total_timesteps, options.eval_freq, options.checkpoint_freq) == (200_000, 4000, 10_000)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name an algorithm and an environment"),
        (["trpo"], "name the environment too"),
        (["tropo", "HalfCheetah-v4"], "there is no algorithm 'tropo'. Did you mean trpo"),
        (["trpo", "HalfCheeta-v4"], "There is no environment 'HalfCheeta-v4'. Did you mean HalfCheetah-v4"),
        (["trpo", "nowhere:X-v0"], "nowhere:X-v0 cannot be loaded here"),
        (
            ["trpo", "HalfCheetah-v4", "--agent.delt", "1"],
            "Unrecognized options: --agent.delt, 1. Did you mean --agent.delta?",
        ),
        (["trpo", "HalfCheetah-v4", "--seed", "one"], "Error parsing --seed"),
        (["trpo", "HalfCheetah-v4", "--seed", str(2**32)], "--seed must be below 2**32"),
        (["trpo", "HalfCheetah-v4", "--num-envs", "0"], "--num-envs must be at least 1, got 0"),
        (["trpo", "HalfCheetah-v4", "--total-timesteps", "0"], "--total-timesteps must be at least 1"),
        (["trpo", "HalfCheetah-v4", "--matmul-precision", "low"], "--matmul-precision must be one of highest"),
        (["trpo", "HalfCheetah-v4", "--eval-freq", "-5"], "--eval-freq must not be negative"),
        (["trpo", "HalfCheetah-v4", "--device", "toaster"], "--device toaster cannot be used here"),
        (["trpo", "HalfCheetah-v4", "--agent.n-steps", "0"], "trpo: n_steps must be positive"),
        (["trpo", "HalfCheetah-v4", "--env.ctrl-cost", "1"], "Unrecognized options: --env.ctrl-cost"),
        (
            ["ddpg", "Pendulum-v1", "--agent.batch-size", "100", "--agent.buffer-size", "50"],
            "ddpg: batch_size 100 is larger than buffer_size 50",
        ),
        (["ddpg", "Pendulum-v1", "--agent.buffer-size", str(10**14)], "Unable to allocate"),
        (["sb3/ddpg", "CartPole-v1"], "sb3/ddpg refuses these settings"),
        (["sb3/ppo", "Pendulum-v1", "--agent.policy-kwargs", "{a: ["], "Error parsing --agent.policy-kwargs"),
        (["--resume", "nowhere"], "there is no directory nowhere"),
    ],
)
def test_mistakes_get_a_sentence_and_leave_nothing_behind(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert refused(run.command, argv).startswith(message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--agent.gamma", "0.5"], "--agent.gamma 0.5 contradicts the run"),
        (["--seed", "4"], "--seed 4 contradicts the run"),
        (["--env.ctrl-cost-weight", "3"], "--env.ctrl-cost-weight 3.0 contradicts the run"),
        (["--out", "elsewhere"], "--out cannot be combined with --resume"),
    ],
)
def test_a_resumed_run_keeps_its_settings(refused: Refused, trpo_run: Path, argv: list[str], message: str) -> None:
    assert refused(run.command, ["--resume", str(trpo_run), *argv]).startswith(message)
    other = refused(run.command, ["ddpg", "HalfCheetah-v4", "--resume", str(trpo_run)])
    assert "is a run of trpo on HalfCheetah-v4, not of ddpg" in other


def test_environment_options_reach_the_environment(tmp_path: Path) -> None:
    options = parse_run(["trpo", "HalfCheetah-v4", "--env.ctrl-cost-weight", "0.5"])
    assert options.env_kwargs == {"ctrl_cost_weight": 0.5}
    from experiments.environments import make_eval_env, make_single

    def cost(env) -> float:  # type: ignore[no-untyped-def]
        env.reset(seed=0)
        info = env.step(env.action_space.high)[-1]
        env.close()
        return float(abs(np.squeeze(info["reward_ctrl"])))

    assert cost(make_eval_env("HalfCheetah-v4", 1, options.env_kwargs)) == pytest.approx(0.5 * 6)
    assert cost(make_single("HalfCheetah-v4", **options.env_kwargs)) == pytest.approx(0.5 * 6)
