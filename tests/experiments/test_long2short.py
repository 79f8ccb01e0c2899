"""Each way of long2short leaves a run that the other commands understand, and tells the truth about it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import agents
from experiments import compare, evaluate, long2short, run
from experiments.rundir import RunDir

Refused = Callable[[Callable[[list[str]], int], list[str]], str]
TEXT = [
    *("kimi", "reasoning/addition-v0", "--env.difficulty", "1", "--env.no-cot", "--num-envs", "32", "--no-progress"),
    *("--agent.group-size", "4", "--agent.groups-per-iteration", "8", "--agent.max-tokens", "6"),
    *("--eval-episodes", "20", "--eval-samples", "1", "--eval-freq", "32", "--checkpoint-freq", "32"),
]
SAMPLED = ["--problems", "40", "--samples", "4", "--batch-size", "8", "--episodes", "20"]


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("long") / "run"
    warmup = ["--warmup.episodes", "4000", "--warmup.batch-size", "32", "--warmup.target-loss", "0"]
    assert run.command([*TEXT, *warmup, "--total-timesteps", "32", "--out", str(out)]) == 0
    return out


def report(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    capsys.readouterr()
    assert evaluate.command([str(path), "--episodes", "20", "--json"]) == 0
    found: dict[str, float] = json.loads(capsys.readouterr().out)
    return found


def weights(path: Path) -> torch.Tensor:
    agent = agents.load(path / "checkpoints" / "best.safetensors", device="cpu")
    return torch.cat([p.detach().flatten() for p in agent.policy.parameters()])


@pytest.mark.parametrize("method", ["rejection", "dpo"])
def test_what_is_written_is_a_run_like_any_other(
    method: str, long_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "short"
    assert long2short.command([method, str(long_run), *SAMPLED, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "before" in printed
    assert "after" in printed
    told = json.loads((out / "long2short.json").read_text())
    for when, path in (("before", long_run), ("after", out)):
        found = report(path, capsys)
        assert (told[when]["accuracy"], told[when]["mean_length"]) == (found["accuracy"], found["response_length"])
    assert not torch.equal(weights(out), weights(long_run))
    config = RunDir(out).read_config()
    assert config["init"] == str(long_run)
    assert config["long2short"]["method"] == method
    assert [row["timesteps"] for row in RunDir(out).read_evaluations()] == [160]
    assert {row["phase"] for row in RunDir(out).read_completions()} == {"evaluation"}

    picture = tmp_path / "c.png"
    assert compare.command([str(long_run), str(out), "--by", "method", "--out", str(picture)]) == 0
    printed = capsys.readouterr().out
    assert f"kimi, method {method}" in printed
    assert "kimi, method run" in printed
    assert run.command(["--resume", str(out), "--total-timesteps", "192", "--no-progress"]) == 0
    assert [row["timesteps"] for row in RunDir(out).read_evaluations()] == [160, 192]


def test_averages(long_run: Path, tmp_path: Path) -> None:
    other, made = tmp_path / "other", tmp_path / "average"
    assert run.command([*TEXT, "--warmup.episodes", "0", "--total-timesteps", "32", "--out", str(other)]) == 0
    argv = ["average", str(long_run), str(other), "--weight", "0.25", "--episodes", "5", "--out", str(made)]
    assert long2short.command(argv) == 0
    torch.testing.assert_close(weights(made), 0.75 * weights(long_run) + 0.25 * weights(other))
    same = tmp_path / "same"
    assert long2short.command([*argv[:2], str(long_run), "--episodes", "20", "--out", str(same)]) == 0
    told = json.loads((same / "long2short.json").read_text())
    assert {**told["before"], "run": ""} == {**told["after"], "run": ""}


def test_a_second_phase_of_reinforcement_learning(
    long_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rl"
    argv = ["rl", str(long_run), "--total-timesteps", "64", "--agent.tau", "0.25", "--no-progress", "--out", str(out)]
    assert long2short.command(argv) == 0
    before, after = RunDir(long_run).read_config(), RunDir(out).read_config()
    assert after["agent"]["length_reward_weight"] == 0.5
    assert after["agent"]["max_tokens"] < 6
    assert after["agent"]["tau"] == 0.25
    assert after["warmup"]["episodes"] == 0
    changed = {"length_reward_weight", "max_tokens", "tau"}
    assert {k: v for k, v in after["agent"].items() if k not in changed} == {
        k: v for k, v in before["agent"].items() if k not in changed
    }
    assert after["env_options"] == before["env_options"]
    first = RunDir(out).read_evaluations()[0]
    assert (first["timesteps"], first["mean_reward"]) == (
        0,
        max(row["mean_reward"] for row in RunDir(long_run).read_evaluations()),
    )
    assert set(json.loads((out / "long2short.json").read_text())) == {"before", "after"}


def test_a_run_that_begins_with_another_ones_policy_starts_over_alike(long_run: Path, tmp_path: Path) -> None:
    """Killed behind the first evaluation and before the first checkpoint, it must begin with that policy once more."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    argv = [*TEXT, "--init", str(long_run), "--warmup.episodes", "0", "--total-timesteps", "64", "--out", str(whole)]
    assert run.command(argv) == 0
    (killed / "checkpoints").mkdir(parents=True)
    shutil.copy(whole / "config.yaml", killed)
    for name in ("evaluations.csv", "progress.csv", "completions.jsonl"):
        lines = (whole / name).read_text().splitlines(keepends=True)
        (killed / name).write_text("".join(lines[:3]))
    assert run.command(["--resume", str(killed), "--no-progress"]) == 0
    for name in ("checkpoints/latest.safetensors", "evaluations.csv", "completions.jsonl"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


def test_mistakes(refused: Refused, long_run: Path, trpo_run: Path, ppo_run: Path, tmp_path: Path) -> None:
    def sentence(*argv: str | Path) -> str:
        return refused(long2short.command, [str(word) for word in argv])

    assert "Did you mean rejection?" in sentence("reject", long_run)
    assert "HalfCheetah-v4 takes none" in sentence("dpo", trpo_run)
    assert "this project's agents" in sentence("rejection", ppo_run)
    assert "name the run" in sentence("rl")
    assert "is not empty" in sentence("dpo", long_run, "--out", long_run / "checkpoints")
    assert "--weight must lie" in sentence("average", long_run, long_run, "--weight", "2")
    assert "--samples must be at least 1" in sentence("dpo", long_run, "--samples", "0")
    alone = tmp_path / "alone.safetensors"
    shutil.copy(long_run / "checkpoints" / "best.safetensors", alone)
    assert "lies in no run directory" in sentence("dpo", alone)
    assert "does not fit this run" in refused(run.command, ["trpo", "CartPole-v1", "--init", str(trpo_run)])
    assert "weights of its own" in refused(run.command, ["sb3/ppo", "CartPole-v1", "--init", str(trpo_run)])
    assert not list(tmp_path.glob("runs*"))
