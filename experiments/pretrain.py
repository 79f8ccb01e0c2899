"""Pretrain an encoder on an environment's screenshots: `python -m experiments.pretrain {mae,clip,siglip} ENV`.

The run directory is laid out as `experiments.run`'s; `encoder.safetensors` in it is the result, and
`--agent.encoder RUN_DIR` puts it into any agent. The clock of progress.csv and TensorBoard counts gradient steps.
`--resume DIR` goes on bit for bit from the last evaluation, the screenshots being taken anew.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro

from experiments import cli
from experiments.environments import env_options, make_envs, make_eval_env
from experiments.rundir import RunDir, check_out, claimed, create_run, open_run
from experiments.settings import (
    build,
    check_precision,
    field_default,
    option,
    plain,
    prepare_torch,
    saved_fields,
    versions,
)

if TYPE_CHECKING:
    from experiments.pretraining import Pretraining
    from experiments.screenshots import Screenshots

OBJECTIVES = ("mae", "clip", "siglip")
ENCODERS = {"mae": "vit", "clip": "clip", "siglip": "siglip"}


@dataclass(kw_only=True)
class PretrainOptions:
    """The settings of a pretraining run."""

    objective: Annotated[Literal["mae", "clip", "siglip"], tyro.conf.Positional]
    """Masked autoencoding, or contrast of screenshots with instructions by CLIP's or SigLIP's loss."""
    env_id: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="env", metavar="ENV")]
    """The environment, as gui/click-button-v0."""
    encoder: str = ""
    """What to train: cnn, vit, clip, siglip, a saved encoder, or a folder or hub id that transformers loads. Unset: vit
    for mae, else the objective's own."""
    steps: int = 2000
    """Gradient steps."""
    batch_size: int = 64
    """Screenshots of one step; a contrast takes no more than there are different instructions."""
    screenshots: int = 4096
    """Screenshots to train on; an eighth as many from other episodes are held out."""
    demonstrated: float = 0.5
    """Share of actions that are the environment's own demonstrations, where it has any; the others are random."""
    learning_rate: float = 1e-3
    """Largest step size of AdamW: it rises over the first twentieth and falls to 0 as a cosine."""
    num_envs: int = 16
    """Environments that screenshots are taken from at once."""
    eval_freq: int = 200
    """Steps between evaluations on held-out screenshots, and checkpoints."""
    seed: int = 0
    """Decides everything random: weights, screenshots, batches."""
    out: Path | None = None
    """Run directory, absent or empty. Unset: runs/pretrain-<objective>/<env>/seed<S>-<time>."""
    resume: Path | None = None
    """Run directory to go on with from its last checkpoint; settings then come from its config.yaml."""
    device: str = "auto"
    """Where the networks are: auto, cpu, cuda."""
    torch_threads: int = 1
    """Threads of torch on the CPU."""
    matmul_precision: str = "highest"
    """How float32 products are computed, in torch's words: highest, high or medium (bfloat16)."""
    quiet: bool = False
    """Print nothing but errors and the closing summary."""
    debug: bool = False
    """Show the traceback of an error."""

    env: Any = None

    def check(self) -> None:
        """Raise ValueError for impossible values."""
        for name in ("steps", "batch_size", "screenshots", "learning_rate", "num_envs", "eval_freq", "torch_threads"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{option(name)} must be positive, got {getattr(self, name)}")
        check_precision(self.matmul_precision)
        if not 0 <= self.demonstrated <= 1:
            raise ValueError(f"--demonstrated must lie between 0 and 1, got {self.demonstrated}")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, got {self.seed}")

    def config(self) -> dict[str, Any]:
        """All settings as plain values, for config.yaml."""
        values = plain(self)
        for name in ("out", "resume", "quiet", "debug"):
            del values[name]
        values["env_options"] = values.pop("env")
        return {"algo": f"pretrain/{values.pop('objective')}", "env": values.pop("env_id"), **values}

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """The environment options that differ from the environment's own defaults."""
        fields = {field.name: field_default(field) for field in dataclasses.fields(self.env)}
        return {name: getattr(self.env, name) for name in fields if getattr(self.env, name) != fields[name]}


def parse(argv: list[str]) -> PretrainOptions:
    """The options of this command; raises ValueError, or prints the help and exits."""
    saved = None
    if "--resume" in argv[:-1]:
        saved = open_run(Path(argv[argv.index("--resume") + 1])).read_config()
        if not str(saved.get("algo")).startswith("pretrain/"):
            raise ValueError("--resume needs the directory of a pretraining run; experiments.run resumes the others")
        argv = [str(saved["algo"]).removeprefix("pretrain/"), str(saved["env"]), *argv]
    words = list(itertools.takewhile(lambda word: not word.startswith("-"), argv))
    if len(words) < 2 and not {"--help", "-h"} & set(argv):
        raise ValueError("name an objective and an environment, as in: experiments.pretrain mae gui/click-button-v0")
    default: Any = None
    kind: type = _General
    if len(words) > 1:
        env_type = env_options(words[1])
        field: Any = ("env", env_type, dataclasses.field(default_factory=env_type))
        kind = dataclasses.make_dataclass("PretrainOptions", [field], bases=(PretrainOptions,), kw_only=True)
        if saved is not None:
            default = _from_config(kind, env_type, saved)
    description = "Pretrain an encoder on an environment's own screenshots."
    options: PretrainOptions = cli.parse(
        kind, argv, prog="python -m experiments.pretrain", description=description, default=default
    )
    if saved is not None and options.config() != default.config():
        raise ValueError("a resumed run keeps its settings: give --resume alone")
    options.check()
    return options


@dataclass(kw_only=True)
class _General(PretrainOptions):
    """PretrainOptions without the environment's, for the help where no environment is named."""

    env: tyro.conf.Suppress[None] = None


def _from_config(kind: type, env_type: type, saved: Mapping[str, Any]) -> Any:
    return kind(
        objective=str(saved["algo"]).removeprefix("pretrain/"),
        env_id=saved["env"],
        env=build(env_type, saved.get("env_options") or {}, "environment options in config.yaml"),
        **saved_fields(PretrainOptions, saved),
    )


def command(argv: list[str]) -> int:
    """Parse, pretrain, and return the exit status."""
    options = parse(argv)
    if options.out is not None:
        check_out(options.out)
    prepare_torch(options.device, options.torch_threads, options.matmul_precision)
    run = None if options.resume is None else open_run(options.resume)
    learner = new_learner(options)
    if run is None:
        run = create_run(options.out, f"pretrain/{options.objective}", options.env_id, options.seed)
        words = ["python", "-m", "experiments.pretrain", *argv]
        run.write_config({**options.config(), "versions": versions(), "command": " ".join(words)})
    with claimed(run):
        train(options, learner, run)
    return 0


def new_learner(options: PretrainOptions) -> Pretraining:
    """Take the screenshots and build the networks."""
    import torch

    from agents.core.tasks import EVALUATION_SEEDS
    from experiments.pretraining import Pretraining
    from experiments.screenshots import collect, screen_leaves

    def shots(env: Any, count: int, seeds: Any, seed: int) -> Screenshots:
        try:
            return collect(env, count, iter(seeds), demonstrated=options.demonstrated, seed=seed)
        finally:
            env.close()

    env = make_envs(options.env_id, options.num_envs, options.env_kwargs)
    space = env.single_observation_space
    screen_leaves(space)
    rng = np.random.default_rng(options.seed)
    draws = (int(rng.integers(EVALUATION_SEEDS)) for _ in itertools.count())
    data = shots(env, options.screenshots, draws, options.seed)
    others = make_eval_env(options.env_id, options.num_envs, options.env_kwargs)
    held_out = shots(others, max(1, options.screenshots // 8), itertools.count(EVALUATION_SEEDS), 0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return Pretraining(
        options.objective,
        space,
        options.encoder or ENCODERS[options.objective],
        data,
        held_out,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        device=torch.device(device if options.device == "auto" else options.device),
    )


def train(options: PretrainOptions, learner: Pretraining, run: RunDir) -> None:
    """Train until `options.steps`, with an evaluation and a checkpoint every `options.eval_freq`."""
    from stable_baselines3.common.logger import Image

    from agents.core import checkpoint
    from agents.encoders import save_encoder
    from agents.encoders.storage import FILE
    from experiments.callbacks import say
    from experiments.logs import make_logger
    from experiments.plotting import plot_pretraining

    resumed_at = None
    if options.resume is not None and (run.checkpoints / "latest.safetensors").exists():
        learner.load_state_dict(checkpoint.load(run.checkpoints / "latest"))
        resumed_at = learner.step
    if options.resume is not None:
        run.cut_after(learner.step if resumed_at is not None else -1)
    logger = make_logger(run, resumed_at=resumed_at, quiet=True)
    title = f"{options.objective} on {options.env_id}, seed {options.seed}"
    if not options.quiet:
        say(f"Pretraining {title}: {len(learner.data):,} screenshots, {options.steps:,} steps in {run.path}")
    metrics: dict[str, float] = {}
    losses: list[Any] = []
    began = time.monotonic()
    while True:
        due = learner.step % options.eval_freq == 0 or learner.step == options.steps
        if due and learner.step != resumed_at:
            metrics = learner.evaluate()
            for name, value in metrics.items():
                logger.record(f"eval/{name}", value)
            if losses:
                logger.record("train/loss", float(sum(losses)) / len(losses))
                logger.record("train/learning_rate", learner.optimizer.param_groups[0]["lr"])
                seconds = max(time.monotonic() - began, 1e-9)
                logger.record("time/fps", int(len(losses) * learner.batch_size / seconds))
            if (pictures := learner.pictures()) is not None:
                logger.record("eval/reconstructions", Image(pictures, "CHW"), exclude="csv")
            logger.dump(learner.step)
            if not options.quiet:
                say(f"step {learner.step:,}  " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
            checkpoint.save(run.checkpoints / "latest", learner.state_dict())
            save_encoder(
                learner.encoder, run.path / FILE, ("image",) if options.objective == "mae" else ("image", "text")
            )
            losses, began = [], time.monotonic()
        if learner.step >= options.steps:
            break
        losses.append(learner.train_step())
    logger.close()
    plot_pretraining(run, title)
    where = f"  encoder      {run.path / FILE}\n  everything   {run.path}/  (curve.png, progress.csv, checkpoints/)"
    use = f"  use          python -m experiments.run ALGO {options.env_id} --agent.encoder {run.path}"
    say("\n".join([f"\n{title}: {learner.step:,} steps", where, use]))


if __name__ == "__main__":
    cli.main(command)
