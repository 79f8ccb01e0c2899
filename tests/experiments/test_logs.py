from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.logs import ConsoleFormat, CsvFormat, TensorBoardFormat
from experiments.rundir import cut_rows, read_rows

ROWS = [
    (1, {"time/total_timesteps": 1, "b": 0.1}),
    (2, {"time/total_timesteps": 2, "b": 1 / 3, "a": np.float32(2.5)}),
    (3, {"time/total_timesteps": 3, "c": torch.tensor(7.0), "text": 'say "hi", twice'}),
    (4, {"time/total_timesteps": 4, "a": 1e-300}),
]


def write(path: Path, rows: list[tuple[int, dict[str, object]]]) -> None:
    file = CsvFormat(path)
    for step, values in rows:
        file.write(values, {}, step)
    file.close()


def test_columns_grow_and_values_survive(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", ROWS)
    rows = list(read_rows(tmp_path / "x.csv"))
    assert list(rows[0]) == ["b", "time/total_timesteps", "a", "c", "text"]
    assert [row["b"] for row in rows] == ["0.1", repr(1 / 3), "", ""]
    assert rows[1]["a"] == "2.5"
    assert rows[2]["c"] == "7.0"
    assert rows[2]["text"] == 'say "hi", twice'
    assert float(rows[3]["a"]) == 1e-300


def test_a_file_cut_anywhere_and_continued_equals_one_written_at_once(tmp_path: Path) -> None:
    whole = tmp_path / "whole.csv"
    write(whole, ROWS)
    for killed in range(len(ROWS) + 1):
        for checkpoint in range(killed + 1):
            path = tmp_path / f"{killed}-{checkpoint}.csv"
            write(path, ROWS[:killed])
            cut_rows(path, "time/total_timesteps", checkpoint)
            write(path, ROWS[checkpoint:])
            assert path.read_bytes() == whole.read_bytes(), (killed, checkpoint)


def test_excluded_metrics_stay_out(tmp_path: Path) -> None:
    file = CsvFormat(tmp_path / "x.csv")
    file.write({"a": 1, "b": 2}, {"a": ("csv",), "b": ("tensorboard",)}, 5)
    assert list(read_rows(tmp_path / "x.csv")) == [{"b": "2", "time/total_timesteps": "5"}]


def test_tensorboard_shows_what_was_logged_after_a_resume_once(tmp_path: Path) -> None:
    for steps, value, resumed_at in (((10, 20, 30), 1.0, None), ((20, 30, 40), 2.0, 10)):
        board = TensorBoardFormat(tmp_path, resumed_at)
        for step in steps:
            board.write({"x": value}, {"x": ("",)}, step)
        board.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("x")] == [(10, 1.0), (20, 2.0), (30, 2.0), (40, 2.0)]


def test_console_shows_a_table_once_in_an_interval(capsys) -> None:  # type: ignore[no-untyped-def]
    now = 0.0
    console = ConsoleFormat(interval=60.0, clock=lambda: now)
    shown = []
    for now in (10.0, 59.0, 61.0, 100.0, 121.5):
        console.write({"time/fps": now}, {"time/fps": ("",)}, 0)
        shown.append("fps" in capsys.readouterr().out)
    assert shown == [False, False, True, False, True]
