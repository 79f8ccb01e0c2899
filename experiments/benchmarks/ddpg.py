"""DDPG against Stable-Baselines3's, and one update against nothing but its matrix products.

RL-Zoo's settings for MuJoCo: networks [400, 300], batches of 256, one environment, one update a step. Both
sides are past their random warm-up when the clock starts. Both are measured with one and with two torch threads, and
ours on two is held against the peer on either, ours on one against the peer on one. Last, both with products in
bfloat16 (torch's matmul precision "medium", `--matmul-precision` of a run), which processors with AMX do faster.

`bare_products` bounds the update from below: it multiplies the matrices that an update cannot avoid, of these
shapes, into preallocated outputs, and does nothing else: no activation, loss, optimiser, target averaging,
sampling or autograd. The update is held against it thread for thread.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import gymnasium

from experiments.benchmarks import Benchmark, Measurement, Options, Ratio, Side
from experiments.benchmarks.learning import our_settings, sb3_env, sb3_settings, timed_learn

if TYPE_CHECKING:
    from agents import DDPG

HIDDEN = (400, 300)
BATCH = 256
BUFFER = 1_000_000
RANDOM_STEPS = 1000
WARM_UP = 100  # steps with updates, off the clock
STEPS = 1500
UPDATES = 500


@dataclass(frozen=True)
class Product:
    """A [rows, inner] @ [inner, columns] product; the operands that are transposed in memory say so."""

    rows: int
    inner: int
    columns: int
    transposed_left: bool = False
    transposed_right: bool = False
    bias: bool = False

    @property
    def flops(self) -> int:
        return 2 * self.rows * self.inner * self.columns


def forward(sizes: list[int]) -> Iterator[Product]:
    """y = x W^T + b for every layer; W is stored [outputs, inputs], as in torch.nn.Linear."""
    for inputs, outputs in pairwise(sizes):
        yield Product(BATCH, inputs, outputs, transposed_right=True, bias=True)


def weight_gradients(sizes: list[int]) -> Iterator[Product]:
    """dW = dy^T x for every layer. The biases' gradients are sums, not products."""
    for inputs, outputs in pairwise(sizes):
        yield Product(outputs, BATCH, inputs, transposed_left=True)


def input_gradients(sizes: list[int]) -> Iterator[Product]:
    """dx = dy W for every layer but the first: nothing asks for the gradient of the network's input."""
    for inputs, outputs in pairwise(sizes[1:]):
        yield Product(BATCH, outputs, inputs)


def update_products(observation: int, action: int) -> list[Product]:
    """The products of one DDPG update, in order, for flat observations and actions of these sizes."""
    actor = [observation, *HIDDEN, action]
    critic = [observation + action, *HIDDEN, 1]
    return [
        # The target r + gamma Q'(s', mu'(s')).
        *forward(actor),
        *forward(critic),
        # The critic's regression: Q(s, a), and the gradient of its weights.
        *forward(critic),
        *weight_gradients(critic),
        *input_gradients(critic),
        # The actor's objective Q(s, mu(s)).
        *forward(actor),
        *forward(critic),
        # dQ/da: back through the critic without its weights' gradients, and for the action's inputs alone.
        *input_gradients(critic),
        Product(BATCH, HIDDEN[0], action),
        # From dQ/da to the gradient of the actor's weights.
        *weight_gradients(actor),
        *input_gradients(actor),
    ]


def bare_products(env: str, updates: int) -> Measurement:
    import torch

    single = gymnasium.make(env)
    observation, action = (gymnasium.spaces.flatdim(s) for s in (single.observation_space, single.action_space))
    products = update_products(observation, action)
    generator = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int, transposed: bool) -> torch.Tensor:
        shape = (columns, rows) if transposed else (rows, columns)
        values = torch.randn(shape, generator=generator)
        return values.t() if transposed else values

    with torch.no_grad():
        operands = [
            (
                torch.randn(product.columns, generator=generator) if product.bias else None,
                matrix(product.rows, product.inner, product.transposed_left),
                matrix(product.inner, product.columns, product.transposed_right),
                torch.empty(product.rows, product.columns),
            )
            for product in products
        ]

        def run(times: int) -> None:
            for _ in range(times):
                for bias, left, right, out in operands:
                    if bias is None:
                        torch.mm(left, right, out=out)
                    else:
                        torch.addmm(bias, left, right, out=out)

        run(WARM_UP)
        started = time.perf_counter()
        run(updates)
        seconds = time.perf_counter() - started
    flops = sum(product.flops for product in products)
    settings = {
        "networks": f"actor {[observation, *HIDDEN, action]}, critic {[observation + action, *HIDDEN, 1]}",
        "batch": BATCH,
        "products an update": " ".join(f"{p.rows}x{p.inner}x{p.columns}" for p in products),
        "Mflop an update": round(flops / 1e6, 1),
        "updates measured": updates,
        "torch threads": torch.get_num_threads(),
    }
    return Measurement(updates / seconds, settings, {"Gflop/s": round(flops * updates / seconds / 1e9, 1)})


def our_agent(env: str) -> DDPG:
    import agents
    import envs

    return agents.DDPG(
        envs.make_vec(env, 1),
        seed=0,
        device="cpu",
        actor_lr=1e-3,
        critic_lr=1e-3,
        buffer_size=BUFFER,
        learning_starts=RANDOM_STEPS,
        batch_size=BATCH,
        tau=0.005,
        gamma=0.99,
        train_freq=1,
        gradient_steps=1,
        noise="gaussian",
        noise_std=0.1,
        normalize_observations=False,
        hidden=HIDDEN,
        activation="relu",
    )


def ours(env: str, steps: int, precision: str = "highest") -> Measurement:
    with_precision = matmul_precision(precision)
    agent = our_agent(env)
    return timed_learn(agent, RANDOM_STEPS + WARM_UP, steps, {**our_settings(agent), **with_precision})


def matmul_precision(precision: str) -> dict[str, str]:
    """Set it in this process; the setting as torch has it."""
    import torch

    torch.set_float32_matmul_precision(precision)
    return {"matmul precision": torch.get_float32_matmul_precision()}


def ours_update(env: str, updates: int) -> Measurement:
    """Updates alone: the batch drawn from the replay, critic, actor, optimisers and target networks."""
    agent = our_agent(env)
    agent.learn(RANDOM_STEPS + WARM_UP)
    started = time.perf_counter()
    for _ in range(updates):
        agent.update()
    seconds = time.perf_counter() - started
    settings = {**our_settings(agent), "warm-up steps": agent.num_timesteps, "updates measured": updates}
    return Measurement(updates / seconds, settings)


def peer_sb3(env: str, steps: int, precision: str = "highest") -> Measurement:
    import numpy as np
    from stable_baselines3 import DDPG
    from stable_baselines3.common.noise import NormalActionNoise
    from torch import nn

    with_precision = matmul_precision(precision)
    vector = sb3_env(env, 1, normalize=False)
    size = gymnasium.spaces.flatdim(vector.action_space)
    settings: dict[str, Any] = {
        "learning_rate": 1e-3,
        "buffer_size": BUFFER,
        "learning_starts": RANDOM_STEPS,
        "batch_size": BATCH,
        "tau": 0.005,
        "gamma": 0.99,
        "train_freq": 1,
        "gradient_steps": 1,
        "action_noise": NormalActionNoise(np.zeros(size), np.full(size, 0.1)),
        "policy_kwargs": {"net_arch": list(HIDDEN), "activation_fn": nn.ReLU},
    }
    model = DDPG("MlpPolicy", vector, seed=0, device="cpu", **settings)
    return timed_learn(model, RANDOM_STEPS + WARM_UP, steps, {**sb3_settings(model), **with_precision})


def benchmark(options: Options) -> Benchmark:
    gymnasium.spec(options.env)  # an unknown id is refused here, in one sentence
    learning = {"env": options.env, "steps": options.steps or STEPS}
    updating = {"env": options.env, "updates": options.steps or UPDATES}
    counts = [options.threads] if options.threads else [1, 2]

    def named(what: str) -> dict[int, str]:
        return {n: f"{what}, torch threads {n}" for n in counts}

    mine, peers = named("ours"), named("Stable-Baselines3")
    updates, products = named("ours, update alone"), named("bare matrix products of an update")
    most = max(counts)
    best, fast, fast_peer = mine[most], f"{mine[most]}, bfloat16 products", f"{peers[most]}, bfloat16 products"
    in_bfloat16 = {**learning, "precision": "medium"}
    return Benchmark(
        title=f"DDPG on {options.env}, RL-Zoo's settings: [400, 300], batch 256, one update a step",
        unit="steps or updates/s",
        sides=[
            *(Side(name, ours, learning, n) for n, name in mine.items()),
            *(Side(name, peer_sb3, learning, n) for n, name in peers.items()),
            *(Side(name, ours_update, updating, n) for n, name in updates.items()),
            *(Side(name, bare_products, updating, n) for n, name in products.items()),
            Side(fast, ours, in_bfloat16, most),
            Side(fast_peer, peer_sb3, in_bfloat16, most),
        ],
        ratios=[
            *(Ratio(best, name, target=2.0) for name in peers.values()),
            *(Ratio(mine[n], peers[n], target=2.0) for n in counts[:-1]),
            *(Ratio(products[n], updates[n], target=1.3, at_most=True, memory=False) for n in reversed(counts)),
            *(Ratio(fast, name) for name in (peers[most], fast_peer)),
        ],
    )
