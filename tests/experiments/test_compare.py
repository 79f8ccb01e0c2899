from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from experiments import compare
from experiments.rundir import RunDir

Refused = Callable[[Callable[[list[str]], int], list[str]], str]


def made_up(path: Path, algo: str, seed: int, means: list[float], **agent: float) -> RunDir:
    """A run whose evaluations, every 10 steps, are `means`."""
    path.mkdir(parents=True)
    run = RunDir(path)
    run.write_config({"algo": algo, "env": "X-v0", "seed": seed, "agent": agent})
    lines = [f"{10 * (i + 1)},{mean},{100 + seed}\n" for i, mean in enumerate(means)]
    run.progress.write_text("time/total_timesteps,eval/mean_reward,time/fps\n" + "".join(lines))
    return run


def test_table_over_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up(tmp_path / "runs/a/1", "ours", 1, [100.0, *range(10)])  # the last ten: 0..9
    made_up(tmp_path / "runs/a/2", "ours", 2, [0.0, *range(2, 12)])
    made_up(tmp_path / "runs/b", "theirs", 0, [7.0])
    out = tmp_path / "new" / "figure.png"
    assert compare.command([str(tmp_path / "runs"), "--out", str(out)]) == 0
    with out.with_suffix(".csv").open() as file:
        ours, theirs = csv.DictReader(file)
    assert (ours["algo"], ours["seeds"], ours["steps"]) == ("ours", "2", "110")
    assert float(ours["final mean"]) == (4.5 + 6.5) / 2
    assert float(ours["final std"]) == pytest.approx(2**0.5, abs=0.05)
    assert float(ours["maximum"]) == (100 + 11) / 2
    assert float(ours["steps/s"]) == round((101 + 102) / 2)
    assert (theirs["algo"], theirs["seeds"], float(theirs["maximum"])) == ("theirs", "1", 7.0)
    assert theirs["final std"] == "nan"
    assert out.read_bytes().startswith(b"\x89PNG")
    table = out.with_suffix(".md").read_text()
    assert "| ours | X-v0 | 2 | 110 | 5.5 |" in table
    assert "note" not in capsys.readouterr().out


def test_the_table_is_of_the_metric(tmp_path: Path) -> None:
    run = made_up(tmp_path / "a", "ours", 1, [1.0, 2.0])
    rows = [float(line["time/fps"]) for line in run.read_progress() if line["time/fps"]]
    out = tmp_path / "c.png"
    assert compare.command([str(run.path), "--metric", "time/fps", "--out", str(out)]) == 0
    with out.with_suffix(".csv").open() as file:
        [line] = csv.DictReader(file)
    assert float(line["final mean"]) == pytest.approx(sum(rows) / len(rows), abs=0.05)
    assert float(line["maximum"]) == max(rows)
    assert "`time/fps`" in out.with_suffix(".md").read_text()


def test_a_directory_given_twice_counts_once(tmp_path: Path) -> None:
    run = made_up(tmp_path / "a", "ours", 1, [1.0])
    out = tmp_path / "c.png"
    assert compare.command([str(run.path), str(tmp_path), "--out", str(out)]) == 0
    assert ",1,10," in out.with_suffix(".csv").read_text()


def test_runs_that_are_no_seeds_of_one_thing_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_up(tmp_path / "a", "ours", 1, [1.0], gamma=0.9)
    made_up(tmp_path / "b", "ours", 1, [2.0], gamma=0.8)
    assert compare.command([str(tmp_path), "--out", str(tmp_path / "c.png")]) == 0
    printed = capsys.readouterr().out
    assert "note: ours on X-v0 has a seed more than once: 1, 1" in printed
    assert "note: the runs of ours on X-v0 differ in agent.gamma" in printed


def test_unfinished_runs_are_noted_and_those_without_an_evaluation_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, means in enumerate(([1.0, 3.0], [5.0], [])):
        run = made_up(tmp_path / str(seed), "ours", seed, means)
        run.write_config({**run.read_config(), "total_timesteps": 20})
    out = tmp_path / "c.png"
    assert compare.command([str(tmp_path), "--out", str(out)]) == 0
    with out.with_suffix(".csv").open() as file:
        [line] = csv.DictReader(file)
    assert (line["seeds"], line["steps"], line["final mean"]) == ("2", "10", "3.5")
    notes = [text for text in capsys.readouterr().out.splitlines() if text.startswith("note: ")]
    assert notes == [
        f"note: {tmp_path / '1'} has 10 of its 20 steps",
        f"note: {tmp_path / '2'} has no eval/mean_reward yet and is left out",
    ]


def test_curves_are_told_apart_by_a_setting(
    refused: Refused, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, gamma in ((0, 0.5), (1, 0.5), (0, 0.9)):
        made_up(tmp_path / f"runs/{gamma}-{seed}", "ours", seed, [gamma], gamma=gamma)
    argv = [str(tmp_path / "runs"), "--out", str(tmp_path / "figure.png"), "--by"]
    assert compare.command([*argv, "agent.gamma"]) == 0
    assert "differ" not in capsys.readouterr().out
    with (tmp_path / "figure.csv").open() as file:
        found = [(row["algo"], row["seeds"], float(row["maximum"])) for row in csv.DictReader(file)]
    assert found == [("ours, gamma 0.5", "2", 0.5), ("ours, gamma 0.9", "1", 0.9)]
    assert "no setting 'agent.gama'. Did you mean agent.gamma?" in refused(compare.command, [*argv, "agent.gama"])


def test_our_runs_and_stable_baselines3s_lie_beside_each_other(
    trpo_run: Path, ppo_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for run in (trpo_run, ppo_run):
        assert {"config.yaml", "progress.csv", "evaluations.csv", "curve.png", "checkpoints"} <= {
            path.name for path in run.iterdir()
        }
    ours, theirs = ((run / "progress.csv").read_text().splitlines()[0].split(",") for run in (trpo_run, ppo_run))
    shared = {
        *("rollout/ep_rew_mean", "rollout/ep_len_mean", "eval/mean_reward", "eval/mean_ep_length"),
        *("time/fps", "time/iterations", "time/time_elapsed", "time/total_timesteps"),
    }
    # No training episode of 1000 steps ends within so short a run of 4 environments.
    assert shared - {"rollout/ep_rew_mean", "rollout/ep_len_mean"} <= set(ours)
    assert shared <= set(theirs)
    configs = [yaml.safe_load((run / "config.yaml").read_text()) for run in (trpo_run, ppo_run)]
    assert set(configs[0]) - {"warmup"} == set(configs[1])
    assert compare.command([str(trpo_run), str(ppo_run), "--out", str(tmp_path / "c.png")]) == 0
    printed = capsys.readouterr().out
    assert "sb3/ppo" in printed
    assert "trpo " in printed


def test_nothing_but_an_earlier_table_is_overwritten(refused: Refused, trpo_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trpo_run, run)
    before = (run / "progress.csv").read_bytes()
    message = refused(compare.command, [str(run), "--out", str(run / "progress.png")])
    assert "progress.csv is no table of an earlier comparison" in message
    notes = tmp_path / "notes.md"
    notes.write_text("mine")
    assert "notes.md is no table" in refused(compare.command, [str(run), "--out", str(tmp_path / "notes.png")])
    assert ((run / "progress.csv").read_bytes(), notes.read_text()) == (before, "mine")
    for _ in range(2):  # one's own table is replaced
        assert compare.command([str(run), "--out", str(tmp_path / "table.png")]) == 0


def test_mistakes(refused: Refused, trpo_run: Path, tmp_path: Path) -> None:
    out = ["--out", str(tmp_path / "c.png")]
    assert "name at least one run" in refused(compare.command, out)
    assert "there is no directory" in refused(compare.command, [str(tmp_path / "absent"), *out])
    assert "no run in" in refused(compare.command, [str(tmp_path), *out])
    assert "Did you mean eval/mean_reward" in refused(
        compare.command, [str(trpo_run), "--metric", "eval/mean_rewards", *out]
    )
    assert "must end in .png" in refused(compare.command, [str(trpo_run), "--out", str(tmp_path / "c.txt")])
    broken = tmp_path / "broken"
    shutil.copytree(trpo_run, broken)
    (broken / "config.yaml").write_text("a: [")
    assert "is not valid YAML" in refused(compare.command, [str(broken), *out])
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
