"""Measure a trained agent: `python -m experiments.evaluate RUN_DIR [--episodes 20] [--video]`."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments import cli
from experiments.rundir import RunDir, open_run
from experiments.settings import check_device
from experiments.video import check_imageio, record_episode

if TYPE_CHECKING:
    from agents.core.evaluation import EpisodeStats, Predictor


@dataclass(kw_only=True)
class Options:
    """Settings of an evaluation."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """A run directory, or one checkpoint file."""
    episodes: int = 20
    """Episodes to measure."""
    checkpoint: str = "best"
    """Which one of a run directory: best, latest, step-<N>, or a path."""
    seed: int = 1
    """Which initial states. 0: those of the evaluations in training, by which the best checkpoint was chosen."""
    stochastic: bool = False
    """Sample actions, where the default takes the most likely one."""
    device: str = "auto"
    """Where the networks are: auto, cpu, cuda."""
    video: bool = False
    """Record one episode as a video in the run directory."""
    json: bool = False
    """Print one JSON object, the single episodes included."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Subject:
    """What is evaluated."""

    predictor: Predictor
    checkpoint: Path
    algo: str
    env_id: str
    env_kwargs: dict[str, Any]
    run: RunDir | None


def command(argv: list[str]) -> int:
    """Parse, evaluate, print; returns the exit status."""
    options = cli.parse(Options, argv, prog="python -m experiments.evaluate", description=__doc__ or "")
    if options.episodes < 1:
        raise ValueError(f"--episodes must be at least 1, got {options.episodes}")
    if options.seed < 0:
        raise ValueError(f"--seed must not be negative, got {options.seed}")
    if options.video:
        # MuJoCo decides when it is imported; where there is no display its default cannot work.
        if "DISPLAY" not in os.environ and sys.platform == "linux":
            os.environ.setdefault("MUJOCO_GL", "egl")
        check_imageio()
    import torch

    check_device(options.device)
    torch.set_num_threads(1)
    subject = load(options)
    stats = measure(subject, options.episodes, options.seed, deterministic=not options.stochastic)
    report = summarise(stats)
    if options.json:
        about = {"algo": subject.algo, "env": subject.env_id, "checkpoint": str(subject.checkpoint)}
        episodes = {"returns": stats.returns.tolist(), "lengths": stats.lengths.tolist()}
        print(json.dumps({**about, **report, **episodes}))
    else:
        print(as_text(subject, report))
    if options.video:
        video = record(subject, options)
        print(f"  video                 {video}", file=sys.stderr if options.json else sys.stdout)
    return 0


def load(options: Options) -> Subject:
    """The agent to evaluate, with what is needed to make its environment."""
    run, path = _locate(options)
    if run is None:
        return _load_bare(path, options.device)
    from experiments.environments import env_options
    from experiments.settings import config_type, from_config

    config = run.read_config()
    types = config_type(str(config["algo"])), env_options(str(config["env"]))
    settings = from_config({**config, "device": options.device}, *types)
    if settings.algo.startswith("sb3/"):
        from experiments.sb3 import load_predictor

        predictor: Any = load_predictor(settings, path)
    else:
        import agents

        predictor = agents.load(path, device=options.device)
    return Subject(predictor, path, settings.algo, settings.env_id, settings.env_kwargs, run)


def measure(subject: Subject, episodes: int, seed: int, deterministic: bool) -> EpisodeStats:
    """Run `episodes` episodes with the policy of `subject`."""
    from agents.core.evaluation import evaluate
    from experiments.environments import make_eval_env

    env = make_eval_env(subject.env_id, episodes, subject.env_kwargs)
    try:
        return evaluate(subject.predictor, env, episodes, seed=first_seed(seed), deterministic=deterministic)
    finally:
        env.close()


def first_seed(seed: int) -> int:
    """The reset seed of the first episode: different `seed` share no episode, up to a million each."""
    from agents.core.tasks import EVALUATION_SEEDS

    return EVALUATION_SEEDS + seed * 1_000_000


def summarise(stats: EpisodeStats) -> dict[str, float]:
    """Mean, deviation, interquartile mean with its 95% bootstrap interval, extremes, lengths."""
    from experiments.statistics import bootstrap_interval, interquartile_mean

    low, high = bootstrap_interval([stats.returns])
    return {
        "episodes": len(stats.returns),
        "mean": float(stats.returns.mean()),
        "std": float(stats.returns.std(ddof=1)) if len(stats.returns) > 1 else 0.0,
        "iqm": float(interquartile_mean(stats.returns)),
        "iqm_low": low,
        "iqm_high": high,
        "min": float(stats.returns.min()),
        "max": float(stats.returns.max()),
        "mean_ep_length": float(stats.lengths.mean()),
        "min_ep_length": int(stats.lengths.min()),
        "max_ep_length": int(stats.lengths.max()),
    }


def as_text(subject: Subject, report: dict[str, float]) -> str:
    """The report in lines."""
    interval = f"  [{report['iqm_low']:.2f}, {report['iqm_high']:.2f}] (95% bootstrap interval)"
    lines = [
        f"{subject.algo} on {subject.env_id}, {subject.checkpoint}, {report['episodes']} episodes",
        f"  mean return           {report['mean']:.2f} +- {report['std']:.2f} (standard deviation)",
        f"  interquartile mean    {report['iqm']:.2f}" + (interval if report["episodes"] > 1 else ""),
        f"  least, greatest       {report['min']:.2f}, {report['max']:.2f}",
        f"  episode length        {report['mean_ep_length']:.1f} steps, "
        f"from {report['min_ep_length']} to {report['max_ep_length']}",
    ]
    return "\n".join(lines)


def _locate(options: Options) -> tuple[RunDir | None, Path]:
    """The run directory, if any, and the checkpoint file."""
    if options.run.is_file():
        folder = options.run.parent.parent
        return (RunDir(folder) if (folder / "config.yaml").is_file() else None), options.run
    run = open_run(options.run)
    names = [options.checkpoint] if options.checkpoint != "best" else ["best", "latest"]
    for name in names:
        for suffix in (".safetensors", ".zip"):
            path = run.checkpoints / (name + suffix)
            if path.is_file():
                return run, path
    if Path(options.checkpoint).is_file():
        return run, Path(options.checkpoint)
    kept = sorted({path.stem for path in run.checkpoints.glob("*") if path.suffix in (".safetensors", ".zip")})
    there = f"it has {', '.join(kept)}" if kept else "it has none yet"
    raise ValueError(f"{options.run} has no checkpoint {options.checkpoint!r}: {there}")


def _load_bare(path: Path, device: str) -> Subject:
    """An agent saved by hand: the checkpoint itself knows its environment."""
    import agents
    from agents.core import checkpoint

    state = checkpoint.load(path)
    agent: Any = agents.load(path, device=device)
    made = state["environment"]
    if made is None:
        raise ValueError(f"{path} does not say which environment it was trained on")
    return Subject(agent, path, state["algorithm"], made["id"], made["kwargs"], None)


def record(subject: Subject, options: Options) -> Path:
    """Record the first episode that was measured; returns the video file."""
    folder = subject.checkpoint.parent if subject.run is None else subject.run.path / "videos"
    folder.mkdir(exist_ok=True)
    return record_episode(
        subject.predictor,
        subject.env_id,
        subject.env_kwargs,
        folder / subject.checkpoint.stem,
        seed=first_seed(options.seed),
        deterministic=not options.stochastic,
    )


if __name__ == "__main__":
    cli.main(command)
