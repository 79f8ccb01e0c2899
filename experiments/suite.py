"""Success task by task: the table and the bar chart that `experiments.evaluate --suite 'gui/*'` gives.

Success is a return of at least 1, as environments have it whose reward is 1 for what was asked.
"""

from __future__ import annotations

import csv
import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import VectorEnv

from experiments.environments import env_options, find_env, is_single_task, make_eval_env, sees_screens
from experiments.screens import TaskResult, Watcher, by_task

if TYPE_CHECKING:
    from agents.core.evaluation import Predictor
    from experiments.frames import Moment

COLUMNS = ("task", "episodes", "success", "low", "high", "mean_ep_length")


class RandomPolicy:
    """Stable-Baselines3's `predict`, by actions drawn from the space itself: with typed ones every type alike."""

    def __init__(self, env: VectorEnv, seed: int) -> None:
        self.space = env.action_space
        self.space.seed(seed)

    def predict(self, observation: Any, *, deterministic: bool = False) -> tuple[Any, None]:
        return self.space.sample(), None


@dataclass
class Suite:
    """What came out. random: by task; refused: the ids whose spaces are others than the agent's."""

    pattern: str
    results: list[TaskResult]
    random: dict[str, TaskResult] | None = None
    refused: list[str] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)

    @property
    def name(self) -> str:
        """For files: suite-gui, suite-chromium-click."""
        return re.sub(r"\W+", "-", f"suite-{self.pattern}").strip("-")

    def rows(self) -> list[dict[str, Any]]:
        """One a task."""
        rows = [{column: getattr(one, column) for column in COLUMNS} for one in self.results]
        for row in rows if self.random is not None else ():
            assert self.random is not None
            row["random_success"] = self.random[row["task"]].success
        return rows

    def write(self, folder: Path, title: str) -> list[Path]:
        """The table and the chart; returns the files."""
        from experiments.plotting import plot_success

        rows = self.rows()
        table, chart = folder / f"{self.name}.csv", folder / f"{self.name}.png"
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        plot_success(self.results, chart, title, self.random)
        return [table, chart]


def run_suite(
    predictor: Predictor,
    pattern: str,
    env_kwargs: dict[str, Any],
    *,
    episodes: int,
    seed: int,
    deterministic: bool = True,
    random: bool = False,
    keep: int = 0,
    report: Callable[[TaskResult, int, int], None] | None = None,
) -> Suite:
    """Measure `predictor` in every environment whose id matches `pattern`, mixtures of tasks left out.

    env_kwargs: options, of which each environment gets those it has; seed: of the first episode; random: measure random
    actions in the same episodes; keep: episodes of each task to keep the moments of; report: is told each result as it
    comes, with its number and the number of environments. Raises ValueError where no id matches, and where none has the
    spaces that the agent was made for.
    """
    import envs
    from agents.core.evaluation import evaluate

    suite = Suite(pattern, [], {} if random else None)
    env_ids = [env_id for env_id in envs.find_ids(pattern) if is_single_task(find_env(env_id))]
    for number, env_id in enumerate(env_ids, 1):
        known = {option.name for option in dataclasses.fields(env_options(env_id))}
        env = make_eval_env(env_id, episodes, {name: value for name, value in env_kwargs.items() if name in known})
        try:
            if not _fits(predictor, env):
                suite.refused.append(env_id)
                continue
            watcher = Watcher(env_id, keep, predictor)
            watch = watcher.watch if keep and sees_screens(env) else None
            stats = evaluate(predictor, env, episodes, seed=seed, deterministic=deterministic, watch=watch)
            suite.results += by_task([env_id] * episodes, stats)
            suite.moments += [moment for episode in watcher.episodes for moment in episode]
            if suite.random is not None:
                stats = evaluate(RandomPolicy(env, seed), env, episodes, seed=seed)
                suite.random[env_id] = by_task([env_id] * episodes, stats)[0]
            if report is not None:
                report(suite.results[-1], number, len(env_ids))
        finally:
            env.close()
    if not suite.results:
        refused = f": the spaces of {', '.join(suite.refused)} are others" if suite.refused else ""
        raise ValueError(f"no environment of {pattern!r} fits this agent{refused}")
    return suite


def as_table(results: Sequence[TaskResult], random: dict[str, TaskResult] | None = None) -> list[str]:
    """The results in lines, the mean over tasks last where there are several."""
    width = max(len("mean over tasks"), *(len(one.task) for one in results))
    lines = [f"  {'task':<{width}}  success  95% interval    steps" + ("" if random is None else "  random")]
    for one in results:
        interval = f"[{one.low:.3f}, {one.high:.3f}]"
        chance = "" if random is None else f"  {random[one.task].success:6.3f}"
        lines.append(f"  {one.task:<{width}}  {one.success:7.3f}  {interval:<14}  {one.mean_ep_length:5.1f}{chance}")
    if len(results) > 1:
        mean = np.mean([one.success for one in results])
        chance = "" if random is None else f"  {np.mean([random[one.task].success for one in results]):6.3f}"
        lines.append(f"  {'mean over tasks':<{width}}  {mean:7.3f}  {'':<14}  {'':>5}{chance}")
    return lines


def _fits(predictor: Any, env: VectorEnv) -> bool:
    from agents.core.spaces import same

    spaces = (("observation_space", env.single_observation_space), ("action_space", env.single_action_space))
    # Stable-Baselines3's agent stands beside its normalisation.
    agent = predictor if hasattr(predictor, "observation_space") else predictor.model
    return all(same(getattr(agent, name), space) for name, space in spaces)
