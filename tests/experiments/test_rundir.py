from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import rundir
from experiments.rundir import RunDir


def evaluation(step: int) -> dict[str, float]:
    return dict.fromkeys(rundir.EVALUATION_COLUMNS, 0.5) | {"timesteps": step}


def test_layout_of_a_default_directory(tmp_path: Path) -> None:
    run = rundir.create_run(None, "sb3/trpo", "reasoning/addition-v0", 7, root=tmp_path)
    algo, env_id, name = run.path.relative_to(tmp_path).parts
    assert (algo, env_id) == ("sb3-trpo", "reasoning-addition-v0")
    assert name.startswith("seed7-")
    assert run.checkpoints.is_dir()


def test_runs_of_the_same_second_get_directories_of_their_own(tmp_path: Path) -> None:
    made = {rundir.create_run(None, "trpo", "X-v0", 0, root=tmp_path).path for _ in range(4)}
    assert len(made) == 4


@pytest.mark.parametrize("name", ["config.yaml", "thesis.tex"])
def test_a_directory_that_holds_anything_is_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match="choose another --out"):
        rundir.create_run(tmp_path, "trpo", "X-v0", 0)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "precious"


def test_an_empty_directory_is_taken(tmp_path: Path) -> None:
    assert rundir.create_run(tmp_path, "trpo", "X-v0", 0).path == tmp_path


@given(rows=st.integers(0, 6), torn=st.integers(0, 200), last=st.integers(-1, 7))
def test_cutting_keeps_exactly_the_whole_rows_up_to_the_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, rows: int, torn: int, last: int
) -> None:
    run = RunDir(tmp_path_factory.mktemp("run"))
    for step in range(1, rows + 1):
        run.append_evaluation(evaluation(step))
    if rows:
        content = run.evaluations.read_bytes()
        next_row = rundir.csv_line([evaluation(rows + 1)[column] for column in rundir.EVALUATION_COLUMNS]).encode()
        run.evaluations.write_bytes(content + next_row[: min(torn, len(next_row) - 1)])
    run.cut_after(last)
    assert [row["timesteps"] for row in run.read_evaluations()] == [n for n in range(1, rows + 1) if n <= last]
    if rows:  # the next row goes where it belongs
        run.append_evaluation(evaluation(99))
        assert run.read_evaluations()[-1]["timesteps"] == 99


def test_a_half_written_header_counts_as_no_file(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.evaluations.write_text("timesteps,mean_rew")
    run.cut_after(100)
    run.append_evaluation(evaluation(5))
    assert [row["timesteps"] for row in run.read_evaluations()] == [5]


def test_a_second_process_cannot_train_in_a_claimed_directory(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from experiments.rundir import *\n"
        "with claimed(RunDir(Path(sys.argv[1]))): print('claimed')"
    )

    def other() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)

    with rundir.claimed(RunDir(tmp_path)):
        assert "another process is training" in other().stderr
    assert other().stdout == "claimed\n"


def test_runs_are_found_below_a_directory(tmp_path: Path) -> None:
    for name in ("a/seed0", "b"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("{}")
        (folder / "progress.csv").write_text("")
    (tmp_path / "c").mkdir()
    assert [run.path for run in rundir.find_runs(tmp_path)] == [tmp_path / "a/seed0", tmp_path / "b"]
    with pytest.raises(ValueError, match="no run in"):
        rundir.find_runs(tmp_path / "c")
    with pytest.raises(ValueError, match="no directory"):
        rundir.find_runs(tmp_path / "d")


@given(
    steps=st.lists(st.integers(0, 5), max_size=6), torn=st.booleans(), last=st.integers(-1, 6), text=st.text(max_size=5)
)
def test_completions_are_cut_as_the_other_files_are(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], torn: bool, last: int, text: str
) -> None:
    run = RunDir(tmp_path_factory.mktemp("run"))
    rows = [{"timesteps": step, "response": text} for step in sorted(steps)]
    run.append_completions(rows)
    if torn:
        with run.completions.open("a") as file:
            file.write('{"timesteps": 0, "resp')
    assert run.read_completions() == rows
    run.cut_after(last)
    kept = [row for row in rows if row["timesteps"] <= last]
    assert run.read_completions() == kept
    run.append_completions(rows[:1])
    assert run.read_completions() == kept + rows[:1]


def test_a_table_that_is_not_a_runs_is_refused_by_name(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.append_evaluation(evaluation(5))
    whole = run.evaluations.read_text()
    run.evaluations.write_text(whole.replace("mean_reward", "score", 1))
    with pytest.raises(ValueError, match=r"evaluations\.csv lacks the column mean_reward"):
        run.read_evaluations()
    run.evaluations.write_text(whole.replace("0.5", "half", 1))
    with pytest.raises(ValueError, match=r"evaluations\.csv holds 'half' under mean_reward"):
        run.read_evaluations()
    run.progress.write_text("steps,loss\n5,0.1\n")
    with pytest.raises(ValueError, match=r"progress\.csv lacks the column time/total_timesteps"):
        run.cut_after(5)
    assert run.progress.read_text() == "steps,loss\n5,0.1\n"
