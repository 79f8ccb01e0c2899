"""TRPO against sb3-contrib's with RL-Zoo's settings for HalfCheetah-v4: whole `learn`, stepping included.

Same batch, networks, conjugate-gradient iterations and critic work on both sides. RL-Zoo collects its batch
of 2048 steps from 2 environments; since their number is itself a matter of speed, both sides are measured
with 2 and with 16. Ours fits the critic in a second Python thread while it improves the policy.
"""

from __future__ import annotations

from typing import Any

import gymnasium

from experiments.benchmarks import Benchmark, Measurement, Options, Ratio, Side
from experiments.benchmarks.learning import our_settings, sb3_env, sb3_settings, timed_learn

BATCH = 2048  # environment steps an iteration
ITERATIONS = 10


def ours(env: str, num_envs: int, steps: int) -> Measurement:
    import agents
    import envs

    agent = agents.TRPO(
        envs.make_vec(env, num_envs),
        seed=0,
        device="cpu",
        n_steps=BATCH // num_envs,
        critic_batch_size=128,
        gamma=0.99,
        lam=0.95,
        cg_iterations=25,
        damping=0.6,  # sb3-contrib's 0.1 and 0.04, which it counts per action dimension, times six
        critic_epochs=20,
        critic_lr=1e-3,
        delta=0.24,
        normalize_observations=True,
        normalize_rewards=True,
        hidden=(64, 64),
        activation="tanh",
    )
    return timed_learn(agent, BATCH, steps, our_settings(agent))


def peer_sb3(env: str, num_envs: int, steps: int) -> Measurement:
    from sb3_contrib import TRPO
    from torch import nn

    settings: dict[str, Any] = {
        "n_steps": BATCH // num_envs,
        "batch_size": 128,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "cg_max_steps": 25,
        "cg_damping": 0.1,
        "n_critic_updates": 20,
        "learning_rate": 1e-3,
        "target_kl": 0.04,
        "sub_sampling_factor": 1,
        "policy_kwargs": {"net_arch": [64, 64], "activation_fn": nn.Tanh},
    }
    model = TRPO("MlpPolicy", sb3_env(env, num_envs, normalize=True), seed=0, device="cpu", **settings)
    return timed_learn(model, BATCH, steps, sb3_settings(model))


def benchmark(options: Options) -> Benchmark:
    gymnasium.spec(options.env)  # an unknown id is refused here, in one sentence
    steps, threads = options.steps or ITERATIONS * BATCH, options.threads or 1
    sides, names = [], {}
    for num_envs in (2, 16):
        shape = f"{num_envs} envs x {BATCH // num_envs} steps"
        names[num_envs] = f"ours, {shape}", f"sb3-contrib, {shape}"
        arguments = {"env": options.env, "num_envs": num_envs, "steps": steps}
        for name, function in zip(names[num_envs], (ours, peer_sb3), strict=True):
            sides.append(Side(name, function, arguments, threads))
    (our_2, peer_2), (our_16, peer_16) = names[2], names[16]
    return Benchmark(
        title=f"TRPO on {options.env}, RL-Zoo's settings, batches of {BATCH} steps",
        unit="env steps/s",
        sides=sides,
        ratios=[
            Ratio(our_2, peer_2, target=6.0),
            Ratio(our_16, peer_2, target=6.0),
            Ratio(our_16, peer_16, target=6.0),
        ],
        requires={"sb3_contrib": "pip install sb3-contrib"},
    )
