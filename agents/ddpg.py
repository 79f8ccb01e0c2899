"""Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv:1509.02971).

    critic   minimise ( Q(s, a) - [ r + gamma (1 - terminated) Q'(s', mu'(s')) ] )^2
    actor    maximise Q(s, mu(s))
    targets  theta' <- tau theta + (1 - tau) theta'

Box actions explore with Gaussian or Ornstein-Uhlenbeck noise; Discrete and MultiDiscrete ones are one-hot vectors that
explore by sampling and learn by straight-through Gumbel-softmax.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from agents.core.agent import Agent
from agents.core.buffer import Field
from agents.core.normalizer import ObservationNormalizer
from agents.policies import DeterministicPolicy
from agents.policies.noise import OrnsteinUhlenbeck
from agents.policies.value import ActionValue


@dataclass
class Config:
    """Settings of DDPG."""

    buffer_size: int = 1_000_000
    """Transitions kept for replay."""
    batch_size: int = 256
    """Replayed transitions per update."""
    learning_starts: int = 10_000
    """Environment steps with uniformly random actions before the first update."""
    train_freq: int = 1
    """Vector steps between rounds of updates."""
    gradient_steps: int = -1
    """Updates per round; -1: one for every environment step made."""
    gamma: float = 0.99
    """Discount factor."""
    tau: float = 0.005
    """Polyak factor of the target networks."""
    actor_lr: float = 1e-3
    """Learning rate (Adam) of the actor."""
    critic_lr: float = 1e-3
    """Learning rate (Adam) of the critic."""
    noise: Literal["gaussian", "ou"] = "gaussian"
    """Exploration noise of Box actions: Gaussian, or Ornstein-Uhlenbeck with one process an environment."""
    noise_std: float = 0.1
    """Standard deviation of Gaussian noise, or the Ornstein-Uhlenbeck process's sigma; the action range is [-1, 1]."""
    temperature: float = 1.0
    """Temperature of the Gumbel-softmax (Discrete and MultiDiscrete actions)."""
    normalize_observations: bool = False
    """Observations by their running mean and standard deviation."""
    hidden: tuple[int, ...] = (400, 300)
    """Widths of the hidden layers of actor and critic."""
    activation: str = "relu"
    """Activation: tanh, relu, elu or gelu."""

    def __post_init__(self) -> None:
        for name in (
            "buffer_size",
            "batch_size",
            "train_freq",
            "tau",
            "actor_lr",
            "critic_lr",
            "temperature",
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"ddpg: {name} must be positive; got {getattr(self, name)}")
        for name in ("gamma", "tau"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"ddpg: {name} must lie between 0 and 1; got {getattr(self, name)}")
        if self.batch_size > self.buffer_size:
            raise ValueError(f"ddpg: batch_size {self.batch_size} is larger than buffer_size {self.buffer_size}")
        if self.noise not in ("gaussian", "ou"):
            raise ValueError(f"ddpg: noise is 'gaussian' or 'ou'; got {self.noise!r}")


def critic_target(reward: Tensor, next_q: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """r + gamma Q'(s', mu'(s')), [batch]. Only a termination ends the future; a truncation merely stops watching."""
    return torch.addcmul(reward, 1.0 - terminated, next_q, value=gamma)


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """Mean squared Bellman error."""
    return F.mse_loss(q, target)


def actor_loss(q: Tensor) -> Tensor:
    """-E[ Q(s, mu(s)) ]: its gradient is the negative deterministic policy gradient."""
    return -q.mean()


class DDPG(Agent):
    """DDPG for bounded Box, Discrete and MultiDiscrete actions."""

    name = "ddpg"
    Config = Config
    default_num_envs = 1
    log_interval = 1000

    def build(self) -> None:
        c = self.config
        net = {"hidden": c.hidden, "activation": c.activation}
        self.actor = DeterministicPolicy(self.observation_space, self.action_space, **net).to(self.device)
        self.policy = self.actor  # the name it has in every agent
        self.critic = ActionValue(self.observation_space, self.actor.dim, init="fan_in", output_gain=3e-3, **net).to(
            self.device
        )
        self.target_actor, self.target_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.online: list[Tensor] = [*self.actor.parameters(), *self.critic.parameters()]
        self.targets: list[Tensor] = [*self.target_actor.parameters(), *self.target_critic.parameters()]
        self.critic_params = list(self.critic.parameters())
        for p in self.targets:
            p.requires_grad = False
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=c.actor_lr, fused=True)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=c.critic_lr, fused=True)
        self.normalizer = ObservationNormalizer(self.observation_space, enabled=c.normalize_observations).to(
            self.device
        )
        self.ou = OrnsteinUhlenbeck(c.noise_std)

    def parts(self) -> dict[str, Any]:
        return {
            "actor": self.actor,
            "critic": self.critic,
            "target_actor": self.target_actor,
            "target_critic": self.target_critic,
            "actor_optimizer": self.actor_optimizer,
            "critic_optimizer": self.critic_optimizer,
            "normalizer": self.normalizer,
            "ou": self.ou,
        }

    def schema(self) -> dict[str, Field]:
        return {"action": Field((self.actor.dim,))}

    def rows_per_iteration(self) -> int:
        return self.config.train_freq

    def buffer_rows(self) -> int:
        return max(self.config.train_freq, -(-self.config.buffer_size // self.num_envs))

    @torch.inference_mode()
    def act(self, obs: Any, episode_start: np.ndarray) -> Mapping[str, Tensor]:
        c, buffer = self.config, self.buffer
        assert buffer is not None
        if buffer.rows * buffer.num_envs < c.learning_starts:
            return {"action": self.actor.random(buffer.num_envs, self.generator)}
        if self.actor.sizes:
            return {"action": self.actor.explore(self.normalizer(obs), self.generator)}
        greedy = self.actor(self.normalizer(obs))
        noise = torch.empty_like(greedy).normal_(generator=self.generator)
        noise = self.ou(noise, episode_start) if c.noise == "ou" else noise.mul_(c.noise_std)
        return {"action": greedy.add_(noise).clamp_(-1.0, 1.0)}

    def choose(self, obs: Any, deterministic: bool) -> Tensor:
        if self.actor.sizes and not deterministic:
            return self.actor.explore(self.normalizer(obs), self.predict_generator)
        return self.actor(self.normalizer(obs))

    def to_env(self, action: Tensor, obs: Any) -> np.ndarray:
        return self.actor.to_env(action)

    def imitated(self) -> None:
        self.target_actor.load_state_dict(self.actor.state_dict())

    # --- learning -----------------------------------------------------------------------------------------------

    def update(self) -> Mapping[str, float | Tensor]:
        c, buffer = self.config, self.buffer
        assert buffer is not None
        self.normalizer.update(buffer.rollout().flat().obs)
        buffer.clear()
        stored = buffer.rows * buffer.num_envs
        if stored < c.learning_starts or len(buffer) * buffer.num_envs < c.batch_size:
            return {}
        rounds = c.gradient_steps if c.gradient_steps >= 0 else c.train_freq * buffer.num_envs
        metrics: Mapping[str, float | Tensor] = {}
        for _ in range(rounds):
            batch = buffer.sample(c.batch_size).to(self.device)
            obs, next_obs = self.normalizer(batch.obs), self.normalizer(batch.next_obs)
            metrics = self.train_step(obs, batch["action"], batch["reward"], next_obs, batch["terminated"])
        return metrics

    def train_step(
        self, obs: Any, action: Tensor, reward: Tensor, next_obs: Any, terminated: Tensor
    ) -> Mapping[str, Tensor]:
        """One update of critic, actor and targets on a batch."""
        c = self.config
        with torch.no_grad():
            next_q = self.target_critic(next_obs, self.target_actor(next_obs))
            target = critic_target(reward, next_q, terminated, c.gamma)
        q_loss = critic_loss(self.critic(obs, action), target)
        self.critic_optimizer.zero_grad()
        q_loss.backward()
        self.critic_optimizer.step()

        # dQ/da is all that the actor's step needs of the critic: no gradient for its parameters.
        for p in self.critic_params:
            p.requires_grad = False
        mu_loss = actor_loss(self.critic(obs, self.actor.relaxed(obs, c.temperature, self.generator)))
        self.actor_optimizer.zero_grad()
        mu_loss.backward()
        for p in self.critic_params:
            p.requires_grad = True
        self.actor_optimizer.step()

        with torch.no_grad():
            torch._foreach_lerp_(self.targets, self.online, c.tau)
        return {"critic_loss": q_loss.detach(), "actor_loss": mu_loss.detach()}
