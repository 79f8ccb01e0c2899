"""Overlay runs: `python -m experiments.compare RUN_DIR... [--out FILE.png]`.

Runs of the same algorithm on the same environment are seeds of one curve. Directories that hold runs further down
count for all of them. The table is printed, and written as CSV and Markdown beside the picture.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from experiments import cli
from experiments.results import FINAL, RETURN, Summary, metrics, summarise
from experiments.rundir import RunDir, csv_line, find_runs, write_aside
from experiments.settings import hint

COLUMNS = ("algo", "env", "seeds", "steps", "final mean", "final std", "maximum", "maximum std", "steps/s")


@dataclass(kw_only=True)
class Options:
    """Settings of a comparison."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR...")]
    """Run directories, or directories above them."""
    out: Path = Path("compare.png")
    """The picture; the table stands beside it as .csv and .md."""
    metric: str = RETURN
    """The column of progress.csv to draw and tabulate."""
    by: str = ""
    """A setting by which to tell curves apart too, as agent.sampling or warmup.episodes; method: of long2short."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Group:
    """The runs of one algorithm on one environment."""

    algo: str
    """Its name, and the setting that tells it apart."""
    env_id: str
    runs: list[RunDir]
    configs: list[dict[str, Any]]


def command(argv: list[str]) -> int:
    """Parse, draw, print; returns the exit status."""
    options = cli.parse(Options, argv, prog="python -m experiments.compare", description=__doc__ or "")
    if not options.runs:
        raise ValueError("name at least one run directory")
    if options.out.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise ValueError(f"--out must end in .png, .pdf or .svg, got {options.out}")
    runs = {run.path.resolve(): run for path in options.runs for run in find_runs(path)}
    groups = group(list(runs.values()), options.by)
    check_metric(groups, options.metric)
    for suffix, beginning in ((".csv", csv_line(COLUMNS)), (".md", markdown([]).splitlines()[0])):
        _refuse_another_file(options.out.with_suffix(suffix), beginning.strip())
    from experiments.plotting import plot_groups

    options.out.parent.mkdir(parents=True, exist_ok=True)
    plot_groups(groups, options.metric, options.out)
    results = [[summarise(run, options.metric) for run in one.runs] for one in groups]
    rows = [row(one, found) for one, found in zip(groups, results, strict=True)]
    write_aside(options.out.with_suffix(".csv"), csv_line(COLUMNS) + "".join(map(csv_line, rows)))
    write_aside(options.out.with_suffix(".md"), markdown(rows, options.metric))
    print(as_text(rows))
    for one, found in zip(groups, results, strict=True):
        for note in notes(one, found, options.metric):
            print(f"note: {note}")
    print(f"\n{options.out}, with {options.out.with_suffix('.csv').name} and {options.out.with_suffix('.md').name}")
    return 0


def _refuse_another_file(path: Path, beginning: str) -> None:
    """Raise ValueError where `path` holds something else than a table of this program's, which begins so."""
    if path.exists() and not path.read_text(errors="replace").startswith(beginning):
        raise ValueError(f"{path} is no table of an earlier comparison and would be overwritten: choose another --out")


def group(runs: list[RunDir], by: str = "") -> list[Group]:
    """Runs by algorithm, environment and the setting `by`, in alphabetical order; seeds in theirs.

    Raises ValueError where a run's config.yaml has no such setting.
    """
    found: dict[tuple[str, str], list[tuple[RunDir, dict[str, Any]]]] = {}
    for run in runs:
        config = run.read_config()
        name = str(config["algo"])
        if by:
            settings = _settings(config)
            if by not in settings:
                raise ValueError(f"{run.config} has no setting {by!r}.{hint(by, settings)}")
            name += f", {by.rpartition('.')[2]} {settings[by]}"
        found.setdefault((str(config["env"]), name), []).append((run, config))
    groups = []
    for (env_id, algo), members in sorted(found.items()):
        members.sort(key=lambda member: member[1]["seed"])
        groups.append(Group(algo, env_id, [run for run, _ in members], [config for _, config in members]))
    return groups


def check_metric(groups: list[Group], metric: str) -> None:
    """Raise ValueError, naming the nearest, where no run has logged `metric`."""
    known = sorted({name for one in groups for run in one.runs for name in metrics(run)})
    if metric not in known:
        others = hint(metric, known) or (f" There are {', '.join(known)}" if known else " Nothing has been logged yet")
        raise ValueError(f"no run has logged {metric!r}.{others}")


def row(one: Group, results: list[Summary]) -> list[Any]:
    """The entries of `COLUMNS` for one group with these results: means over its seeds, with standard deviations.

    A run without a result is left out, unless none has one.
    """
    results = [result for result in results if result.evaluations] or results
    final = np.array([result.final_mean for result in results])
    best = np.array([result.maximum for result in results])
    speed = np.array([result.steps_per_second for result in results])
    return [
        one.algo,
        one.env_id,
        len(results),
        min(result.timesteps for result in results),
        *map(_rounded, (final.mean(), _deviation(final), best.mean(), _deviation(best))),
        _rounded(speed.mean(), 0),
    ]


def notes(one: Group, results: list[Summary], metric: str = RETURN) -> list[str]:
    """What a reader should know before trusting the mean over a group."""
    found = []
    for run, config, result in zip(one.runs, one.configs, results, strict=True):
        total = config.get("total_timesteps") or 0
        if not result.evaluations:
            found.append(f"{run.path} has no {metric} yet and is left out")
        elif result.timesteps < total:
            found.append(f"{run.path} has {result.timesteps:,} of its {total:,} steps")
    seeds = [config["seed"] for config in one.configs]
    if len(set(seeds)) < len(seeds):
        found.append(f"{one.algo} on {one.env_id} has a seed more than once: {', '.join(map(str, seeds))}")
    first, *others = [_settings(config) for config in one.configs]
    different = sorted({name for other in others for name in first | other if first.get(name) != other.get(name)})
    if different:
        found.append(f"the runs of {one.algo} on {one.env_id} differ in {', '.join(different)}")
    return found


def as_text(rows: list[list[Any]]) -> str:
    """The table in columns."""
    cells = [list(COLUMNS), *[[_cell(value) for value in entry] for entry in rows]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    aligned = [
        [
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in cells
    ]
    return "\n".join("  ".join(line) for line in aligned)


def markdown(rows: list[list[Any]], metric: str = RETURN) -> str:
    """The table in Markdown, and what its columns mean."""
    point = "evaluation" if metric.startswith("eval/") else "row"
    lines = [COLUMNS, ["---"] * 2 + ["---:"] * (len(COLUMNS) - 2)]
    lines += [[_cell(value) for value in entry] for entry in rows]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return (
        f"{text}\n\n`{metric}`. Final mean: mean of a run's last {FINAL} {point}s; maximum: its highest {point}; "
        "both averaged over seeds, std: standard deviation over seeds. steps/s: whole training, evaluations included.\n"
    )


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Everything that should be alike in the runs of a group."""
    kept = {name: config.get(name) for name in ("total_timesteps", "num_envs", "eval_episodes")}
    kept["method"] = (config.get("long2short") or {}).get("method", "run")
    for prefix, part in (
        ("agent", config.get("agent")),
        ("env", config.get("env_options")),
        ("warmup", config.get("warmup")),
    ):
        kept.update({f"{prefix}.{name}": value for name, value in (part or {}).items()})
    return kept


def _deviation(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _rounded(value: float, digits: int | None = None) -> float:
    """A return to the tenth, or where it is small (a success rate) to the thousandth."""
    if digits is None:
        digits = 1 if abs(value) >= 10 else 3
    return value if math.isnan(value) else round(float(value), digits)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:,.3f}".rstrip("0").rstrip(".")
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    cli.main(command)
