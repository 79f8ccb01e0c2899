"""Train an agent: `python -m experiments.run ALGO ENV [options]`, or `--resume DIR` to go on with a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments import cli
from experiments.rundir import check_out, create_run
from experiments.settings import RunOptions, parse_run, save_config

if TYPE_CHECKING:
    from experiments.training import Learner


def command(argv: list[str]) -> int:
    """Parse, train, and return the exit status."""
    options = parse_run(argv)
    if options.out is not None:
        check_out(options.out)
    import torch

    torch.set_num_threads(options.torch_threads)
    if options.resume is not None:
        return _resume(options, argv)

    from experiments.training import train

    learner = _new_learner(options)
    # Only now, when nothing can be refused any more, does anything appear on disk.
    run = create_run(options.out, options.algo, options.env_id, options.seed)
    save_config(run, options, ["python", "-m", "experiments.run", *argv])
    return train(options, learner, run)


def _new_learner(options: RunOptions) -> Learner:
    if options.algo.startswith("sb3/"):
        from experiments import sb3

        return sb3.make_learner(options)
    from experiments import ours

    return ours.make_learner(options)


def _resume(options: RunOptions, argv: list[str]) -> int:
    raise NotImplementedError


if __name__ == "__main__":
    cli.main(command)
