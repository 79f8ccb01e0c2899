"""A run's supervised warm-up: where it stands in the files, kills at any moment, experts, refusals."""

from __future__ import annotations

import csv
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import agents
import envs
from experiments import run
from experiments.rundir import RunDir
from experiments.settings import parse_run

WARM = [
    *("kimi", "reasoning/string_reversal-v0", "--env.difficulty", "3", "--total-timesteps", "96", "--num-envs", "16"),
    *("--warmup.episodes", "600", "--warmup.round-episodes", "50", "--warmup.target-loss", "0"),
    *("--agent.group-size", "4", "--agent.groups-per-iteration", "4", "--agent.max-tokens", "20", "--seed", "2"),
    *("--eval-episodes", "8", "--eval-freq", "48", "--checkpoint-freq", "48", "--no-progress"),
]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        clock = ("time/fps", "time/time_elapsed", "time/tokens_per_second")
        return [{key: value for key, value in row.items() if key not in clock} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def warm_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("warm") / "run"
    assert run.command([*WARM, "--out", str(out)]) == 0
    return out


def test_it_stands_before_step_0_in_table_and_tensorboard(warm_run: Path) -> None:
    table = rows(warm_run / "progress.csv")
    steps = [int(row["time/total_timesteps"]) for row in table]
    assert steps == sorted(steps)
    losses = {int(row["time/total_timesteps"]): float(row["warmup/loss"]) for row in table if row["warmup/loss"]}
    assert list(losses) == list(range(-550, 1, 50))
    assert losses[0] < 0.9 * losses[-550]
    first = next(row for row in table if row["eval/mean_reward"])
    assert first["time/total_timesteps"] == "0"
    assert RunDir(warm_run).read_evaluations()[0]["timesteps"] == 0
    assert {"step-0.safetensors", "latest.safetensors"} <= {p.name for p in (warm_run / "checkpoints").iterdir()}
    assert not RunDir(warm_run).warmup.exists()
    events = EventAccumulator(str(warm_run))
    events.Reload()
    assert [event.step for event in events.Scalars("warmup/loss")] == list(losses)


# Lines are printed every tenth of the warm-up and at evaluations: the kill falls into the warm-up, behind its end, and
# behind the evaluation at step 0.
@pytest.mark.parametrize("lines", [4, 10, 11])
def test_killed_at_any_moment_and_resumed(lines: int, warm_run: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    argv = [sys.executable, "-m", "experiments.run", *WARM, "--out", str(killed)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += "demonstrations" in line or "evaluation" in line
            if seen == lines:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    assert run.command(["--resume", str(killed), "--no-progress"]) == 0
    for name in ("latest", "best", "step-0"):
        one, other = (folder / "checkpoints" / f"{name}.safetensors" for folder in (warm_run, killed))
        assert one.read_bytes() == other.read_bytes(), name
    assert (warm_run / "evaluations.csv").read_bytes() == (killed / "evaluations.csv").read_bytes()
    assert rows(warm_run / "progress.csv") == rows(killed / "progress.csv")
    assert {p.name for p in (warm_run / "checkpoints").iterdir()} == {
        p.name for p in (killed / "checkpoints").iterdir()
    }


def test_a_signal_in_the_warm_up_leaves_its_checkpoint(warm_run: Path, tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    argv = [sys.executable, "-m", "experiments.run", *WARM, "--out", str(stopped)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        next(line for line in process.stdout if "demonstrations" in line)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 143
    assert f"--resume {stopped}" in errors
    assert RunDir(stopped).warmup.exists()
    assert int(rows(stopped / "progress.csv")[-1]["time/total_timesteps"]) < 0
    assert run.command(["--resume", str(stopped), "--no-progress"]) == 0
    one, other = (folder / "checkpoints" / "latest.safetensors" for folder in (warm_run, stopped))
    assert one.read_bytes() == other.read_bytes()


def test_another_agent_demonstrates_torques(trpo_run: Path, small: list[str], tmp_path: Path) -> None:
    argv = ["ddpg", "HalfCheetah-v4", "--total-timesteps", "64", "--num-envs", "4", "--agent.hidden", "32", *small]
    argv += ["--warmup.episodes", "4", "--warmup.epochs", "3", "--warmup.expert", str(trpo_run)]
    assert run.command([*argv, "--out", str(tmp_path / "run")]) == 0
    table = rows(tmp_path / "run" / "progress.csv")
    assert float(table[0]["warmup/decisions"]) == 4 * 1000
    # Along the expert's own path, under a seed that was not demonstrated, the pupil does much as the expert does.
    pupil = agents.load(tmp_path / "run" / "checkpoints" / "step-0", device="cpu")
    expert = agents.load(trpo_run / "checkpoints" / "best", device="cpu")
    env = envs.make_vec("HalfCheetah-v4", num_envs=2)
    obs, _ = env.reset(seed=0)
    mistakes, torques = [], []
    for _ in range(200):
        action = expert.predict(obs, deterministic=True)[0]
        mistakes.append(pupil.predict(obs, deterministic=True)[0] - action)
        torques.append(action)
        obs, *_ = env.step(action)
    assert np.square(mistakes).mean() < 0.1 * np.square(torques).mean()


def test_refusals(refused: Callable[[Callable[[list[str]], int], list[str]], str], trpo_run: Path) -> None:
    sentence = refused(run.command, ["trpo", "CartPole-v1", "--warmup.episodes", "5", "--no-progress"])
    assert "CartPole-v1 has no demonstrations of its own" in sentence
    assert "--warmup.expert" in sentence
    argv = ["trpo", "CartPole-v1", "--warmup.episodes", "5", "--warmup.expert", str(trpo_run)]
    assert "another observation space" in refused(run.command, argv)
    assert "--warmup.episodes" in refused(run.command, ["sb3/ppo", "CartPole-v1", "--warmup.episodes", "5"])
    assert "must be 0 or above" in refused(run.command, ["trpo", "CartPole-v1", "--warmup.episodes", "-5"])


def test_a_resumed_run_keeps_its_warm_up(
    refused: Callable[[Callable[[list[str]], int], list[str]], str], warm_run: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(warm_run, copy)
    assert "--warmup.episodes 7 contradicts" in refused(run.command, ["--resume", str(copy), "--warmup.episodes", "7"])


def test_only_the_model_from_scratch_is_warmed_up_by_default() -> None:
    assert parse_run(["kimi", "reasoning/addition-v0"]).warmup.episodes > 0
    assert parse_run(["kimi", "reasoning/addition-v0", "--agent.model", "smollm2"]).warmup.episodes == 0
