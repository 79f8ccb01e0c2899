"""Train an agent: `python -m experiments.run ALGO ENV [options]`, or `--resume DIR` to go on with a run."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from experiments import cli
from experiments.rundir import RunDir, check_out, claimed, create_run, open_run
from experiments.settings import RunOptions, parse_run, prepare_torch, save_config

if TYPE_CHECKING:
    from experiments.training import Learner


def command(argv: list[str]) -> int:
    """Parse, train, and return the exit status."""
    options = parse_run(argv)
    if options.out is not None and int(os.environ.get("RANK", "0")) == 0:
        check_out(options.out)
    prepare_torch(options.device, options.torch_threads, options.matmul_precision)

    from agents.core import distributed

    distributed.start()
    try:
        return _resume(options, options.resume) if options.resume is not None else _begin(options, argv)
    finally:
        distributed.stop()


def _begin(options: RunOptions, argv: list[str]) -> int:
    """Train an agent from its beginning."""
    from agents.core import distributed
    from experiments.training import train

    learner = _new_learner(options)
    # Only now, when nothing can be refused any more, does anything appear on disk.
    first, run = distributed.rank() == 0, None
    if first:
        run = create_run(options.out, options.algo, options.env_id, options.seed)
        save_config(run, options, ["python", "-m", "experiments.run", *argv])
    run = distributed.shared(run)
    with claimed(run) if first else nullcontext():
        return train(options, learner, run)


def _new_learner(options: RunOptions) -> Learner:
    if options.algo.startswith("sb3/"):
        from agents.core import distributed
        from experiments import sb3

        if distributed.world() > 1:
            raise ValueError(f"{options.algo} learns in one process; trpo, actor-critic and ddpg take several")
        return sb3.new_learner(options)
    from experiments import ours

    return ours.new_learner(options)


def _resume(options: RunOptions, path: Path) -> int:
    """Go on with the run in `path` from its last checkpoint, or from the start where it has none."""
    if options.algo.startswith("sb3/"):
        raise ValueError(
            f"{path} cannot be resumed: Stable-Baselines3's files hold neither its environments nor its "
            "random generators; start a new run"
        )
    from agents.core import distributed
    from experiments import ours
    from experiments.training import close_run, train

    run, first = open_run(path), distributed.rank() == 0
    with claimed(run) if first else nullcontext():
        for half in run.checkpoints.glob(".*.tmp") if first else ():  # written while the process was killed
            half.unlink()
        latest = run.checkpoints / f"latest{ours.SUFFIX}"
        if not latest.exists():
            _refuse_to_start_over(run, options.checkpoint_freq)
        learner = ours.load_learner(options, latest) if latest.exists() else ours.new_learner(options)
        step = learner.model.num_timesteps if latest.exists() else -1  # where nothing is saved, nothing is kept
        if step >= options.total_timesteps:
            if not first:
                learner.close()
                return 0
            print(f"{path} is complete: it has {step:,} steps. --total-timesteps N takes it further.")
            learner.close()
            close_run(options, run)
            return 0
        if learner.warm_up is not None:
            learner.warm_up.resume(run)
            step = learner.warm_up.step
        if first:
            if step > 0 and not learner.model.restored_exactly:
                print("The environments could not be put back where they were: their episodes start afresh.")
            run.cut_after(step)
            run.write_config({**run.read_config(), "total_timesteps": options.total_timesteps})
        return train(options, learner, run, resumed_at=step)


def _refuse_to_start_over(run: RunDir, checkpoint_freq: int) -> None:
    """Raise ValueError where a run without its latest checkpoint has come too far for there never to have been one."""
    kept = sorted(run.periodic_checkpoints().items(), key=lambda item: item[1])
    rows = run.read_progress()
    steps = max((int(row["time/total_timesteps"]) for row in rows if row.get("time/total_timesteps")), default=0)
    # One step-<N> alone may have been written just before the process was killed, and the latest not yet.
    if len(kept) < 2 and not (checkpoint_freq and steps > 2 * checkpoint_freq):
        return
    remedy = f"copy {kept[-1][0].name} to that name to go on from there" if kept else "put it back"
    raise ValueError(
        f"{run.checkpoints / 'latest.safetensors'} is missing, and to resume without it would begin anew and overwrite "
        f"{steps:,} steps: {remedy}, or start a new run with --out"
    )


if __name__ == "__main__":
    cli.main(command)
