"""The supervised warm-up of a run: behaviour cloning before the first step of reinforcement learning.

Its rows are logged at negative steps, minus the demonstrations still to come, so that everything that goes by steps
(curves, cutting what was written after a checkpoint) holds for it too. Its own checkpoint, checkpoints/warmup, is
replaced every tenth of the way and goes when the agent's first one is written, at step 0.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stable_baselines3.common.logger import Logger
from tqdm import tqdm

from agents import cloning
from agents.core import checkpoint, distributed
from experiments.environments import make_envs
from experiments.rundir import RunDir

if TYPE_CHECKING:
    import agents
    from experiments.settings import RunOptions


@dataclass
class Options(cloning.Config):
    """Settings of the warm-up."""

    expert: Path | None = None
    """A run directory or checkpoint whose agent demonstrates. Unset: the environment's own demonstrations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expert = None if self.expert is None else Path(self.expert)  # config.yaml has it as text


class WarmUp:
    """The warm-up of one run, from its beginning or from where a checkpoint left it.

    Raises ValueError where nobody can demonstrate: on the environment's part or the expert's.
    """

    def __init__(self, options: RunOptions, agent: agents.Agent) -> None:
        settings = options.warmup
        # Environments of its own: those of the run must begin alike with a warm-up behind them and without.
        self.env = make_envs(options.env_id, options.num_envs, options.env_kwargs)
        expert = None if settings.expert is None else _load_expert(settings.expert, agent)
        try:
            self.cloner = cloning.Cloner(agent, self.env, settings, expert)
        except ValueError as problem:
            self.env.close()
            raise ValueError(f"{problem}: --warmup.expert RUN_DIR" if expert is None else str(problem)) from None

    @property
    def step(self) -> int:
        """Where in the log it is: minus the demonstrations to come."""
        return -self.cloner.left

    def resume(self, run: RunDir) -> None:
        """Go on from the checkpoint in `run`, if there is one."""
        if run.warmup.exists():
            self.cloner.load_state_dict(checkpoint.load(run.warmup))

    def save(self, run: RunDir) -> None:
        if distributed.rank() == 0:  # several processes all go through the same demonstrations
            checkpoint.save(run.warmup, self.cloner.state_dict())

    def train(
        self, run: RunDir, logger: Logger, say: Callable[[str], None], *, bar: bool, stopped: Callable[[], bool]
    ) -> None:
        """Go through to the end, or until `stopped()`, which leaves a checkpoint."""
        total = self.cloner.config.episodes
        with tqdm(
            total=total, initial=total + self.step, unit=" demos", disable=not bar, dynamic_ncols=True, file=sys.stderr
        ) as shown:
            while self.cloner.left and not stopped():
                before = self.cloner.done
                metrics = self.cloner.round()
                for name, value in metrics.items():
                    logger.record(f"warmup/{name}", value)
                logger.record("time/total_timesteps", self.step, exclude="tensorboard")
                logger.dump(self.step)
                shown.set_postfix_str(f"loss {metrics['loss']:.4f}", refresh=False)
                shown.update(self.cloner.done - before)
                tenth = 10 * self.cloner.done // total > 10 * before // total
                if tenth or not self.cloner.left:
                    say(f"{self.cloner.done:>11,} of {total:,} demonstrations  loss {metrics['loss']:.4f}")
                # At the end the agent's own checkpoint takes over, behind the first evaluation.
                if self.cloner.left and (tenth or stopped()):
                    self.save(run)
        self.env.close()


def _load_expert(path: Path, pupil: agents.Agent) -> Any:
    """The agent of a run directory (its best checkpoint) or of one file."""
    import agents
    from experiments.evaluate import Options as Evaluated
    from experiments.evaluate import load

    expert = load(Evaluated(run=path)).predictor
    if isinstance(expert, agents.Agent):
        from agents.core.spaces import same

        for what in ("observation_space", "action_space"):
            if not same(getattr(expert, what), getattr(pupil, what)):
                raise ValueError(f"the expert in {path} has another {what.replace('_', ' ')} than this environment")
    return expert
