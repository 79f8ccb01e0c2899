"""A run that was killed, stopped or cut short ends as one that never was, byte for byte."""

from __future__ import annotations

import csv
import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.core import evaluation
from agents.core.evaluation import EpisodeStats
from experiments import ours, run
from experiments.rundir import RunDir

Refused = Callable[[Callable[[list[str]], int], list[str]], str]

RUNS = {
    "trpo": [
        *("trpo", "Pendulum-v1", "--total-timesteps", "3000", "--num-envs", "4"),
        *("--agent.n-steps", "64", "--agent.critic-epochs", "2"),
    ],
    "ddpg": [
        *("ddpg", "HalfCheetah-v4", "--total-timesteps", "2500", "--num-envs", "2", "--agent.hidden", "16"),
        *("--agent.learning-starts", "200", "--agent.batch-size", "32", "--agent.buffer-size", "1000"),
        *("--agent.train-freq", "2", "--agent.noise", "ou"),
    ],
    "actor-critic": [
        "actor-critic",
        "HalfCheetah-v4",
        "--total-timesteps",
        "6000",
        "--num-envs",
        "4",
        "--agent.anneal",
    ],
    "kimi": [
        *("kimi", "reasoning/addition-v0", "--total-timesteps", "1800", "--num-envs", "16", "--env.difficulty", "1"),
        *("--agent.group-size", "4", "--agent.groups-per-iteration", "8", "--agent.max-tokens", "6"),
        *("--agent.token-budget", "150", "--eval-samples", "2", "--warmup.episodes", "0"),
    ],
}


CLOCKED = ("time/fps", "time/time_elapsed", "time/tokens_per_second")


def command_line(argv: list[str]) -> list[str]:
    return [sys.executable, "-m", "experiments.run", *argv]


def timeless(path: Path) -> list[dict[str, str]]:
    """progress.csv without the columns that a clock fills."""
    with path.open() as file:
        return [{key: value for key, value in row.items() if key not in CLOCKED} for row in csv.DictReader(file)]


def assert_same(one: Path, other: Path, best: bool = True) -> None:
    for name in ["checkpoints/latest.safetensors", "evaluations.csv", *(["checkpoints/best.safetensors"] * best)]:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    if (one / "completions.jsonl").exists():
        assert (one / "completions.jsonl").read_bytes() == (other / "completions.jsonl").read_bytes()
    rows = timeless(one / "progress.csv")
    assert rows == timeless(other / "progress.csv")
    assert len(rows) > 3
    steps = {path.name for path in (one / "checkpoints").iterdir()}
    assert steps == {path.name for path in (other / "checkpoints").iterdir()}


@pytest.mark.parametrize("algo", RUNS)
def test_killed_at_any_moment_and_resumed(algo: str, small: list[str], tmp_path: Path) -> None:
    argv = [*RUNS[algo], "--seed", "3", *small]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # Each evaluation prints a line: the kill comes while the iterations after the third one are under way.
    with subprocess.Popen(
        command_line([*argv, "--out", str(killed)]), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        seen = 0
        for line in process.stdout:
            seen += "evaluation" in line
            if seen == 3:
                process.kill()
                break
    assert process.returncode == -signal.SIGKILL
    assert run.command([*argv, "--out", str(whole)]) == 0
    assert run.command(["--resume", str(killed), "--no-progress"]) == 0
    assert_same(whole, killed)


def test_killed_before_the_first_checkpoint_starts_over(trpo_run: Path, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    (begun / "checkpoints").mkdir(parents=True)
    shutil.copy(trpo_run / "config.yaml", begun)
    rows = (trpo_run / "progress.csv").read_text().splitlines(keepends=True)
    (begun / "progress.csv").write_text("".join(rows[:2]) + rows[2][:5])
    assert run.command(["--resume", str(begun), "--no-progress"]) == 0
    assert_same(trpo_run, begun)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_writes_a_checkpoint_and_the_run_goes_on_as_if_nothing_had_been(
    number: int, status: int, trpo_argv: list[str], trpo_run: Path, tmp_path: Path
) -> None:
    stopped = tmp_path / "stopped"
    argv = [*trpo_argv, "--total-timesteps", "2048", "--out", str(stopped)]
    with subprocess.Popen(command_line(argv), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "evaluation" in line:
                process.send_signal(number)
                break
        _, errors = process.communicate()
    assert process.returncode == status
    assert f"Go on with: python -m experiments.run --resume {stopped}" in errors
    assert "Traceback" not in errors
    last = int(timeless(stopped / "progress.csv")[-1]["time/total_timesteps"])
    assert last < 2048
    assert (stopped / "curve.png").exists()
    assert run.command(["--resume", str(stopped), "--no-progress"]) == 0
    assert_same(trpo_run, stopped)


def test_a_signal_cuts_an_evaluation_short_and_the_resumed_run_makes_it(
    trpo_argv: list[str], trpo_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped, steps = tmp_path / "stopped", itertools.count()

    def evaluate(*args: Any, step_made: Callable[[], None], **kwargs: Any) -> EpisodeStats:
        def stop_in_the_second() -> None:  # evaluation: its episodes have 1000 steps
            if next(steps) == 1250:
                os.kill(os.getpid(), signal.SIGTERM)
            step_made()

        return evaluation.evaluate(*args, step_made=stop_in_the_second, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(ours, "evaluate", evaluate)
        assert run.command([*trpo_argv, "--total-timesteps", "2048", "--out", str(stopped)]) == 143
    assert next(steps) < 1300
    assert len(RunDir(stopped).read_evaluations()) == 1
    assert run.command(["--resume", str(stopped), "--no-progress"]) == 0
    assert_same(trpo_run, stopped)


def test_a_complete_run_says_so_and_goes_further_only_when_asked(
    trpo_argv: list[str], trpo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer, whole = tmp_path / "longer", tmp_path / "whole"
    shutil.copytree(trpo_run, longer)
    assert run.command(["--resume", str(longer)]) == 0
    assert "is complete: it has 2,048 steps" in capsys.readouterr().out
    assert_same(trpo_run, longer)
    assert run.command(["--resume", str(longer), "--total-timesteps", "3072", "--no-progress"]) == 0
    assert run.command([*trpo_argv, "--total-timesteps", "3072", "--out", str(whole)]) == 0
    assert_same(whole, longer, best=False)  # the best one came early: it knows of fewer steps to make


def test_a_damaged_checkpoint_is_refused_and_nothing_is_cut(trpo_run: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(trpo_run, damaged)
    latest = damaged / "checkpoints" / "latest.safetensors"
    latest.write_bytes(latest.read_bytes()[:-100])
    before = (damaged / "progress.csv").read_bytes()
    with pytest.raises(ValueError, match=r"latest\.safetensors"):
        run.command(["--resume", str(damaged), "--total-timesteps", "4096"])
    assert (damaged / "progress.csv").read_bytes() == before


def test_errors_leave_the_command_line_with_a_sentence_and_code_2(trpo_argv: list[str], tmp_path: Path) -> None:
    out = tmp_path / "taken"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    done = subprocess.run(command_line([*trpo_argv, "--out", str(out)]), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"error: {out} is not empty; choose another --out\n"
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_without_its_latest_checkpoint_nothing_is_begun_anew(refused: Refused, trpo_run: Path, tmp_path: Path) -> None:
    one = tmp_path / "run"
    shutil.copytree(trpo_run, one)
    (one / "checkpoints" / "latest.safetensors").unlink()
    kept = {path: path.read_bytes() for path in one.rglob("*") if path.is_file()}
    message = refused(run.command, ["--resume", str(one)])
    assert "latest.safetensors is missing" in message
    assert "copy step-2048.safetensors to that name" in message
    shutil.rmtree(one / "checkpoints")
    assert "put it back" in refused(run.command, ["--resume", str(one)])
    assert all(path.read_bytes() == kept[path] for path in kept if path.exists())
    assert (one / "evaluations.csv").exists()


def test_a_checkpoint_of_another_run_is_refused(refused: Refused, trpo_run: Path, tmp_path: Path) -> None:
    one = tmp_path / "run"
    shutil.copytree(trpo_run, one)
    config = one / "config.yaml"
    said = config.read_text()
    for old, new, told in (
        ("delta: 0.24", "delta: 0.5", "delta 0.24, but config.yaml says 0.5"),
        ("seed: 0", "seed: 7", "seed 0, but config.yaml says 7"),
    ):
        assert old in said
        config.write_text(said.replace(old, new))
        assert told in refused(run.command, ["--resume", str(one), "--total-timesteps", "4096"])


def test_what_else_lies_among_the_checkpoints_is_left_alone(trpo_run: Path, tmp_path: Path) -> None:
    one = tmp_path / "run"
    shutil.copytree(trpo_run, one)
    checkpoints = one / "checkpoints"
    mine = [checkpoints / name for name in ("step-1024-good.safetensors", "step-512.safetensors.bak")]
    for path in mine:
        shutil.copy(checkpoints / "step-2048.safetensors", path)
    assert run.command(["--resume", str(one), "--total-timesteps", "4096"]) == 0
    assert all(path.exists() for path in mine)
    assert len(list(checkpoints.glob("step-*.safetensors"))) == 3 + 1  # --keep-last and the first of these


def test_killed_between_the_first_checkpoints_two_files(trpo_run: Path, tmp_path: Path) -> None:
    """`step-<N>` was written, `latest` not yet: the run begins anew and ends as one that was never killed."""
    one = tmp_path / "run"
    shutil.copytree(trpo_run, one)
    for path in (one / "checkpoints").iterdir():
        path.unlink()
    (one / "checkpoints" / "step-512.safetensors").write_bytes(b"whole or not")
    RunDir(one).cut_after(512)
    assert run.command(["--resume", str(one)]) == 0
    assert_same(one, trpo_run)
