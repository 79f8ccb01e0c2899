"""This project's agents as `Learner`s: made new, or loaded from the last checkpoint of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from gymnasium import spaces
from gymnasium.vector import VectorEnv

import agents
from agents.core.evaluation import EpisodeStats, evaluate
from experiments.callbacks import Interrupted
from experiments.environments import make_envs, make_eval_env, sees_screens
from experiments.settings import RunOptions, plain
from experiments.training import Learner
from experiments.warmup import WarmUp

SUFFIX = ".safetensors"


def new_learner(options: RunOptions) -> Learner:
    """An untrained agent; raises ValueError for settings or spaces that it refuses."""
    env = make_envs(options.env_id, options.num_envs, options.env_kwargs)
    agent = agents.make(options.algo, env, seed=options.seed, device=options.device, config=options.agent)
    learner = _learner(options, agent, env)
    agent.prepare()  # now, so that a buffer larger than memory leaves nothing on disk
    if options.init is not None:
        begin_with(agent, load_agent(options.init, options.device))
    if options.warmup.episodes:
        learner.warm_up = WarmUp(options, agent)
    return learner


def load_learner(options: RunOptions, path: Path) -> Learner:
    """The agent of a checkpoint, its environments in the state they had where they can give it."""
    env = make_envs(options.env_id, options.num_envs, options.env_kwargs)
    agent = agents.load(path, env, device=options.device)
    found = {"algo": agent.name, "seed": agent.seed, **plain(agent.config)}
    wanted = {"algo": options.algo, "seed": options.seed, **plain(options.agent)}
    for name in wanted:
        if name != "encoder" and found.get(name) != wanted[name]:  # which a checkpoint tells by what it is made of
            raise ValueError(
                f"{path} was written with {name} {found.get(name)}, but config.yaml says {wanted[name]}: a resumed run "
                "keeps its settings"
            )
    return _learner(options, agent, env)


def load_agent(path: Path, device: str = "auto") -> agents.Agent:
    """The agent of a run directory (its best checkpoint) or of one file. Raises ValueError for one that is not ours."""
    from experiments.evaluate import Options as Evaluated
    from experiments.evaluate import load

    found: Any = load(Evaluated(run=path, device=device)).predictor
    if not isinstance(found, agents.Agent):
        raise ValueError(f"{path} holds an agent of Stable-Baselines3's; one of this project's is needed")
    return found


def begin_with(agent: agents.Agent, source: agents.Agent) -> None:
    """Give `agent` the policy and the observation statistics of `source`; raises ValueError where they do not fit."""
    mine = agent.policy.state_dict()
    # What the source had not finished (parked responses) is not the policy's.
    state = {name: mine[name] if name.endswith("_extra_state") else v for name, v in source.policy.state_dict().items()}
    try:
        agent.policy.load_state_dict(state)
        agent.normalizer.load_state_dict(source.normalizer.state_dict())
    except (KeyError, RuntimeError) as problem:
        raise ValueError(f"that policy does not fit this run: {problem}") from None
    agent.imitated()


def _learner(options: RunOptions, agent: agents.Agent, env: VectorEnv) -> Learner:
    model: Any = agent
    eval_env = make_eval_env(options.env_id, options.eval_episodes, options.env_kwargs)

    watcher = None
    if sees_screens(eval_env):
        from experiments.screens import Watcher

        watcher = Watcher(options.env_id, agent=agent)

    def evaluate_agent(step_made: Callable[[], None]) -> EpisodeStats:
        if watcher is not None:
            watcher.begin()
        watch = None if watcher is None else watcher.watch
        drawn = agent.predict_generator.get_state()
        try:
            if not isinstance(agent.action_space, spaces.Text):
                return evaluate(model, eval_env, options.eval_episodes, watch=watch, step_made=step_made)
            from experiments.completions import evaluate_text

            return evaluate_text(
                agent,
                eval_env,
                options.eval_episodes,
                samples=options.eval_samples,
                problems=max(1, options.eval_episodes // options.eval_samples),
                watch=watch,
                step_made=step_made,
            )
        except Interrupted:
            agent.predict_generator.set_state(drawn)
            raise

    def save(path: Path, exact: bool) -> None:
        agent.save(path.with_name(path.name + SUFFIX), exact=exact)

    def close() -> None:
        env.close()
        eval_env.close()

    return Learner(agent, evaluate_agent, save, close, watcher=watcher)
