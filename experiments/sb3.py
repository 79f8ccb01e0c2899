"""Stable-Baselines3's own algorithms as baselines, `sb3/<name>`, with its own environments and savings.

Not resumable: its zip files hold neither the environments nor the running statistics. The statistics of
`normalize` are written beside each zip as .npz.
"""

from __future__ import annotations

import dataclasses
import functools
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import gymnasium
import numpy as np
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from agents.core.errors import guarded
from agents.core.evaluation import EpisodeStats, evaluate
from experiments.environments import make_envs, make_eval_env, make_single
from experiments.settings import RunOptions
from experiments.signature import options_of
from experiments.training import Learner

ACTIVATIONS = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh, "elu": torch.nn.ELU, "gelu": torch.nn.GELU}

_FROM_RUN = (
    "policy",
    "env",
    "seed",
    "device",
    "verbose",
    "tensorboard_log",
    "_init_setup_model",
    "action_noise",
)


@dataclasses.dataclass(kw_only=True)
class Extras:
    """Settings that Stable-Baselines3 keeps outside its constructors."""

    policy: str = "auto"
    """MlpPolicy, CnnPolicy or MultiInputPolicy; auto goes by the observations."""
    normalize: bool = False
    """Normalise observations and rewards (VecNormalize)."""
    action_noise: Literal["none", "normal", "ornstein-uhlenbeck"] = "none"
    """Exploration noise of ddpg, td3 and sac."""
    noise_std: float = 0.1
    """Standard deviation of the exploration noise."""
    net_arch: tuple[int, ...] = ()
    """Hidden layers of every network. Empty: those of policy_kwargs, or the policy's own."""
    activation_fn: Literal["default", "relu", "tanh", "elu", "gelu"] = "default"
    """Activation between hidden layers."""


def model_class(algo: str) -> Any:
    """Stable-Baselines3's class for `sb3/<name>`; raises ValueError where sb3-contrib is missing."""
    name = algo.removeprefix("sb3/").upper()
    if name == "TRPO":
        try:
            import sb3_contrib
        except ImportError:
            raise ValueError("sb3/trpo needs sb3-contrib: pip install 'rl-suite[peers]'") from None
        return sb3_contrib.TRPO
    return getattr(stable_baselines3, name)


@functools.cache
def config_type(algo: str) -> type:
    """A dataclass of the algorithm's constructor arguments and `Extras`."""
    arguments = options_of("Config", model_class(algo), skip=_FROM_RUN)
    return dataclasses.make_dataclass("Config", [], bases=(arguments, Extras), kw_only=True)


def new_learner(options: RunOptions) -> Learner:
    """The algorithm on `options.num_envs` environments, evaluated as this project's agents are."""
    env = make_env(options)
    model = make_model(options, env)
    predictor = Predictor(model, env)
    eval_env = make_eval_env(options.env_id, options.eval_episodes, options.env_kwargs)

    def save(path: Path, exact: bool) -> None:
        if isinstance(env, VecNormalize):
            save_statistics(env, path.with_name(path.name + ".npz"))
        aside = path.with_name(path.name + ".tmp.zip")
        model.save(aside)
        aside.replace(path.with_name(path.name + ".zip"))

    def close() -> None:
        env.close()
        eval_env.close()

    def evaluate_model(step_made: Callable[[], None]) -> EpisodeStats:
        return evaluate(predictor, eval_env, options.eval_episodes, step_made=step_made)

    return Learner(model, evaluate_model, save, close, resumable=False)


@dataclasses.dataclass(frozen=True)
class Predictor:
    """`predict` on raw observations, normalised by the statistics of training where it normalised."""

    model: Any
    env: VecEnv

    def predict(self, observation: Any, deterministic: bool = False) -> tuple[Any, Any]:
        if isinstance(self.env, VecNormalize):
            observation = self.env.normalize_obs(observation)
        return self.model.predict(observation, deterministic=deterministic)


def load_predictor(options: RunOptions, path: Path) -> Predictor:
    """The policy of a zip that a run has written; no code in the file is run."""
    env = make_env(options)
    # Only the policy is needed; the replay buffer would be allocated with the rest.
    if hasattr(options.agent, "buffer_size"):
        agent = dataclasses.replace(options.agent, buffer_size=1)
        options = dataclasses.replace(options, agent=agent)
    model = make_model(options, env)
    try:
        model.set_parameters(path, device=model.device)
    except (RuntimeError, KeyError, zipfile.BadZipFile) as refusal:
        raise ValueError(f"{path} holds no {options.algo} for {options.env_id}: {refusal}") from refusal
    if isinstance(env, VecNormalize):
        load_statistics(env, path.with_suffix(".npz"))
    return Predictor(model, env)


class Guarded(gymnasium.Wrapper):
    """What the environment raises is an EnvironmentFailure, as under this project's agents."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return guarded("in reset", self.env.reset, **kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return guarded("in step", self.env.step, action)


def make_env(options: RunOptions) -> VecEnv:
    """Stable-Baselines3's own vector environment, normalised where the settings ask for it.

    Raises ValueError for spaces that it does not take, and EnvironmentFailure where the environment cannot be made.
    """
    plain = make_envs(options.env_id, 1, options.env_kwargs)  # which says why where it cannot
    plain.close()
    try:
        env: VecEnv = make_vec_env(
            lambda: Guarded(make_single(options.env_id, **options.env_kwargs)),
            options.num_envs,
            seed=options.seed,
            vec_env_cls=DummyVecEnv,
        )
        return VecNormalize(env, gamma=options.agent.gamma) if options.agent.normalize else env
    except (AssertionError, NotImplementedError, TypeError) as refusal:
        raise ValueError(
            f"{options.algo} takes no such environment as {options.env_id}: its observations are "
            f"{plain.single_observation_space}, its actions {plain.single_action_space}"
        ) from refusal


def make_model(options: RunOptions, env: VecEnv) -> Any:
    """The algorithm with the settings of `options`; raises ValueError for what it refuses."""
    agent = options.agent
    arguments = {field.name: getattr(agent, field.name) for field in dataclasses.fields(agent)}
    for field in dataclasses.fields(Extras):
        del arguments[field.name]
    if isinstance(arguments.get("train_freq"), list):
        arguments["train_freq"] = tuple(arguments["train_freq"])
    arguments["policy_kwargs"] = _policy_kwargs(agent)
    if agent.action_noise != "none":
        kinds = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}
        size = np.zeros(env.action_space.shape or (1,))
        arguments["action_noise"] = kinds[agent.action_noise](size, size + agent.noise_std)
    policy = agent.policy if agent.policy != "auto" else _policy(env.observation_space)
    try:
        return model_class(options.algo)(policy, env, seed=options.seed, device=options.device, **arguments)
    except (AssertionError, NotImplementedError, TypeError) as refusal:
        raise ValueError(f"{options.algo} refuses these settings: {refusal or type(refusal).__name__}") from refusal


def save_statistics(env: VecNormalize, path: Path) -> None:
    """Write the running statistics of observations and rewards as .npz."""
    arrays = {
        f"{name}/{part}": getattr(rms, part)
        for name, rms in _statistics(env).items()
        for part in ("mean", "var", "count")
    }
    aside = path.with_name(path.stem + ".tmp.npz")
    np.savez(aside, **arrays)
    aside.replace(path)


def load_statistics(env: VecNormalize, path: Path) -> None:
    """Put the statistics written by `save_statistics` into `env`."""
    with np.load(path) as arrays:
        for name, rms in _statistics(env).items():
            for part in ("mean", "var", "count"):
                setattr(rms, part, arrays[f"{name}/{part}"])


def _statistics(env: VecNormalize) -> dict[str, RunningMeanStd]:
    """The running statistics by name; those of Dict observations by key."""
    observations = env.obs_rms if isinstance(env.obs_rms, dict) else {"": env.obs_rms}
    return {"reward": env.ret_rms, **{f"obs/{key}": rms for key, rms in observations.items()}}


def _policy_kwargs(agent: Any) -> dict[str, Any] | None:
    """`policy_kwargs` with the settings that have options of their own laid over it."""
    kwargs = dict(agent.policy_kwargs or {})
    if agent.net_arch:
        kwargs["net_arch"] = list(agent.net_arch)
    if agent.activation_fn != "default":
        kwargs["activation_fn"] = agent.activation_fn
    if "activation_fn" in kwargs:
        name = kwargs["activation_fn"]
        if name not in ACTIVATIONS:
            raise ValueError(f"activation_fn must be one of {', '.join(ACTIVATIONS)}, got {name}")
        kwargs["activation_fn"] = ACTIVATIONS[name]
    return kwargs or None


def _policy(space: spaces.Space) -> str:
    """Stable-Baselines3's policy for a kind of observation."""
    if isinstance(space, spaces.Dict):
        return "MultiInputPolicy"
    image = isinstance(space, spaces.Box) and len(space.shape) == 3
    return "CnnPolicy" if image else "MlpPolicy"
