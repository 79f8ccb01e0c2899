"""One training run in a run directory, the same for our agents and Stable-Baselines3's.

`Learner` is what differs between the two; `train` is the rest: logger, callbacks, signals, closing summary.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from agents.core import distributed
from agents.core.environments import environment_state
from experiments.callbacks import Checkpoints, EpisodeStats, Evaluation, Progress, Stop, say
from experiments.logs import make_logger
from experiments.results import FINAL, shown, summarise
from experiments.rundir import RunDir
from experiments.settings import RunOptions
from experiments.warmup import WarmUp

if TYPE_CHECKING:
    from experiments.completions import TextLog
    from experiments.screens import ScreenLog, Watcher


@dataclass
class Learner:
    """An agent with the few things that a training run needs of it."""

    model: Any
    """Has learn, set_logger, num_timesteps and ep_info_buffer as Stable-Baselines3's agents do."""
    evaluate: Callable[[Callable[[], None]], EpisodeStats]
    """One evaluation on environments of its own. If what it calls at every step raises, nothing has changed."""
    save: Callable[[Path, bool], None]
    """`save(path, exact)` writes a checkpoint; the suffix is the learner's."""
    close: Callable[[], None]
    """Closes the environments."""
    resumable: bool = True
    """Whether a run can go on from a checkpoint; if so, it is stopped only between iterations."""
    warm_up: WarmUp | None = None
    """What the agent is to learn from demonstrations before anything else."""
    watcher: Watcher | None = None
    """On screens: what saw the last evaluation."""


def train(options: RunOptions, learner: Learner, run: RunDir, resumed_at: int | None = None) -> int:
    """Train until `options.total_timesteps`; returns the exit status: 0, or 130 or 143 after a signal.

    `resumed_at` is the step of the checkpoint that `learner` was loaded from (negative within the warm-up), None for a
    new run. Where several processes learn as one, the first alone evaluates, logs and writes.
    """
    start, first = learner.model.num_timesteps, distributed.rank() == 0
    talk: Callable[[str], None] = say if first and not options.quiet else (lambda text: None)
    logger = make_logger(run, resumed_at=resumed_at, quiet=options.quiet) if first else Logger(None, [])
    learner.model.set_logger(logger)
    logs = _logs(learner, run) if first else []
    stop = Stop(between_iterations=learner.resumable)
    evaluation = Evaluation(
        run,
        learner.evaluate,
        lambda: learner.save(run.checkpoints / "best", False),
        every=options.eval_freq,
        total=options.total_timesteps,
        say=talk,
        stopped=lambda: stop.requested,
        at_start=learner.warm_up is not None or (options.init is not None and start == 0),
        also=lambda stats: "".join(log.evaluated(stats) for log in logs),
    )
    checkpoints = Checkpoints(
        run,
        learner.save,
        every=options.checkpoint_freq,
        keep_last=options.keep_last,
        at_start=learner.warm_up is not None,
    )
    callbacks: list[BaseCallback] = [evaluation] * first + [checkpoints, stop, *logs]
    bar, bars = None, first and options.progress and not options.quiet and sys.stderr.isatty()
    if bars:
        bar = Progress(options.total_timesteps, start)
        callbacks.append(bar)
    talk(f"Training {options.algo} on {options.env_id} for {options.total_timesteps:,} steps in {run.path}")
    if learner.resumable and environment_state(learner.model.env) is None:
        talk("Its environments cannot be saved: resumed, the run begins new episodes.")
    began = time.monotonic()
    try:
        with _signals(stop.request) as caught:
            if learner.warm_up is not None:
                learner.warm_up.train(run, logger, talk, bar=bars, stopped=stop.agreed)
            if not stop.agreed():
                learner.model.learn(
                    options.total_timesteps - start,
                    callback=callbacks,
                    reset_num_timesteps=resumed_at is None,
                )
    finally:
        if bar is not None:
            bar.close()
        logger.close()
        learner.close()
    seconds = time.monotonic() - began
    if not first:
        return 0
    if stop.requested and learner.model.num_timesteps < options.total_timesteps:
        return _stopped(options, run, learner, caught[0] if caught else signal.SIGTERM)
    steps = learner.model.num_timesteps - start
    alone = steps / max(seconds - evaluation.seconds, 1e-9)
    speed = f"{steps / seconds:,.0f} steps/s, {alone:,.0f} without evaluations"
    close_run(options, run, speed, learner.resumable)
    return 0


def close_run(options: RunOptions, run: RunDir, speed: str | None = None, resumable: bool = True) -> None:
    """Draw the curve and print what came out, where it is and how to look at it."""
    title = _draw(options, run)
    result = summarise(run)
    lines = [f"\n{title}: {result.timesteps:,} steps"]
    if result.evaluations:
        count = min(FINAL, result.evaluations)
        lines += [
            f"  final mean   {shown(result.final_mean)}  (mean of the last {count} evaluations)",
            f"  maximum      {shown(result.maximum)}  (best of {result.evaluations} evaluations)",
        ]
    if speed:
        lines.append(f"  speed        {speed}")
    lines += [
        f"  everything   {run.path}/  (curve.png, progress.csv, evaluations.csv, checkpoints/)",
        f"  look         tensorboard --logdir {run.path}",
        f"  evaluate     python -m experiments.evaluate {run.path}",
        f"  compare      python -m experiments.compare {run.path} OTHER_RUN...",
    ]
    if resumable:
        lines.append(f"  go on        python -m experiments.run --resume {run.path} --total-timesteps N")
    say("\n".join(lines))


def _logs(learner: Learner, run: RunDir) -> list[TextLog | ScreenLog]:
    """What else is to be looked at of runs that answer text, and of those on screens."""
    logs: list[TextLog | ScreenLog] = []
    if isinstance(learner.model.action_space, spaces.Text):
        from experiments.completions import TextLog  # which brings transformers

        logs.append(TextLog(run))
    if learner.watcher is not None:
        from experiments.screens import ScreenLog

        logs.append(ScreenLog(run, learner.watcher))
    return logs


def _draw(options: RunOptions, run: RunDir) -> str:
    """Write curve.png; returns its title."""
    from experiments.plotting import plot_curve

    title = f"{options.algo} on {options.env_id}, seed {options.seed}"
    plot_curve(run, title)
    return title


def _stopped(options: RunOptions, run: RunDir, learner: Learner, number: int) -> int:
    """Say that the run was stopped and how to go on; returns the shell's exit status for the signal."""
    _draw(options, run)
    where = f"Stopped at {learner.model.num_timesteps:,} steps; the checkpoint is written."
    go_on = f"  Go on with: python -m experiments.run --resume {run.path}" if learner.resumable else ""
    print(where + go_on, file=sys.stderr)
    return 128 + number


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """While it lasts, SIGINT and SIGTERM call `stop`; a second SIGINT aborts. Yields the signals caught."""
    caught: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        if caught and number == signal.SIGINT:
            raise KeyboardInterrupt
        caught.append(number)
        # Not print: the signal may have come in the middle of one.
        os.write(2, b"\nFinishing the iteration, then a checkpoint. Ctrl-C again aborts.\n")
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
