"""What a run on screens leaves to look at: episodes, heat maps, and success per task.

A `Watcher` looks on while an agent is evaluated and keeps the first episodes and every episode's task; `ScreenLog` puts
an evaluation into the run directory and TensorBoard: screens/step-<N>.gif (the first episodes), screens/step-<N>.png
(their first screens, with heat maps where the policy has them) and, of several tasks, success.csv and success.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image as Pillow
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Image

from agents.core.evaluation import EpisodeStats, WatchedStep
from agents.core.spaces import observation_tensors
from experiments.frames import Moment, gif, sheet
from experiments.logs import NOT_TABLES, Gif
from experiments.results import SUCCESS
from experiments.rundir import RunDir

KEPT = 4  # episodes to look at of an evaluation
SCREEN, WORDS = "screenshot", "instruction"


@dataclass(frozen=True)
class TaskResult:
    """How a task went; low and high: 95% Wilson interval of the share of episodes that succeeded."""

    task: str
    episodes: int
    success: float
    low: float
    high: float
    mean_ep_length: float


def by_task(tasks: Sequence[str], stats: EpisodeStats) -> list[TaskResult]:
    """The result of each task, sorted by name; tasks: of each episode."""
    from scipy.stats import binomtest

    names, results = np.array(tasks), []
    for name in sorted(set(tasks)):
        these = names == name
        solved = stats.returns[these] >= SUCCESS
        interval = binomtest(int(solved.sum()), len(solved)).proportion_ci(method="wilson")
        length = float(stats.lengths[these].mean())
        results.append(
            TaskResult(name, len(solved), float(solved.mean()), float(interval.low), float(interval.high), length)
        )
    return results


class Watcher:
    """Looks on at an evaluation: `watch` is for `evaluate`, after which `episodes` and `tasks` hold what was seen.

    name: what the task is called where the environment does not tell; keep: episodes kept, the first ones; agent: whose
    heat maps to draw, if its policy has `heat_map(obs, stored actions)`, [batch, H, W].
    """

    def __init__(self, name: str, keep: int = KEPT, agent: Any = None) -> None:
        self.name, self.keep, self.agent = name, keep, agent
        self.begin()

    def begin(self) -> None:
        """Forget what was seen."""
        self._tasks: dict[int, str] = {}
        self._episodes: dict[int, list[Moment]] = {}

    @property
    def tasks(self) -> list[str]:
        """Of each episode."""
        return [self._tasks[i] for i in sorted(self._tasks)]

    @property
    def episodes(self) -> list[list[Moment]]:
        """What the first ones looked like, from the first screen to the last."""
        return [self._episodes[i] for i in sorted(self._episodes)]

    def watch(self, step: WatchedStep) -> None:
        """Take note of one step of all environments."""
        told = step.infos.get("task")
        for i in np.flatnonzero(step.episode >= 0).tolist():
            self._tasks[int(step.episode[i])] = self.name if told is None else str(told[i])
        rows = np.flatnonzero((step.episode >= 0) & (step.episode < self.keep))
        if not len(rows):
            return
        heat = self._heat(step, rows)
        for i, warmth in zip(rows.tolist(), heat, strict=True):
            seen = self._episodes.setdefault(int(step.episode[i]), [])
            seen += _moments(step, i, warmth)

    def _heat(self, step: WatchedStep, rows: np.ndarray) -> Sequence[Any]:
        policy = getattr(self.agent, "policy", None)
        if not hasattr(policy, "heat_map"):
            return [None] * len(rows)
        agent: Any = self.agent
        # Only of those that are drawn: as many screens at once as there are environments would be wasted.
        obs = {key: _taken(value, rows) for key, value in step.obs.items()}
        with torch.inference_mode():
            tensors = agent.normalizer(observation_tensors(agent.observation_space, obs, agent.device))
            stored = agent.policy.from_env([step.actions[i] for i in rows], tensors)
            return list(agent.policy.heat_map(tensors, stored.to(agent.device)).float().cpu().numpy())


def _taken(values: Any, rows: np.ndarray) -> Any:
    return values[rows] if isinstance(values, np.ndarray) else tuple(values[i] for i in rows)


def _moments(step: WatchedStep, i: int, heat: np.ndarray | None) -> list[Moment]:
    """What environment i saw and did, and how it ended if it did."""
    infos = step.infos

    def told(name: str) -> str:
        return "" if name not in infos or infos[name][i] is None else str(infos[name][i])

    pointer = (int(infos["pointer"][i][0]), int(infos["pointer"][i][1])) if "pointer" in infos else None
    said = step.actions[i] if isinstance(step.actions[i], str) else ""  # a language model's thought, before its action
    notes = [said.split("Action:")[0].strip(), f"malformed: {told('malformed')}" if told("malformed") else ""]
    notes += [] if heat is None or not heat.max() > 0 else [f"its patch had probability {heat.max():.2f}"]
    words = str(step.obs[WORDS][i])
    moments = [
        Moment(np.array(step.obs[SCREEN][i]), words, told("action"), "; ".join(filter(None, notes)), pointer, heat)
    ]
    if step.done[i]:
        note = f"{told('reason') or 'the end'}, reward {step.rewards[i]:g}"
        moments.append(Moment(np.array(step.next_obs[SCREEN][i]), words, "", note, pointer, last=True))
    return moments


class ScreenLog(BaseCallback):
    """Puts what `watcher` saw of an evaluation where it can be looked at."""

    def __init__(self, run: RunDir, watcher: Watcher) -> None:
        super().__init__()
        self.run, self.watcher = run, watcher

    def _on_step(self) -> bool:
        return True

    def evaluated(self, stats: EpisodeStats) -> str:
        """Log an evaluation; a few words on it."""
        model: Any = self.model
        step, episodes = int(model.num_timesteps), self.watcher.episodes
        results = by_task(self.watcher.tasks, stats)
        if len(results) > 1:
            self._success(step, results)
        moving = gif([moment for episode in episodes for moment in episode])
        still = sheet([episode[0] for episode in episodes])
        self.run.screens.mkdir(exist_ok=True)
        (self.run.screens / f"step-{step}.gif").write_bytes(moving)
        self.logger.record("screens/episodes", Gif(moving), exclude=NOT_TABLES)
        Pillow.fromarray(still).save(self.run.screens / f"step-{step}.png")
        self.logger.record("screens/first", Image(still, "HWC"), exclude=NOT_TABLES)
        solved = sum(result.success >= 0.95 for result in results)
        return f"  {solved} of {len(results)} tasks at 95%" if len(results) > 1 else ""

    def _success(self, step: int, results: Sequence[TaskResult]) -> None:
        from experiments.plotting import plot_success

        rows = [
            {"timesteps": step, "task": one.task, "episodes": one.episodes, "success": one.success} for one in results
        ]
        self.run.append_success(rows)
        chart = self.run.path / "success.png"
        plot_success(results, chart, f"success per task at {step:,} steps")
        with Pillow.open(chart) as drawn:
            self.logger.record("screens/success", Image(np.asarray(drawn.convert("RGB")), "HWC"), exclude=NOT_TABLES)
        for one in results:
            self.logger.record(f"success/{one.task}", one.success)
