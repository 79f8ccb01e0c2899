"""This project's agents as `Learner`s: made new, or loaded from the last checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gymnasium import spaces
from gymnasium.vector import VectorEnv

import agents
import envs
from agents.core.evaluation import EpisodeStats, evaluate
from experiments.environments import make_eval_env
from experiments.settings import RunOptions
from experiments.training import Learner
from experiments.warmup import WarmUp

SUFFIX = ".safetensors"


def new_learner(options: RunOptions) -> Learner:
    """An untrained agent; raises ValueError for settings or spaces that it refuses."""
    env = envs.make_vec(options.env_id, num_envs=options.num_envs, **options.env_kwargs)
    agent = agents.make(options.algo, env, seed=options.seed, device=options.device, config=options.agent)
    learner = _learner(options, agent, env)
    if options.warmup.episodes:
        learner.warm_up = WarmUp(options, agent)
    return learner


def load_learner(options: RunOptions, path: Path) -> Learner:
    """The agent of a checkpoint, its environments in the state they had where they can give it."""
    env = envs.make_vec(options.env_id, num_envs=options.num_envs, **options.env_kwargs)
    return _learner(options, agents.load(path, env, device=options.device), env)


def _learner(options: RunOptions, agent: agents.Agent, env: VectorEnv) -> Learner:
    model: Any = agent
    eval_env = make_eval_env(options.env_id, options.eval_episodes, options.env_kwargs)

    def evaluate_agent() -> EpisodeStats:
        if isinstance(agent.action_space, spaces.Text):
            from experiments.completions import evaluate_text

            samples, problems = options.eval_samples, max(1, options.eval_episodes // options.eval_samples)
            return evaluate_text(agent, eval_env, options.eval_episodes, samples=samples, problems=problems)
        return evaluate(model, eval_env, options.eval_episodes)

    def save(path: Path, exact: bool) -> None:
        agent.save(path.with_name(path.name + SUFFIX), exact=exact)

    def close() -> None:
        env.close()
        eval_env.close()

    return Learner(agent, evaluate_agent, save, close)
