"""What the files of a run say: final mean, best evaluation, speed, curves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from experiments.rundir import RunDir, number

RETURN = "eval/mean_reward"  # the column of progress.csv that a run is judged by
FINAL = 10  # evaluations that make up the final mean
SUCCESS = 1.0  # return from which an episode with a reward for success counts as one


@dataclass(frozen=True)
class Summary:
    """The numbers that stand for one run; NaN where it has no evaluation.

    Of another column than the return, its rows take the place of evaluations.
    """

    timesteps: int
    evaluations: int
    final_mean: float
    """Mean of the last `FINAL` evaluations."""
    maximum: float
    """Highest mean of one evaluation."""
    steps_per_second: float
    """Environment steps per second of the whole training, evaluations included."""


def shown(value: float) -> str:
    """A return or a success rate with the digits that tell something: 4219.3, -127.0, 0.984."""
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def summarise(run: RunDir, metric: str = RETURN) -> Summary:
    """The numbers of one run directory, of a column of progress.csv."""
    steps, means = curve(run, metric)
    _, fps = curve(run, "time/fps")
    logged, _ = curve(run, "time/total_timesteps")
    return Summary(
        timesteps=int(max(logged.max(initial=0), steps.max(initial=0))),
        evaluations=len(means),
        final_mean=float(means[-FINAL:].mean()) if len(means) else float("nan"),
        maximum=float(means.max()) if len(means) else float("nan"),
        steps_per_second=float(fps[-1]) if len(fps) else float("nan"),
    )


def curve(run: RunDir, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Environment steps and values of a column of progress.csv, both [points]; rows without it left out."""
    points = [
        tuple(number(run.progress, column, row[column]) for column in ("time/total_timesteps", metric))
        for row in run.read_progress()
        if row.get(metric) and row.get("time/total_timesteps")
    ]
    steps, values = np.asarray(points, float).reshape(-1, 2).T
    return steps, values


def metrics(run: RunDir) -> list[str]:
    """The columns that a run has logged."""
    rows = run.read_progress()
    return list(rows[0]) if rows else []
