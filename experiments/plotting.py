"""The pictures: one run's learning curve, and several runs' curves with bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from experiments.results import curve
from experiments.rundir import RunDir
from experiments.statistics import t_interval

if TYPE_CHECKING:
    from experiments.compare import Group
    from experiments.screens import TaskResult


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
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_ylabel("return")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    if len(steps) or rows:
        axes.legend(loc="best", fontsize="small")
    _save(figure, run.curve)


def plot_pretraining(run: RunDir, title: str) -> None:
    """Write curve.png of a pretraining run: losses, and retrieval accuracy where there is one."""
    figure = Figure(figsize=(7, 4.3), layout="constrained")
    axes = figure.subplots()
    for metric, label in (("train/loss", "training"), ("eval/loss", "held-out screenshots")):
        steps, losses = curve(run, metric)
        axes.plot(steps, losses, label=f"loss, {label}", color="0.6" if metric == "train/loss" else "C0")
    axes.set_xlabel("gradient steps")
    axes.set_ylabel("loss")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    lines = axes.get_lines()
    if len(curve(run, "eval/image_to_text")[0]):
        right = axes.twinx()
        for metric, color in (("eval/image_to_text", "C1"), ("eval/text_to_image", "C2"), ("eval/chance", "0.8")):
            right.plot(*curve(run, metric), color=color, label=metric.removeprefix("eval/").replace("_", " "))
        right.set_ylabel("retrieval accuracy")
        right.set_ylim(0, 1)
        lines += right.get_lines()
    axes.legend(handles=lines, loc="best", fontsize="small")
    _save(figure, run.curve)


def plot_groups(groups: Sequence[Group], metric: str, path: Path) -> None:
    """One panel per environment, one curve per algorithm: mean over seeds with its 95% t-interval."""
    env_ids = sorted({group.env_id for group in groups})
    algos = sorted({group.algo for group in groups})
    across = min(3, len(env_ids))
    down = -(-len(env_ids) // across)
    figure = Figure(figsize=(6.5 * across, 4.3 * down), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, env_id in zip(panels, env_ids, strict=False):
        for group in groups:
            if group.env_id == env_id:
                _draw_group(axes, group, metric, color=f"C{algos.index(group.algo)}")
        axes.set_title(env_id)
        axes.set_xlabel("environment steps")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set_ylabel(metric)
        axes.grid(alpha=0.3)
        axes.legend(loc="best", fontsize="small")
    for axes in panels[len(env_ids) :]:
        axes.set_visible(False)
    if any(len(group.runs) > 1 for group in groups):
        figure.supxlabel("thick: mean over seeds; band: its 95% t-interval; thin: single seeds", fontsize="small")
    _save(figure, path)


def plot_success(
    results: Sequence[TaskResult], path: Path, title: str, random: Mapping[str, TaskResult] | None = None
) -> None:
    """One bar a task, with the 95% interval of its success; random: results of random actions, to stand beside it."""
    figure = Figure(figsize=(7, 0.9 + 0.32 * len(results)), layout="constrained")
    axes = figure.subplots()
    at = np.arange(len(results))
    success, low, high = (np.array([getattr(one, name) for one in results]) for name in ("success", "low", "high"))
    height = 0.75 if random is None else 0.5
    around = np.stack((success - low, high - success)).clip(min=0)
    axes.barh(at, success, height, xerr=around, color="C0", ecolor="0.4", label="policy, 95% interval")
    if random is not None:
        chance = [random[one.task].success for one in results]
        axes.barh(at + 0.4, chance, 0.25, color="0.6", label="random actions")
        axes.legend(loc="best", fontsize="small")
    axes.set_yticks(at + (0 if random is None else 0.13), [one.task for one in results])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.02)
    axes.set_xlabel("share of episodes that succeeded")
    axes.set_title(title)
    axes.grid(alpha=0.3, axis="x")
    _save(figure, path)


def over_seeds(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps [points], mean [points] and half the 95% t-interval [points] of several curves (steps, values).

    Curves are interpolated to the points of the one with the fewest, within the range that all of them cover.
    """
    low = max(steps[0] for steps, _ in curves)
    high = min(steps[-1] for steps, _ in curves)
    points = min((steps for steps, _ in curves), key=len)
    points = points[(points >= low) & (points <= high)]
    values = np.stack([np.interp(points, steps, values) for steps, values in curves])  # [seeds, points]
    return points, values.mean(0), t_interval(values)


def _draw_group(axes: Any, group: Group, metric: str, color: str) -> None:
    curves = [one for run in group.runs if len((one := curve(run, metric))[0])]
    if not curves:
        return
    if len(curves) > 1:
        for steps, values in curves:
            axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
    points, mean, half = over_seeds(curves)
    seeds = f"{len(curves)} seed" + ("s" if len(curves) > 1 else "")
    axes.plot(points, mean, color=color, label=f"{group.algo} ({seeds})", marker="o" if len(points) == 1 else None)
    if len(curves) > 1:
        axes.fill_between(points, mean - half, mean + half, color=color, alpha=0.2, linewidth=0)


def _save(figure: Figure, path: Path) -> None:
    aside = path.with_name(path.stem + ".tmp" + path.suffix)
    figure.savefig(aside, dpi=120)
    aside.replace(path)
