"""Where a run's metrics go: Stable-Baselines3's `Logger` with formats that survive a crash and a resume.

progress.csv keeps its rows when it is opened again and writes each row whole; TensorBoard hides what was
logged after the checkpoint that a run resumes from; the console shows a table once in a while.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import (
    HumanOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
    filter_excluded_keys,
)

from experiments.rundir import RunDir, csv_line, read_header, read_rows, write_aside

CONSOLE_INTERVAL = 60.0  # seconds between two tables
NOT_TABLES = ("csv", "json", "log", "stdout")  # what text and pictures are excluded from


@dataclass(frozen=True)
class Gif:
    """An animated GIF, which TensorBoard shows among the images."""

    content: bytes


class CsvFormat(KVWriter):
    """Appends to a CSV file; a metric seen for the first time becomes a new last column.

    New columns of one row are sorted, so that the file depends on the run and not on the interpreter.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.columns = read_header(path)
        self.file = path.open("a", newline="")

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        row = {key: _scalar(value) for key, value in filter_excluded_keys(key_values, key_excluded, "csv").items()}
        row = {key: value for key, value in row.items() if value is not None}
        if not row:
            return
        row.setdefault("time/total_timesteps", step)
        new = sorted(row.keys() - set(self.columns))
        if new:
            self._add_columns(new)
        self.file.write(csv_line([row.get(column, "") for column in self.columns]))
        self.file.flush()

    def _add_columns(self, new: list[str]) -> None:
        self.file.close()
        rows = list(read_rows(self.path))
        self.columns = self.columns + new
        lines = [csv_line([row.get(column, "") for column in self.columns]) for row in rows]
        write_aside(self.path, csv_line(self.columns) + "".join(lines))
        self.file = self.path.open("a", newline="")

    def close(self) -> None:
        self.file.close()


class ConsoleFormat(HumanOutputFormat):
    """Stable-Baselines3's table on stdout, at most once in `interval` seconds."""

    def __init__(self, interval: float = CONSOLE_INTERVAL, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(sys.stdout)
        self.interval = interval
        self.clock = clock
        self.last = clock()

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        # Rows of evaluations alone have a line of their own.
        if "time/fps" in key_values and self.clock() - self.last >= self.interval:
            self.last = self.clock()
            super().write(key_values, key_excluded, step)


class TensorBoardFormat(TensorBoardOutputFormat):
    """TensorBoard events; with `resumed_at`, events of later steps are hidden, for they are logged anew."""

    def __init__(self, folder: Path, resumed_at: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resumed_at is None else resumed_at + 1
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=purge)
        self._is_closed = False

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """As Stable-Baselines3's, and GIFs as they are: its `Video` needs moviepy to make them."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        super().write(key_values, key_excluded, step)
        gifs = [(key, value) for key, value in key_values.items() if isinstance(value, Gif)]
        for key, value in gifs:
            image = Summary.Image(encoded_image_string=value.content, colorspace=3)
            self.writer._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=key, image=image)]), step)
        if gifs:
            self.writer.flush()


def make_logger(run: RunDir, *, resumed_at: int | None = None, quiet: bool = False) -> Logger:
    """The logger of a run; `resumed_at` is the step of the checkpoint that it goes on from."""
    formats: list[KVWriter] = [CsvFormat(run.progress), TensorBoardFormat(run.path, resumed_at)]
    if not quiet:
        formats.append(ConsoleFormat())
    return Logger(folder=str(run.path), output_formats=formats)


def _scalar(value: Any) -> Any:
    """A number or a string as Python's own type; None for what a table cannot hold."""
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    return value if isinstance(value, int | float | str) else None
