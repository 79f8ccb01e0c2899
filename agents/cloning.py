"""Behaviour cloning, the supervised warm-up before reinforcement learning (Kimi k1.5, section 2.2), for every policy.

    maximise  E[ log pi(a | o) ]   over the decisions (o, a) of an expert

A response's tokens, a click and a torque are decisions alike. DDPG's deterministic policy has no probabilities and
regresses instead (`DeterministicPolicy.imitation_loss`). The expert is the environment's own (`demonstrate()`) or
another agent (`predict`).

Demonstrations are a stream: each round draws fresh episodes under training seeds, passes over them a few times, and
lets them go. What a round does is a pure function of its number and of the weights it starts from, so that it can be
interrupted between any two rounds.

Left out: asking the expert about states that the pupil reaches (DAgger), and a held-out loss: evaluations tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor, nn

from agents.core.agent import Agent
from agents.core.buffer import Batch, Field, Ragged, tree
from agents.core.collector import autoreset_mode
from agents.core.errors import check_settings
from agents.core.spaces import encode_text, field_of, flatten, leaves
from agents.core.tasks import EVALUATION_SEEDS
from agents.policies.deterministic import DeterministicPolicy
from agents.policies.policy import Policy, decision_counts
from agents.policies.screen_actor import ScreenActor

Expert = Callable[[Any], Sequence[Any]]  # observations of N environments -> an action or None for each

RAMP = 50  # gradient steps over which the step size rises: Adam's first ones go by next to no statistics


@dataclass
class Config:
    """Settings of behaviour cloning."""

    episodes: int = 0
    """Demonstrated episodes to learn from before the first step of reinforcement learning; 0: no warm-up."""
    round_episodes: int = 512
    """Of these, how many are drawn at a time: the memory it takes, and what one row of the log is about."""
    epochs: int = 1
    """Passes over each round's demonstrations."""
    batch_size: int = 64
    """Demonstrated steps (responses, clicks, torques) per gradient step."""
    learning_rate: float = 1e-3
    """Step size (Adam), reached over the first 50 gradient steps; it falls from round to round, linearly towards 0."""
    target_loss: float = 0.0
    """Mean loss of a round (nats per decision) at which the warm-up ends before its time; 0: never."""
    max_grad_norm: float = 1.0
    """Longest gradient; longer ones are scaled down."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            "warmup",
            positive=("round_episodes", "epochs", "batch_size", "learning_rate", "max_grad_norm"),
            from_zero=("episodes", "target_loss"),
        )


def clone(agent: Agent, env: VectorEnv | None = None, *, expert: Any = None, **fields: Any) -> dict[str, float]:
    """Train the policy of `agent` on an expert's episodes; the metrics of the last round.

    env: where to demonstrate, by default the agent's own; expert: an agent (its `predict`), by default the
    environment's `demonstrate()`; fields: of `Config`.
    """
    where = agent.env if env is None else env
    if where is None:
        raise ValueError("cloning needs an environment: the agent has none")
    cloner, metrics = Cloner(agent, where, Config(**fields), expert), dict[str, float]()
    while cloner.left:
        metrics = cloner.round()
    return metrics


class Cloner:
    """Cloning in rounds, with a state between them.

    Raises ValueError where there is no expert, or where the environment resets itself.
    """

    def __init__(self, agent: Agent, env: VectorEnv, config: Config, expert: Any = None) -> None:
        self.agent, self.env, self.config = agent, env, config
        self.expert = find_expert(env, expert)
        self.imitator = Imitator(agent, config)
        self.done = 0  # episodes
        self.left = config.episodes  # episodes to come, at most

    def round(self) -> dict[str, float]:
        """Draw and learn from one round's episodes."""
        c, agent = self.config, self.agent
        count = min(c.round_episodes, self.left)
        stream = np.random.SeedSequence(agent.seed, spawn_key=(self.done,))
        seeds = stream.generate_state(count, np.uint64) % EVALUATION_SEEDS
        steps, returns = demonstrations(self.env, self.expert, seeds.tolist(), agent.policy)
        agent.normalizer.update(steps.obs)
        generator = torch.Generator().manual_seed(int(stream.spawn(1)[0].generate_state(1)[0]))
        metrics = self.imitator.fit(steps, generator, scale=self.left / c.episodes)
        self.done += count
        self.left = 0 if metrics["loss"] < c.target_loss else c.episodes - self.done
        if self.left == 0:
            agent.imitated()
        return {**metrics, "expert_reward": float(np.mean(returns)), "episodes": float(self.done)}

    def state_dict(self) -> dict[str, Any]:
        """All that the coming rounds depend on, the policy's weights included."""
        return {
            "done": self.done,
            "left": self.left,
            "imitator": self.imitator.state_dict(),
            "normalizer": self.agent.normalizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done, self.left = state["done"], state["left"]
        self.imitator.load_state_dict(state["imitator"])
        self.agent.normalizer.load_state_dict(state["normalizer"])


class Imitator:
    """Makes an agent's policy more likely to decide as demonstrated; `config` says how."""

    def __init__(self, agent: Agent, config: Config) -> None:
        self.agent, self.config = agent, config
        self.policy: Policy | DeterministicPolicy | ScreenActor = agent.policy
        self.params: list[nn.Parameter] = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.params, lr=config.learning_rate, fused=True)
        self.steps = 0  # gradient steps

    def fit(self, steps: Batch, generator: torch.Generator, scale: float = 1.0) -> dict[str, float]:
        """Go through demonstrated steps (`obs`, `action` as stored), in an order that `generator` draws.

        scale: factor on the step size.
        """
        c, device = self.config, self.agent.device
        batches = [
            index
            for _ in range(c.epochs)
            for index in torch.randperm(len(steps["action"]), generator=generator).split(c.batch_size)
        ]
        totals = torch.zeros(3, device=device)  # loss, decisions, gradient norm
        for index in batches:
            loss, decisions, norm = self._train_step(steps.take(index), scale)
            totals += torch.stack([loss * decisions, torch.tensor(float(decisions), device=device), norm])
        loss, decisions, norm = totals.tolist()
        return {"loss": loss / decisions, "grad_norm": norm / len(batches), "decisions": decisions / c.epochs}

    def _train_step(self, batch: Batch, scale: float = 1.0) -> tuple[Tensor, int, Tensor]:
        """One gradient step, `scale` times as large; the mean loss of a decision, their number, the gradient's norm."""
        decisions = int(decision_counts(batch["action"]).sum())
        total = torch.zeros((), device=self.agent.device)
        for p in self.params:  # kept, as an agent may have laid them into one vector
            if p.grad is not None:
                p.grad.zero_()
        for rows in self._micro_batches(batch):
            part = batch.take(rows).to(self.agent.device)
            loss = imitation_losses(self.policy, part.with_obs(self.agent.normalizer(part.obs))).sum() / decisions
            loss.backward()
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.params, self.config.max_grad_norm)
        self.steps += 1
        self.optimizer.param_groups[0]["lr"] = self.config.learning_rate * min(1.0, self.steps / RAMP) * scale
        self.optimizer.step()
        return total, decisions, norm

    def _micro_batches(self, batch: Batch) -> list[Tensor]:
        everything = torch.arange(len(batch["action"]))
        return self.policy.micro_batches(batch, everything) if isinstance(self.policy, Policy) else [everything]

    def state_dict(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "policy": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.policy.load_state_dict(state["policy"])
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, moments in self.optimizer.state.items():  # fused Adam reads memory: strides must be the same
            for name, value in moments.items():
                if value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(value)


def imitation_losses(policy: Policy | DeterministicPolicy | ScreenActor, steps: Batch) -> Tensor:
    """What each demonstrated decision costs, [D]; steps: `obs` (normalised) and `action`."""
    if isinstance(policy, Policy):
        return policy.imitation_losses(steps)
    return policy.imitation_loss(steps.obs, steps["action"])


def find_expert(env: VectorEnv, agent: Any = None) -> Expert:
    """The function from observations to an expert's actions: an agent's, or the environment's own."""
    if autoreset_mode(env) is not AutoresetMode.DISABLED:
        raise ValueError("cloning needs an environment without automatic resets; envs.make_vec makes one")
    if agent is not None:
        return lambda obs: agent.predict(obs, deterministic=True)[0]
    own = getattr(env, "demonstrate", None) or getattr(env.unwrapped, "demonstrate", None)
    if own is None:
        name = getattr(getattr(env, "spec", None), "id", "this environment")
        raise ValueError(f"{name} has no demonstrations of its own to warm up on; another agent must be the expert")
    return lambda obs: own()


def demonstrations(
    env: VectorEnv, expert: Expert, seeds: Sequence[int], policy: Policy | DeterministicPolicy | ScreenActor
) -> tuple[Batch, list[float]]:
    """The expert's episodes with these reset seeds: their steps (`obs`, `action` as `policy` stores it) and returns.

    An episode is over where the expert has no action (None). Raises ValueError where it never has one.
    """
    n, space = env.num_envs, env.single_observation_space
    rows: dict[str, list[np.ndarray]] = {name: [] for name in leaves(space, "obs")}
    actions: list[Any] = []
    returns: list[float] = []
    upcoming: Iterator[int] = iter(seeds[n:])
    running, so_far = np.arange(n) < len(seeds), np.zeros(n)
    reset: Any = env.reset  # Gymnasium annotates one seed where a list is accepted
    obs, _ = reset(seed=[int(seeds[i % len(seeds)]) for i in range(n)])
    while running.any():
        chosen = expert(obs)
        shown = np.array([action is not None for action in chosen])
        at = np.flatnonzero(running & shown).tolist()
        actions += [chosen[i] for i in at]
        for name, value in flatten(space, obs, "obs").items():
            texts = isinstance(leaves(space, "obs")[name], spaces.Text)
            rows[name] += encode_text([value[i] for i in at]) if texts else [np.array(value[i]) for i in at]
        obs, reward, terminated, truncated, _ = env.step(chosen)
        so_far += reward
        over = terminated | truncated | ~shown
        if over.any():
            following: list[int | None] = [None] * n
            for i in np.flatnonzero(over).tolist():
                if running[i] and shown[i]:
                    returns.append(float(so_far[i]))
                seed = next(upcoming, None)
                running[i] &= seed is not None
                so_far[i], following[i] = 0.0, int(seeds[0] if seed is None else seed)  # idle ones go on unseen
            obs, _ = reset(seed=following, options={"reset_mask": over})
    if not actions:
        raise ValueError("the expert has demonstrated nothing: no answer to any of the problems is known")
    columns = {name: _column(field_of(leaf), rows[name]) for name, leaf in leaves(space, "obs").items()}
    return Batch(columns, action=policy.from_env(actions, tree(columns, "obs"))), returns


def _column(field: Field, rows: Sequence[np.ndarray]) -> Tensor | Ragged:
    if field.ragged:
        return Ragged.of([torch.from_numpy(row.copy()) for row in rows], field.dtype)
    return torch.from_numpy(np.stack(rows)).to(field.dtype)
