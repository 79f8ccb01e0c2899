"""What happens beside the learning: evaluations, checkpoints, the progress bar.

They are Stable-Baselines3 callbacks and work on its agents as on ours. Evaluations and checkpoints are made
where an iteration starts (`on_rollout_start`), for there everything is consistent, and at the end.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from tqdm import tqdm

from agents.core import distributed
from experiments.results import shown
from experiments.rundir import RunDir


class EpisodeStats(Protocol):
    """What an evaluation returns: one entry per episode."""

    @property
    def returns(self) -> np.ndarray: ...  # [episodes]

    @property
    def lengths(self) -> np.ndarray: ...  # [episodes]


class Interrupted(Exception):
    """An evaluation was cut short: the run is to end."""


class Boundary(BaseCallback):
    """Calls `due()` at the first iteration boundary at or after each multiple of `every` steps; 0: never.

    `finish(stopped)` is called once after the last iteration.
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every
        self.last = 0

    def due(self) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        """Nothing, unless a subclass has something to do."""

    @property
    def now(self) -> int:
        """Environment steps so far; `num_timesteps` of the callback lags behind before the first step."""
        return int(self.model.num_timesteps)

    def _on_training_start(self) -> None:
        # After a resume, what was due up to the checkpoint has been done before it was written.
        self.last = self.now

    def _on_rollout_start(self) -> None:
        self._check()

    def _on_training_end(self) -> None:
        self._check()
        self.finish()

    def _on_step(self) -> bool:
        return True

    def _check(self) -> None:
        due = self.every > 0 and self.now // self.every > self.last // self.every
        self.last = self.now
        if due:
            self.due()


class Evaluation(Boundary):
    """Evaluates, logs eval/*, appends to evaluations.csv and keeps the best checkpoint.

    Stands before `Checkpoints` in the list of callbacks: a checkpoint at step N then implies that every
    evaluation up to N is on disk, or that the one at N was cut short and is made anew when the run is resumed there.
    evaluate: calls its argument at every step, which raises `Interrupted` when the run is `stopped`; the last
    evaluation is made whole. at_start: evaluate before the first step too. also: logs what else an evaluation tells,
    and gives a note for its line.
    """

    def __init__(
        self,
        run: RunDir,
        evaluate: Callable[[Callable[[], None]], EpisodeStats],
        save_best: Callable[[], None],
        *,
        every: int,
        total: int,
        say: Callable[[str], None],
        stopped: Callable[[], bool] = lambda: False,
        at_start: bool = False,
        also: Callable[[Any], str] | None = None,
    ) -> None:
        super().__init__(every)
        self.run = run
        self.also = also
        self.evaluate = evaluate
        self.save_best = save_best
        self.total = total
        self.say = say
        self.stopped = stopped
        self.at_start = at_start
        self.seconds = 0.0
        rows = run.read_evaluations()
        self.best = max((row["mean_reward"] for row in rows), default=-math.inf)
        self.evaluated_at = int(rows[-1]["timesteps"]) if rows else -1

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if self.every > 0 and (self.at_start or self.now // self.every > max(self.evaluated_at, 0) // self.every):
            self.due()

    def _go_on(self) -> None:
        if 0 < self.now < self.total and self.stopped():
            raise Interrupted

    def due(self) -> None:
        began = time.monotonic()
        try:
            stats = self.evaluate(self._go_on)
        except Interrupted:
            return
        returns, lengths = np.asarray(stats.returns, float), np.asarray(stats.lengths, float)
        step, mean, length = self.now, float(returns.mean()), float(lengths.mean())
        self.evaluated_at = step
        self.logger.record("eval/mean_reward", mean)
        self.logger.record("eval/mean_ep_length", length)
        note = "" if self.also is None else self.also(stats)
        self.logger.record("time/total_timesteps", step, exclude="tensorboard")
        self.logger.dump(step)
        self.run.append_evaluation(
            {
                "timesteps": step,
                "mean_reward": mean,
                "std_reward": float(returns.std()),
                "min_reward": float(returns.min()),
                "max_reward": float(returns.max()),
                "mean_ep_length": length,
                "episodes": len(returns),
            }
        )
        better = mean > self.best
        if better:
            self.best = mean
            self.save_best()
        note += "  best so far" if better else ""
        self.say(f"{step:>11,} steps  evaluation {mean:10.2f} +- {returns.std():.2f}{note}")
        self.seconds += time.monotonic() - began

    def finish(self) -> None:
        # A run that was stopped early is evaluated when it has been resumed and is complete.
        if self.every > 0 and self.now >= self.total and self.evaluated_at != self.now:
            self.due()


class Checkpoints(Boundary):
    """Writes checkpoints/latest (exact) and checkpoints/step-<N>, and latest at the end.

    `save(path, exact)` writes one checkpoint under a path without suffix. at_start: write them before the first step
    too, after which that of the warm-up is of no more use.
    """

    def __init__(
        self,
        run: RunDir,
        save: Callable[[Path, bool], None],
        *,
        every: int,
        keep_last: int,
        at_start: bool = False,
    ) -> None:
        super().__init__(every)
        self.at_start = at_start
        self.run = run
        self.save = save
        self.keep_last = keep_last

    def _on_training_start(self) -> None:
        super()._on_training_start()
        if self.at_start:
            self.due()
        self.run.warmup.unlink(missing_ok=True)

    def due(self) -> None:
        self.save(self.run.checkpoints / f"step-{self.now}", False)
        self.save(self.run.checkpoints / "latest", True)
        if distributed.rank():
            return
        found = self.run.periodic_checkpoints()
        steps = sorted(set(found.values()))
        old = set(steps[: -self.keep_last] if self.keep_last else [])
        for path, step in found.items():
            if step in old:
                path.unlink()

    def finish(self) -> None:
        self.save(self.run.checkpoints / "latest", True)


class Stop(BaseCallback):
    """After `request()`, ends training: between two iterations (our agents), or at the next step (others).

    Where several processes learn as one, one's request ends all.
    """

    def __init__(self, between_iterations: bool) -> None:
        super().__init__()
        self.between_iterations = between_iterations
        self.requested = False

    def request(self) -> None:
        """Safe to call from a signal handler."""
        self.requested = True

    def agreed(self) -> bool:
        """Whether any process's training is to end; all must ask alike."""
        self.requested = distributed.agreed(self.requested)
        return self.requested

    def _on_rollout_start(self) -> None:
        if self.between_iterations and self.agreed():
            self.model.stop()  # type: ignore[attr-defined]

    def _on_step(self) -> bool:
        return self.between_iterations or not self.requested


class Progress(BaseCallback):
    """A tqdm bar on stderr: steps, steps/s, time left, and the mean return of recent episodes."""

    def __init__(self, total: int, initial: int = 0) -> None:
        super().__init__()
        self.total = total
        self.initial = initial
        self.bar: Any = None

    def _on_training_start(self) -> None:
        self.bar = tqdm(
            total=self.total,
            initial=self.initial,
            unit=" steps",
            unit_scale=True,
            dynamic_ncols=True,
            file=sys.stderr,
            smoothing=0.05,
        )

    def _on_step(self) -> bool:
        self.bar.update(min(self.model.num_timesteps, self.total) - self.bar.n)
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer
        if episodes:
            mean = sum(episode["r"] for episode in episodes) / len(episodes)
            self.bar.set_postfix_str(f"return {shown(mean)}", refresh=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self.bar is not None:
            self.bar.close()


def say(text: str) -> None:
    """Print a line on stdout, above the progress bar if there is one."""
    tqdm.write(text, file=sys.stdout)
    sys.stdout.flush()
