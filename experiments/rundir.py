"""A run directory: its layout, its config.yaml and its CSV files.

    config.yaml        everything resolved: settings, versions, the command
    progress.csv       one row per logged iteration, Stable-Baselines3's metric names as columns
    evaluations.csv    one row per evaluation
    completions.jsonl  text environments: sampled responses, one JSON object a line
    success.csv        several tasks: success, one row per evaluation and task; success.png draws the last one
    screens/           screens: the first episodes of each evaluation, step-<N>.gif, and heat maps, step-<N>.png
    curve.png          the learning curve
    events.out.*       TensorBoard
    checkpoints/       latest, best and step-<N>

Rows are written whole and flushed; a resumed run first cuts what was written after its checkpoint.
"""

from __future__ import annotations

import csv
import datetime
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

EVALUATION_COLUMNS = (
    "timesteps",
    "mean_reward",
    "std_reward",
    "min_reward",
    "max_reward",
    "mean_ep_length",
    "episodes",
)
_PERIODIC = re.compile(r"step-(\d+)\.(?:safetensors|zip|npz)")
SUCCESS_COLUMNS = ("timesteps", "task", "episodes", "success")


@dataclass(frozen=True)
class RunDir:
    """Paths inside one run directory."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def progress(self) -> Path:
        return self.path / "progress.csv"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations.csv"

    @property
    def completions(self) -> Path:
        return self.path / "completions.jsonl"

    @property
    def success(self) -> Path:
        return self.path / "success.csv"

    @property
    def screens(self) -> Path:
        return self.path / "screens"

    @property
    def curve(self) -> Path:
        return self.path / "curve.png"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def warmup(self) -> Path:
        """The checkpoint of a supervised warm-up that is not over."""
        return self.checkpoints / "warmup.safetensors"

    def read_config(self) -> dict[str, Any]:
        """config.yaml as a dict; raises ValueError where it is not that of a run."""
        config = read_yaml(self.config)
        if not {"algo", "env", "seed"} <= config.keys():
            raise ValueError(f"{self.config} is not the configuration of a run: it names no algo, env and seed")
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        """Replace config.yaml in one step."""
        write_aside(self.config, yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=100))

    def append_evaluation(self, row: dict[str, float]) -> None:
        """Add one row to evaluations.csv; `row` has the keys `EVALUATION_COLUMNS`."""
        new = not self.evaluations.exists()
        with self.evaluations.open("a", newline="") as file:
            text = csv_line(EVALUATION_COLUMNS) if new else ""
            file.write(text + csv_line([row[column] for column in EVALUATION_COLUMNS]))

    def read_evaluations(self) -> list[dict[str, float]]:
        """The rows of evaluations.csv, in order; a half-written last row is left out."""
        rows = read_rows(self.evaluations, EVALUATION_COLUMNS)
        return [{key: number(self.evaluations, key, value) for key, value in row.items()} for row in rows]

    def append_success(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add rows to success.csv; each has the keys `SUCCESS_COLUMNS`."""
        new = not self.success.exists()
        with self.success.open("a", newline="") as file:
            text = csv_line(SUCCESS_COLUMNS) if new else ""
            file.write(text + "".join(csv_line([row[column] for column in SUCCESS_COLUMNS]) for row in rows))

    def read_success(self) -> list[dict[str, str]]:
        """The rows of success.csv, in order; a half-written last row is left out."""
        return list(read_rows(self.success, SUCCESS_COLUMNS))

    def append_completions(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add one line a row to completions.jsonl; each row tells its `timesteps`."""
        with self.completions.open("a", newline="\n") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    def read_completions(self) -> list[dict[str, Any]]:
        """The rows of completions.jsonl, in order; a half-written last line is left out."""
        return [json.loads(line) for line in _whole_lines(self.completions)]

    def read_progress(self) -> list[dict[str, str]]:
        """The rows of progress.csv, in order; a half-written last row is left out."""
        return list(read_rows(self.progress))

    def periodic_checkpoints(self) -> dict[Path, int]:
        """The files of `step-<N>` and their N; what else a user keeps beside them is no concern of ours."""
        matches = {path: _PERIODIC.fullmatch(path.name) for path in self.checkpoints.glob("step-*")}
        return {path: int(match[1]) for path, match in matches.items() if match}

    def cut_after(self, timesteps: int) -> None:
        """Drop the rows of the CSV files, and the completions, that were written after `timesteps`."""
        cut_rows(self.progress, "time/total_timesteps", timesteps)
        cut_rows(self.evaluations, "timesteps", timesteps)
        cut_rows(self.success, "timesteps", timesteps)
        if self.completions.exists():
            lines = _whole_lines(self.completions)
            write_aside(self.completions, "".join(line for line in lines if json.loads(line)["timesteps"] <= timesteps))


def create_run(path: Path | None, algo: str, env_id: str, seed: int, root: Path = Path("runs")) -> RunDir:
    """Make the directory of a new run: `path`, or `root/<algo>/<env>/seed<S>-<time>`.

    Raises ValueError where `path` exists and holds anything.
    """
    if path is not None:
        check_out(path)
        path.mkdir(parents=True, exist_ok=True)
    else:
        time = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        path = root / file_name(algo) / file_name(env_id) / f"seed{seed}-{time}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path = _make_unused(path)
    run = RunDir(path)
    run.checkpoints.mkdir()
    return run


def check_out(path: Path) -> None:
    """Raise ValueError unless `path` can become a run directory: absent, or empty."""
    if (path / "config.yaml").exists():
        raise ValueError(f"{path} holds another run; choose another --out, or go on with it: --resume {path}")
    if path.is_dir() and any(path.iterdir()):
        raise ValueError(f"{path} is not empty; choose another --out")
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; --out must name a directory")


def open_run(path: Path) -> RunDir:
    """An existing run directory; raises ValueError where `path` is none."""
    if not path.is_dir():
        raise ValueError(f"there is no directory {path}")
    if not (path / "config.yaml").is_file():
        raise ValueError(f"{path} is not a run directory: it holds no config.yaml")
    return RunDir(path)


@contextmanager
def claimed(run: RunDir) -> Iterator[None]:
    """Keep other processes from training in this directory; raises ValueError where one does.

    The claim ends with the process, however it ends. Where the system has no flock there is no claim.
    """
    if fcntl is None:
        yield
        return
    folder = os.open(run.path, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ValueError(f"another process is training in {run.path}") from None
    finally:
        os.close(folder)


def find_runs(path: Path) -> list[RunDir]:
    """The run directories at or below `path`, sorted by path; raises ValueError where there is none."""
    if not path.is_dir():
        raise ValueError(f"there is no directory {path}")
    runs = sorted(Path(folder) for folder, _, files in os.walk(path) if {"config.yaml", "progress.csv"} <= set(files))
    if not runs:
        raise ValueError(f"no run in {path}: no directory at or below it holds config.yaml and progress.csv")
    return [RunDir(run) for run in runs]


def file_name(name: str) -> str:
    """`name` as one path component: 'sb3/trpo' becomes 'sb3-trpo'."""
    return re.sub(r"[^\w.+=-]+", "-", name)


def csv_line(values: Any) -> str:
    """One line of CSV text, its line end included."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def read_rows(path: Path, needed: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Complete rows of a CSV file as dicts; nothing where there is no file. Raises ValueError where a column that is
    needed is not there."""
    header, rows = _split(path)
    if header:
        _check_columns(path, header, needed)
    for line in rows:
        yield dict(zip(header, next(csv.reader([line])), strict=True))


def read_header(path: Path) -> list[str]:
    """The column names of a CSV file; empty where there is none."""
    return _split(path)[0]


def cut_rows(path: Path, column: str, last: int) -> None:
    """Rewrite a CSV file without the rows whose `column` is above `last`, and without a half-written one."""
    if not path.exists():
        return
    header, rows = _split(path)
    if not header:
        path.unlink()
        return
    _check_columns(path, header, [column])
    index = header.index(column)
    kept = [line for line in rows if number(path, column, next(csv.reader([line]))[index] or "0") <= last]
    write_aside(path, csv_line(header) + "".join(kept))


def number(path: Path, column: str, text: str) -> float:
    """A cell of a CSV file as a number; raises ValueError naming the file where it is none."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{path} holds {text!r} under {column}, where a number belongs") from None


def _check_columns(path: Path, header: Sequence[str], needed: Sequence[str]) -> None:
    missing = [column for column in needed if column not in header]
    if missing:
        raise ValueError(f"{path} lacks the column {', '.join(missing)}; it has {', '.join(header)}")


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; raises ValueError naming the file where it is something else."""
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise ValueError(f"{path} is not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a YAML mapping")
    return content


def write_aside(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step: readers see the old file or the new one, never a part."""
    aside = path.with_name(path.name + ".tmp")
    with aside.open("w", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def _whole_lines(path: Path) -> list[str]:
    """The lines of a text file but a half-written last one; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="\n") as file:
        return [line for line in file if line.endswith("\n")]


def _split(path: Path) -> tuple[list[str], list[str]]:
    """Column names, and the raw lines of the rows that are whole."""
    if not path.exists():
        return [], []
    with path.open(newline="") as file:
        lines = [line for line in file if line.endswith("\n")]
    if not lines:
        return [], []
    header = next(csv.reader(lines[:1]))
    return header, [line for line in lines[1:] if len(next(csv.reader([line]), [])) == len(header)]


def _make_unused(path: Path) -> Path:
    """Make `path`, or `path-2`, `path-3`, ... where runs started within the same second."""
    for attempt in range(1, 1000):
        candidate = path if attempt == 1 else path.with_name(f"{path.name}-{attempt}")
        try:
            candidate.mkdir()
        except FileExistsError:
            continue
        return candidate
    raise ValueError(f"cannot find an unused name beside {path}")
