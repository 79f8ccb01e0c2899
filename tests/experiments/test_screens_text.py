"""A run of the language model with eyes from the command line: what it leaves, and that it goes on exactly."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from experiments import evaluate, run
from experiments.rundir import RunDir
from tests.experiments.test_resume import assert_same

ARGV = [
    *("kimi", "gui/click-button-v0", "--agent.model", "tiny", "--env.actions", "text", "--env.max-steps", "2"),
    *("--num-envs", "4", "--agent.group-size", "2", "--agent.groups-per-iteration", "2", "--agent.max-tokens", "5"),
    *("--warmup.episodes", "16", "--warmup.round-episodes", "8", "--eval-episodes", "2", "--eval-freq", "8"),
    *("--eval-samples", "2", "--checkpoint-freq", "8", "--no-progress"),
]


def test_a_run_leaves_completions_and_screens_and_goes_on_exactly(tmp_path: Path) -> None:
    whole, longer = tmp_path / "whole", tmp_path / "longer"
    assert run.command([*ARGV, "--total-timesteps", "16", "--out", str(whole)]) == 0
    assert run.command([*ARGV, "--total-timesteps", "8", "--out", str(longer)]) == 0
    assert run.command(["--resume", str(longer), "--total-timesteps", "16", "--no-progress"]) == 0
    assert_same(whole, longer, best=False)

    rows = RunDir(whole).read_completions()
    assert {row["phase"] for row in rows} == {"training", "evaluation"}
    assert all("utton" in row["prompt"] or "Press" in row["prompt"] for row in rows)  # the instructions
    assert all(row["length"] <= 5 for row in rows)
    with Image.open(whole / "screens" / "step-0.gif") as moving:
        assert moving.n_frames > 2
    progress = RunDir(whole).read_progress()
    assert sum(bool(row["warmup/loss"]) for row in progress) == 2
    assert sum(bool(row["eval/pass_at_2"]) for row in progress) >= 3


def test_a_run_is_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run.command([*ARGV, "--total-timesteps", "8", "--out", str(out)]) == 0
    capsys.readouterr()
    assert evaluate.command([str(out), "--episodes", "3"]) == 0
    printed = capsys.readouterr().out
    assert "accuracy" in printed
    assert "cut short             100.0% of the responses" in printed


def test_a_model_that_does_not_see_is_refused(
    refused: Callable[[Callable[[list[str]], int], list[str]], str],
) -> None:
    sentence = refused(run.command, [*ARGV, "--agent.model", "smollm2"])
    assert sentence.startswith("the model smollm2 sees no pictures; screens take tiny")
