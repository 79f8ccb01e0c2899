"""The pictures: one run's learning curve, and several runs' curves with bands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.results import curve
from experiments.rundir import RunDir


def plot_curve(run: RunDir, title: str) -> None:
    """Write curve.png: training return, and evaluation means with the band from least to greatest return."""
    figure = Figure(figsize=(7, 4.3), layout="constrained")
    axes = figure.subplots()
    steps, returns = curve(run, "rollout/ep_rew_mean")
    if len(steps):
        axes.plot(steps, returns, color="0.6", label="training, mean of the last 100 episodes")
    rows = run.read_evaluations()
    if rows:
        at = np.array([row["timesteps"] for row in rows])
        means = np.array([row["mean_reward"] for row in rows])
        low = np.array([row["min_reward"] for row in rows])
        high = np.array([row["max_reward"] for row in rows])
        axes.fill_between(at, low, high, color="C0", alpha=0.2, linewidth=0)
        marker = "o" if len(rows) == 1 else None
        axes.plot(at, means, color="C0", marker=marker, label="evaluation, mean and range of episodes")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if len(steps) or rows:
        axes.legend(loc="best", fontsize="small")
    _save(figure, run.curve)


def _save(figure: Figure, path: Path) -> None:
    aside = path.with_name(path.stem + ".tmp" + path.suffix)
    figure.savefig(aside, dpi=120)
    aside.replace(path)
