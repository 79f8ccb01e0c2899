"""A2C against Stable-Baselines3's: whole `learn`, stepping included, the same batch on both sides.

Stable-Baselines3's default settings with the observations and rewards normalised, as RL-Zoo does for MuJoCo;
4 environments x 5 steps, and 16 x 5.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from experiments.benchmarks import Benchmark, Measurement, Options, Ratio, Side
from experiments.benchmarks.learning import our_settings, sb3_env, sb3_settings, timed_learn

N_STEPS = 5
STEPS = 40_000


def ours(env: str, num_envs: int, steps: int) -> Measurement:
    import agents
    import envs

    agent = agents.ActorCritic(
        envs.make_vec(env, num_envs),
        seed=0,
        device="cpu",
        variant="a2c",
        n_steps=N_STEPS,
        gamma=0.99,
        advantage="gae",
        lam=1.0,
        learning_rate=7e-4,
        optimizer="rmsprop",
        entropy_coef=0.0,
        value_coef=0.5,
        max_grad_norm=0.5,
        normalize_advantage=False,
        normalize_observations=True,
        normalize_rewards=True,
        hidden=(64, 64),
        activation="tanh",
    )
    return timed_learn(agent, 100 * N_STEPS * num_envs, steps, our_settings(agent))


def peer_sb3(env: str, num_envs: int, steps: int) -> Measurement:
    from stable_baselines3 import A2C
    from torch import nn

    settings: dict[str, Any] = {
        "n_steps": N_STEPS,
        "gamma": 0.99,
        "gae_lambda": 1.0,
        "learning_rate": 7e-4,
        "use_rms_prop": True,
        "rms_prop_eps": 1e-5,
        "ent_coef": 0.0,
        "vf_coef": 0.5,
        "max_grad_norm": 0.5,
        "normalize_advantage": False,
        "policy_kwargs": {"net_arch": [64, 64], "activation_fn": nn.Tanh},
    }
    model = A2C("MlpPolicy", sb3_env(env, num_envs, normalize=True), seed=0, device="cpu", **settings)
    return timed_learn(model, 100 * N_STEPS * num_envs, steps, sb3_settings(model))


def benchmark(options: Options) -> Benchmark:
    gymnasium.spec(options.env)  # an unknown id is refused here, in one sentence
    steps, threads = options.steps or STEPS, options.threads or 1
    sides, ratios = [], []
    for num_envs in (4, 16):
        arguments = {"env": options.env, "num_envs": num_envs, "steps": steps}
        shape = f"{num_envs} envs x {N_STEPS} steps"
        mine, theirs = f"ours, {shape}", f"Stable-Baselines3, {shape}"
        sides += [Side(mine, ours, arguments, threads), Side(theirs, peer_sb3, arguments, threads)]
        ratios.append(Ratio(mine, theirs, target=4.0))
    return Benchmark(
        title=f"A2C on {options.env}, Stable-Baselines3's settings",
        unit="env steps/s",
        sides=sides,
        ratios=ratios,
    )
