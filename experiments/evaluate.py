"""Measure a trained agent: `python -m experiments.evaluate RUN_DIR [--episodes 20] [--video] [--suite 'gui/*']`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments import cli
from experiments.rundir import RunDir, open_run
from experiments.settings import prepare_torch
from experiments.video import check_imageio, check_renders, record_episode, write_moments

if TYPE_CHECKING:
    from agents.core.evaluation import EpisodeStats, Predictor, WatchedStep
    from experiments.screens import TaskResult, Watcher


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
    samples: int = 1
    """Text: responses to draw to each problem besides, for pass@k."""
    device: str = "auto"
    """Where the networks are: auto, cpu, cuda."""
    suite: str | None = None
    """Measure, instead of the run's own environment, all whose ids match: 'gui/*', 'chromium/click-*'."""
    random: bool = False
    """Measure random actions too, in the same episodes."""
    video: bool = False
    """Record one episode as a video in the run directory; of screens a few, with pointer and actions drawn in."""
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
    if options.samples < 1:
        raise ValueError(f"--samples must be at least 1, got {options.samples}")
    if options.seed < 0:
        raise ValueError(f"--seed must not be negative, got {options.seed}")
    if options.video:
        # MuJoCo decides when it is imported; where there is no display its default cannot work.
        if "DISPLAY" not in os.environ and sys.platform == "linux":
            os.environ.setdefault("MUJOCO_GL", "egl")
        check_imageio()
    from experiments.screens import Watcher, by_task
    from experiments.suite import as_table

    prepare_torch(options.device)
    subject = load(options)
    if options.samples > 1 and not answers_text(subject):
        raise ValueError(f"--samples is for text environments; {subject.env_id} is none")
    if options.suite is not None:
        return _suite(subject, options)
    watcher = Watcher(subject.env_id, agent=subject.predictor)
    if options.video:
        check_renders(subject.env_id, subject.env_kwargs)
    stats = measure(
        subject, options.episodes, options.seed, not options.stochastic, options.samples, watch=watcher.watch
    )
    report = summarise(stats)
    episodes = {"returns": stats.returns.tolist(), "lengths": stats.lengths.tolist()}
    lines = as_text(report)
    if answers_text(subject):
        found = of_text(stats)
        report, lines = {**report, **found}, as_problems(found)
        episodes["tokens"] = stats.tokens.tolist()  # type: ignore[attr-defined]
    chance = at_random(subject, options.episodes, options.seed) if options.random else None
    if chance is not None:
        report["random_mean"] = float(chance.returns.mean())
        lines.append(f"  random actions        {report['random_mean']:.2f} mean return")
    if len(set(watcher.tasks)) > 1:
        random = None if chance is None else {one.task: one for one in by_task(watcher.tasks, chance)}
        lines += as_table(by_task(watcher.tasks, stats), random)
        episodes["tasks"] = watcher.tasks
    if options.json:
        about = {"algo": subject.algo, "env": subject.env_id, "checkpoint": str(subject.checkpoint)}
        print(json.dumps({**about, **report, **episodes}))
    else:
        print(f"{subject.algo} on {subject.env_id}, {subject.checkpoint}, {len(stats.returns)} episodes")
        print("\n".join(lines))
    if options.video:
        video = record(subject, options, watcher)
        print(f"  video                 {video}", file=sys.stderr if options.json else sys.stdout)
    return 0


def _suite(subject: Subject, options: Options) -> int:
    """The part of `command` that measures a suite."""
    from experiments.suite import as_table, run_suite

    assert options.suite is not None
    suite = run_suite(
        subject.predictor,
        options.suite,
        subject.env_kwargs,
        episodes=options.episodes,
        seed=first_seed(options.seed),
        deterministic=not options.stochastic,
        random=options.random,
        keep=int(options.video),
        report=_tell,
    )
    folder = subject.checkpoint.parent if subject.run is None else subject.run.path
    title = f"{subject.algo} trained on {subject.env_id}: {options.suite}"
    files = suite.write(folder, title)
    if suite.moments:
        files += write_moments(suite.moments, folder / suite.name)
    if options.json:
        about = {"algo": subject.algo, "env": subject.env_id, "checkpoint": str(subject.checkpoint)}
        print(json.dumps({**about, "suite": options.suite, "tasks": suite.rows(), "refused": suite.refused}))
        return 0
    print(f"{title}, {subject.checkpoint}, {options.episodes} episodes of each")
    print("\n".join(as_table(suite.results, suite.random)))
    if suite.refused:
        print(f"  left out, their spaces being others: {', '.join(suite.refused)}")
    print(f"  files                 {', '.join(str(file) for file in files)}")
    return 0


def _tell(result: TaskResult, number: int, count: int) -> None:
    print(f"  {number} of {count}  {result.task}  {result.success:.3f}", file=sys.stderr, flush=True)


def load(options: Options) -> Subject:
    """The agent to evaluate, with what is needed to make its environment."""
    run, path = locate(options)
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


def answers_text(subject: Subject) -> bool:
    """Whether its episodes are problems that a language model answers."""
    from gymnasium import spaces

    return isinstance(getattr(subject.predictor, "action_space", None), spaces.Text)


def measure(
    subject: Subject,
    episodes: int,
    seed: int,
    deterministic: bool,
    samples: int = 1,
    watch: Callable[[WatchedStep], None] | None = None,
) -> EpisodeStats:
    """Run `episodes` episodes with the policy of `subject`.

    samples: responses drawn besides, see `evaluate_text`; watch: is shown every step on screens.
    """
    from agents.core.evaluation import evaluate
    from experiments.environments import make_eval_env, sees_screens

    env = make_eval_env(subject.env_id, episodes, subject.env_kwargs)
    agent: Any = subject.predictor
    watch = watch if sees_screens(env) else None
    try:
        if answers_text(subject):
            from experiments.completions import evaluate_text

            return evaluate_text(
                agent,
                env,
                episodes,
                seed=first_seed(seed),
                deterministic=deterministic,
                samples=samples,
                watch=watch,
            )
        return evaluate(agent, env, episodes, seed=first_seed(seed), deterministic=deterministic, watch=watch)
    finally:
        env.close()


def at_random(subject: Subject, episodes: int, seed: int) -> EpisodeStats:
    """The episodes of `measure` with random actions."""
    from agents.core.evaluation import evaluate
    from experiments.environments import make_eval_env
    from experiments.suite import RandomPolicy

    env = make_eval_env(subject.env_id, episodes, subject.env_kwargs)
    try:
        return evaluate(RandomPolicy(env, seed), env, episodes, seed=first_seed(seed))
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


def of_text(stats: EpisodeStats) -> dict[str, float]:
    """What `evaluate_text` tells besides, with the 95% Wilson interval of the accuracy."""
    from scipy.stats import binomtest

    from experiments.completions import SUCCESS, TextStats

    assert isinstance(stats, TextStats)
    solved = int((stats.returns >= SUCCESS).sum())
    interval = binomtest(solved, len(stats.returns)).proportion_ci(method="wilson")
    return {**stats.metrics(), "accuracy_low": float(interval.low), "accuracy_high": float(interval.high)}


def as_problems(report: dict[str, float]) -> list[str]:
    """The report on problems answered, in lines."""
    interval = f"[{report['accuracy_low']:.3f}, {report['accuracy_high']:.3f}] (95% Wilson interval)"
    samples = [(name.removeprefix("pass_at_"), value) for name, value in report.items() if name.startswith("pass_at_")]
    return [
        f"  accuracy              {report['accuracy']:.3f}  {interval}",
        *(f"  {f'pass@{k}':<22}{value:.3f}" for k, value in samples),
        f"  response length       {report['response_length']:.1f} tokens",
        f"  cut short             {report['truncated']:.1%} of the responses",
    ]


def as_text(report: dict[str, float]) -> list[str]:
    """The report in lines."""
    interval = f"  [{report['iqm_low']:.2f}, {report['iqm_high']:.2f}] (95% bootstrap interval)"
    return [
        f"  mean return           {report['mean']:.2f} +- {report['std']:.2f} (standard deviation)",
        f"  interquartile mean    {report['iqm']:.2f}" + (interval if report["episodes"] > 1 else ""),
        f"  least, greatest       {report['min']:.2f}, {report['max']:.2f}",
        f"  episode length        {report['mean_ep_length']:.1f} steps, "
        f"from {report['min_ep_length']} to {report['max_ep_length']}",
    ]


def locate(options: Options) -> tuple[RunDir | None, Path]:
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


def record(subject: Subject, options: Options, watcher: Watcher) -> Path:
    """Record the first episode that was measured, of screens those that `watcher` kept; returns the video file."""
    folder = subject.checkpoint.parent if subject.run is None else subject.run.path / "videos"
    folder.mkdir(exist_ok=True)
    if watcher.episodes:
        moments = [moment for episode in watcher.episodes for moment in episode]
        return write_moments(moments, folder / subject.checkpoint.stem)[-1]
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
