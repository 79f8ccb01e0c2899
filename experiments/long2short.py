"""Shorter answers from a trained run: `python -m experiments.long2short {average,rejection,dpo,rl} RUN_DIR [options]`.

    average LONG_RUN SHORT_RUN    the mean of two models' weights
    rejection RUN_DIR             clones the shortest right one of several responses to each problem
    dpo RUN_DIR                   prefers it to longer wrong ones and to much longer right ones
    rl RUN_DIR [run's options]    a second phase of Kimi: length reward, smaller maximum length

Each writes a run directory of its own, which evaluate, compare and run understand, and tells accuracy and mean length
on held-out problems before and after.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from experiments import cli
from experiments.rundir import RunDir, check_out, claimed, create_run, write_aside
from experiments.settings import RunOptions, config_type, from_config, hint, option, prepare_torch, save_config

if TYPE_CHECKING:
    import agents
    from experiments.completions import TextStats
    from experiments.training import Learner

PROG = "python -m experiments.long2short"


@dataclass(kw_only=True)
class Options:
    """What all ways but `rl` have in common."""

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """The run whose answers are too long, or one checkpoint in it (otherwise its best one)."""
    out: Path | None = None
    """Directory of the new run, absent or empty. Unset: runs/<algo>/<env>/seed<S>-<time>."""
    episodes: int = 500
    """Held-out problems to measure on, before and after."""
    seed: int = 0
    """Decides which problems are sampled, and all that is drawn."""
    device: str = "auto"
    """Where the networks are: auto, cpu, cuda."""
    debug: bool = False
    """Show the traceback of an error."""


@dataclass(kw_only=True)
class AverageOptions(Options):
    """Average the weights of a long and a short model."""

    short: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SHORT_RUN_DIR")]
    """The run whose answers are short; of the same architecture, and best with a common ancestor (--init)."""
    weight: float = 0.5
    """Share of the short model."""


@dataclass(kw_only=True)
class SampleOptions(Options):
    """Learn from the shortest right one of several responses."""

    problems: int = 1000
    """Training problems to answer."""
    samples: int = 8
    """Responses to each."""
    epochs: int = 2
    """Passes over the demonstrations or pairs."""
    batch_size: int = 64
    """Demonstrations or pairs per gradient step."""
    learning_rate: float = 1e-4
    """Step size (Adam)."""


@dataclass(kw_only=True)
class DPOOptions(SampleOptions):
    """Prefer the shortest right one of several responses."""

    beta: float = 0.1
    """Strength of the KL to the policy that the responses are drawn from."""
    nll_weight: float = 1.0
    """Weight of the preferred response's negative log-likelihood per token; 0: DPO alone."""


def command(argv: list[str]) -> int:
    """Run the way that the first word names; returns the exit status."""
    if not argv or argv[0] in ("--help", "-h"):
        print(__doc__)
        return 0 if argv else 2
    if argv[0] not in METHODS:
        raise ValueError(f"there is no way {argv[0]!r}.{hint(argv[0], METHODS) or ' Known: ' + ', '.join(METHODS)}")
    return METHODS[argv[0]](argv[1:])


def average(argv: list[str]) -> int:
    """The mean of two models' weights."""
    options = cli.parse(AverageOptions, argv, prog=f"{PROG} average", description=AverageOptions.__doc__ or "")
    if not 0 <= options.weight <= 1:
        raise ValueError(f"--weight must lie between 0 and 1, got {options.weight}")

    def change(learner: Learner) -> dict[str, float]:
        from agents.long2short import average
        from experiments.ours import load_agent

        average(learner.model, load_agent(options.short, options.device), options.weight)
        return {}

    return _derive("average", argv, options, change)


def rejection(argv: list[str]) -> int:
    """Cloning of the shortest right responses."""
    options = cli.parse(SampleOptions, argv, prog=f"{PROG} rejection", description=SampleOptions.__doc__ or "")

    def change(learner: Learner) -> dict[str, float]:
        from agents.long2short import imitate_shortest

        return _learn_from_samples(learner, options, imitate_shortest)

    return _derive("rejection", argv, options, change)


def dpo(argv: list[str]) -> int:
    """Direct preference optimisation towards the shortest right responses."""
    options = cli.parse(DPOOptions, argv, prog=f"{PROG} dpo", description=DPOOptions.__doc__ or "")

    def change(learner: Learner) -> dict[str, float]:
        from agents.long2short import prefer_shortest

        return _learn_from_samples(learner, options, prefer_shortest)

    return _derive("dpo", argv, options, change)


def rl(argv: list[str]) -> int:
    """A second phase of Kimi: the options of `experiments.run`, with the run's own settings as defaults."""
    if not argv or argv[0].startswith("-"):
        raise ValueError(f"name the run to begin with: {PROG} rl RUN_DIR")
    source, rest = Path(argv[0]), argv[1:]
    saved = _saved(source)
    if saved.algo != "kimi":
        raise ValueError(
            f"{source} is a run of {saved.algo}, whose settings are not Kimi's; name them: "
            f"python -m experiments.run kimi {saved.env_id} --init {source}"
        )
    agent = dataclasses.replace(saved.agent, length_reward_weight=saved.agent.length_reward_weight or 0.5)
    warmup = dataclasses.replace(saved.warmup, episodes=0)
    default = dataclasses.replace(saved, init=source, out=None, resume=None, agent=agent, warmup=warmup)
    options = cli.parse(
        type(default),
        [saved.algo, saved.env_id, *rest],
        prog=f"{PROG} rl",
        description=rl.__doc__ or "",
        default=default,
    )
    options.check()
    if options.out is not None:
        check_out(options.out)
    prepare_torch(options.device, options.torch_threads, options.matmul_precision)
    before = _measure(source, 500, options.device)
    if not any(word.replace("_", "-").startswith("--agent.max-tokens") for word in rest):
        longest = int(before.tokens[before.returns >= 1].max(initial=1))
        options.agent = dataclasses.replace(options.agent, max_tokens=longest)
        print(f"--agent.max-tokens {longest}: the longest right answer to the held-out problems")
    from experiments import ours
    from experiments.training import train

    learner = ours.new_learner(options)
    run = create_run(options.out, options.algo, options.env_id, options.seed)
    save_config(run, options, [*PROG.split(), "rl", *argv])
    _label(run, "rl", {})
    with claimed(run):
        status = train(options, learner, run)
    if status == 0:  # the best checkpoint is the most accurate one, however long its answers
        _report(run, source, before, _measure(run.checkpoints / f"latest{ours.SUFFIX}", 500, options.device))
    return status


METHODS: dict[str, Callable[[list[str]], int]] = {"average": average, "rejection": rejection, "dpo": dpo, "rl": rl}


def _derive(method: str, argv: list[str], options: Options, change: Callable[[Learner], dict[str, float]]) -> int:
    """Make a run out of `options.run`: its policy, changed by `change`, measured before and after."""
    from experiments import ours
    from experiments.callbacks import Evaluation
    from experiments.completions import TextLog
    from experiments.logs import make_logger
    from experiments.training import close_run

    if options.out is not None:
        check_out(options.out)
    for name in ("episodes", "problems", "samples", "epochs", "batch_size"):
        if getattr(options, name, 1) < 1:
            raise ValueError(f"{option(name)} must be at least 1, got {getattr(options, name)}")
    prepare_torch(options.device)
    saved = _saved(options.run)
    before = _measure(options.run, options.episodes, options.device)
    settings = dataclasses.replace(
        saved,
        init=options.run,
        seed=options.seed,
        device=options.device,
        warmup=dataclasses.replace(saved.warmup, episodes=0),
        total_timesteps=max(1, getattr(options, "problems", 0) * getattr(options, "samples", 0)),
    )
    learner = ours.new_learner(settings)
    try:
        metrics = change(learner)
        run = create_run(options.out, settings.algo, settings.env_id, settings.seed)
        save_config(run, settings, [*PROG.split(), method, *argv])
        _label(run, method, metrics)
        learner.save(run.checkpoints / "latest", False)
        logger, text = make_logger(run, quiet=True), TextLog(run)
        learner.model.set_logger(logger)
        evaluation = Evaluation(
            run,
            learner.evaluate,
            lambda: learner.save(run.checkpoints / "best", False),
            every=1,
            total=0,
            say=lambda line: None,
            also=text.evaluated,
        )
        for callback in (text, evaluation):
            callback.init_callback(learner.model)
        evaluation.due()
        logger.close()
    finally:
        learner.close()
    close_run(settings, run)
    _report(run, options.run, before, _measure(run.path, options.episodes, options.device))
    return 0


def _learn_from_samples(
    learner: Learner, options: SampleOptions, learn: Callable[..., dict[str, float]]
) -> dict[str, float]:
    """Sample groups of responses and `learn` from them; the metrics."""
    import torch

    from agents.long2short import SUCCESS, Config, sample_groups

    agent: agents.Agent = learner.model
    assert agent.env is not None
    config = Config(
        epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        **({"beta": options.beta, "nll_weight": options.nll_weight} if isinstance(options, DPOOptions) else {}),
    )
    episodes = sample_groups(agent, agent.env, options.problems, options.samples, seed=options.seed)
    agent.num_timesteps = len(episodes.segment)
    right = float((episodes.ret >= SUCCESS).float().mean())
    metrics = learn(agent, episodes, config, torch.Generator().manual_seed(options.seed))
    found = {"sampled_accuracy": right, **metrics}
    print("  ".join(f"{name} {value:.4g}" for name, value in found.items()))
    return found


def _saved(path: Path) -> RunOptions:
    """The settings of the run that `path` names or lies in. Raises ValueError where its answers are no text."""
    from gymnasium import spaces

    from experiments.environments import env_options, make_envs
    from experiments.evaluate import Options as Evaluated
    from experiments.evaluate import locate

    run, _ = locate(Evaluated(run=path))
    if run is None:
        raise ValueError(f"{path} lies in no run directory, whose settings are needed")
    config = run.read_config()
    algo, env_id = str(config["algo"]), str(config["env"])
    if algo.startswith("sb3/"):
        raise ValueError(f"{path} is a run of {algo}; long2short is for this project's agents")
    options = from_config(config, config_type(algo), env_options(env_id))
    env = make_envs(env_id, 1, options.env_kwargs)
    text = isinstance(env.single_action_space, spaces.Text)
    env.close()
    if not text:
        raise ValueError(f"long2short shortens answers in text; {env_id} takes none")
    return options


def _measure(path: Path, episodes: int, device: str) -> TextStats:
    """Answers to held-out problems, by which no checkpoint was chosen."""
    from experiments.completions import TextStats
    from experiments.evaluate import Options as Evaluated
    from experiments.evaluate import load, measure

    stats = measure(load(Evaluated(run=path, device=device)), episodes, seed=1, deterministic=True)
    assert isinstance(stats, TextStats)
    return stats


def _label(run: RunDir, method: str, metrics: dict[str, float]) -> None:
    """Note in config.yaml which way a run came about, for compare's --by method, and what it was made of."""
    run.write_config({**run.read_config(), "long2short": {"method": method, **metrics}})


def _report(run: RunDir, source: Path, before: TextStats, after: TextStats) -> None:
    """Print accuracy and mean length before and after, and keep them in long2short.json."""
    table: dict[str, dict[str, Any]] = {
        when: {"run": str(path), "accuracy": stats.accuracy, "mean_length": float(stats.tokens.mean()),
               "truncated": stats.truncated, "problems": len(stats.returns)}
        for when, path, stats in (("before", source, before), ("after", run.path, after))
    }  # fmt: skip
    write_aside(run.path / "long2short.json", json.dumps(table, indent=2) + "\n")
    print(f"\n{len(after.returns)} held-out problems    accuracy    mean length    cut short")
    for when, row in table.items():
        print(f"  {when:<22}{row['accuracy']:>10.3f}{row['mean_length']:>15.1f}{row['truncated']:>13.1%}")


if __name__ == "__main__":
    cli.main(command)
