"""What the benchmarks of learning share: one clock around `learn`, and every setting as the agent has it.

Both sides are measured by the same `timed_learn`, because our agents have Stable-Baselines3's `learn`.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
import warnings
from typing import TYPE_CHECKING, Any

from experiments.benchmarks import Measurement

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv
    from torch import nn


def timed_learn(agent: Any, warm_up: int, steps: int, settings: dict[str, Any]) -> Measurement:
    """Environment steps per second of `agent.learn`: `warm_up` steps off the clock, then `steps` on it.

    Both numbers are rounded up to whole iterations by `learn` itself; the steps really taken are counted.
    """
    agent.learn(warm_up)
    before = agent.num_timesteps
    started = time.perf_counter()
    agent.learn(steps, reset_num_timesteps=False)
    seconds = time.perf_counter() - started
    measured = agent.num_timesteps - before
    return Measurement(measured / seconds, {**settings, "warm-up steps": before, "measured steps": measured})


def sb3_env(env: str, num_envs: int, normalize: bool) -> VecEnv:
    """What RL-Zoo gives an agent: monitored environments in DummyVecEnv, in VecNormalize if `normalize`."""
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    warnings.filterwarnings("ignore", category=DeprecationWarning)
    vector = make_vec_env(env, num_envs, seed=0)
    return VecNormalize(vector) if normalize else vector


def sb3_settings(model: BaseAlgorithm) -> dict[str, Any]:
    """Every constructor argument that `model` keeps as an attribute, and its environments and networks."""
    import torch

    layers = []
    vector: Any = model.get_env()
    while vector is not None:
        layers.append(type(vector).__name__)
        vector = getattr(vector, "venv", None)
    names = set(inspect.signature(type(model).__init__).parameters) - {"self", "env", "policy"}
    policy: Any = model.policy
    optimizer = getattr(policy, "actor", policy).optimizer
    return {
        "algorithm": f"{type(model).__module__}.{type(model).__name__}",
        "environments": f"{model.n_envs}, {' of '.join(layers)}",
        **{name: str(getattr(model, name)) for name in sorted(names) if hasattr(model, name)},
        "policy": f"{type(policy).__name__}, activation {policy.activation_fn.__name__}",
        "weights": weights(policy),
        "optimiser": f"{type(optimizer).__name__} {optimizer.defaults}",
        "torch threads": torch.get_num_threads(),
    }


def our_settings(agent: Any) -> dict[str, Any]:
    """Every field of the agent's config, its environments and networks."""
    import torch

    def parts(kind: type) -> dict[str, Any]:
        return {key: value for key, value in vars(agent).items() if isinstance(value, kind)}

    networks = {key: weights(module) for key, module in parts(torch.nn.Module).items()}
    optimizers = parts(torch.optim.Optimizer)
    return {
        "algorithm": f"{type(agent).__module__}.{type(agent).__name__}",
        "environments": f"{agent.num_envs}, {type(agent.env).__name__}",
        **{name: str(value) for name, value in dataclasses.asdict(agent.config).items()},
        "device": str(agent.device),
        "weights": "; ".join(f"{key}: {described}" for key, described in networks.items() if described),
        **{key: f"{type(value).__name__} {value.defaults}" for key, value in optimizers.items()},
        "torch threads": torch.get_num_threads(),
    }


def weights(module: nn.Module) -> str:
    """The matrices of `module` by name, outputs x inputs: two sides are seen to have the same networks."""
    return ", ".join(
        f"{name.removesuffix('.weight')} {'x'.join(map(str, parameter.shape))}"
        for name, parameter in module.named_parameters()
        if parameter.ndim > 1
    )
