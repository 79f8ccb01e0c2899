"""Deep deterministic policy gradient (Lillicrap et al. 2016, arXiv:1509.02971).

    critic   minimise ( Q(s, a) - [ r + gamma (1 - terminated) Q'(s', mu'(s')) ] )^2
    actor    maximise Q(s, mu(s))
    targets  theta' <- tau theta + (1 - tau) theta'

Box actions explore with Gaussian or Ornstein-Uhlenbeck noise. Discrete, MultiDiscrete and MultiBinary ones are one-hot
vectors that learn by straight-through Gumbel-softmax and explore by sampling, with a share epsilon of uniform actions
(as in Mnih et al. 2015): a softmax that saturates early, while the critic is still wrong, would never again try
anything else. Typed actions on screens are both: their points are continuous, the rest is one-hot
(`policies/relaxed.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.core import distributed
from agents.core.agent import Agent
from agents.core.buffer import Field
from agents.core.errors import check_settings
from agents.core.flat import FlatAdam, FlatParameters
from agents.core.normalizer import ObservationNormalizer
from agents.encoders import EncoderConfig
from agents.policies import DeterministicPolicy
from agents.policies.noise import OrnsteinUhlenbeck
from agents.policies.screen_actor import ScreenActor, ScreenCritic, acts_on_screens
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
    actor_starts: int = 0
    """Environment steps before the actor's first update. Until then the critic alone learns, of what the actor does: an
    actor that has been warmed up would unlearn it from a critic that knows nothing yet."""
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
    """Exploration noise of Box actions and points: Gaussian, or Ornstein-Uhlenbeck with one process an environment."""
    noise_std: float = 0.1
    """Standard deviation of Gaussian noise, or the Ornstein-Uhlenbeck process's sigma; the action range is [-1, 1]."""
    epsilon: float = 0.1
    """Share of actions other than Box drawn uniformly in training; the rest follow the actor's softmax. On screens of
    points and typed actions."""
    temperature: float = 1.0
    """Temperature of the Gumbel-softmax (actions other than Box)."""
    normalize_observations: bool = False
    """Observations by their running mean and standard deviation."""
    hidden: tuple[int, ...] = (400, 300)
    """Widths of the hidden layers of actor and critic; on screens of the critic's last layers."""
    activation: str = "relu"
    """Activation: tanh, relu, elu or gelu."""
    encoder: str = "cnn"
    """How images and text are seen: cnn, mlp, reader (for the fine print of screens), vit, clip, siglip, the path of a
    saved encoder or of a pretraining run, or a folder or hub id of a ViT, CLIP or SigLIP that transformers loads."""
    freeze_encoder: bool = False
    """Leave the encoder of images and text as it is."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            "ddpg",
            positive=("buffer_size", "batch_size", "train_freq", "tau", "actor_lr", "critic_lr", "temperature"),
            from_zero=("noise_std", "learning_starts", "actor_starts"),
            share=("gamma", "tau", "epsilon"),
            one_of={"noise": ("gaussian", "ou")},
        )
        if self.batch_size > self.buffer_size:
            raise ValueError(f"ddpg: batch_size {self.batch_size} is larger than buffer_size {self.buffer_size}")


def critic_target(reward: Tensor, next_q: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """r + gamma Q'(s', mu'(s')), [batch]. Only a termination ends the future; a truncation merely stops watching."""
    return torch.addcmul(reward, 1.0 - terminated, next_q, value=gamma)


def critic_loss(q: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The mean squared Bellman error L, [], and dL/dq, [batch]."""
    error = q - target
    return error.square().mean(), error.mul(2.0 / len(error))


def actor_loss(q: Tensor, dq_da: Tensor) -> tuple[Tensor, Tensor]:
    """L = -E[ Q(s, mu(s)) ], [], and dL/da, [batch, dim]: through mu it is minus the deterministic policy gradient."""
    return -q.mean(), dq_da.mul(-1.0 / len(q))


class Transitions(NamedTuple):
    """A batch of replayed transitions; observations may be trees."""

    obs: Any
    action: Tensor  # [batch, dim]
    reward: Tensor  # [batch]
    next_obs: Any
    terminated: Tensor  # [batch]
    noise: Tensor | None = None  # [batch, dim], the Gumbel noise of categorical actions


class DDPG(Agent):
    """DDPG for bounded Box, Discrete, MultiDiscrete and MultiBinary actions, and for typed ones on screens."""

    name = "ddpg"
    Config = Config
    default_num_envs = 1
    log_interval = 1000

    def build(self) -> None:
        c = self.config
        if isinstance(self.action_space, spaces.Text):
            raise ValueError(
                f"DDPG needs Box or Discrete actions; {self.environment_takes}. Use kimi, trpo or actor-critic."
            )
        encoder = EncoderConfig(c.encoder, c.freeze_encoder)
        net: dict[str, Any] = {"hidden": c.hidden, "activation": c.activation, "encoder": encoder}
        self.actor: DeterministicPolicy | ScreenActor
        self.critic: ActionValue | ScreenCritic
        if acts_on_screens(self.observation_space, self.action_space):
            self.actor = ScreenActor(self.observation_space, self.action_space, encoder=encoder)
            self.critic = ScreenCritic(self.observation_space, self.actor.vector, **net)
        else:
            self.actor = DeterministicPolicy(self.observation_space, self.action_space, **net)
            value: dict[str, Any] = {"init": "fan_in", "output_gain": 3e-3, "sizes": self.actor.sizes}
            self.critic = ActionValue(self.observation_space, self.actor.dim, **value, **net)
        self.actor, self.critic = self.actor.to(self.device), self.critic.to(self.device)
        self.policy = self.actor  # the name it has in every agent
        self.target_actor, self.target_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        actor, critic = FlatParameters(self.actor), FlatParameters(self.critic)
        self.weights = [actor.vector.detach(), critic.vector.detach()]
        self.target_weights = [FlatParameters(net).vector.detach() for net in (self.target_actor, self.target_critic)]
        for p in (*self.target_actor.parameters(), *self.target_critic.parameters()):
            p.requires_grad, p.grad = False, None
        self.actor_optimizer = FlatAdam(actor, c.actor_lr)
        self.critic_optimizer = FlatAdam(critic, c.critic_lr)
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
        # An agent that was loaded without its transitions has made them all the same.
        if max(self.steps_at_boundary, buffer.rows * buffer.num_envs) < c.learning_starts:
            return {"action": self.actor.random(buffer.num_envs, self.generator, obs)}
        noise = None
        if self.actor.continuous:
            noise = torch.empty(buffer.num_envs, self.actor.dim, device=self.device).normal_(generator=self.generator)
            noise = self.ou(noise, episode_start) if c.noise == "ou" else noise.mul_(c.noise_std)
        return {"action": self.actor.explore(self.normalizer(obs), self.generator, c.epsilon, noise)}

    def choose(self, obs: Any, deterministic: bool) -> Tensor:
        seen = self.normalizer(obs)
        return self.actor.predict(seen) if deterministic else self.actor.explore(seen, self.predict_generator)

    def imitated(self) -> None:
        self.target_actor.load_state_dict(self.actor.state_dict())

    # --- learning -----------------------------------------------------------------------------------------------

    def update(self) -> Mapping[str, float | Tensor]:
        c, buffer = self.config, self.buffer
        assert buffer is not None
        if c.normalize_observations:
            self.normalizer.update(buffer.rollout().flat("obs").obs)
        buffer.clear()
        steps = max(self.num_timesteps, buffer.rows * buffer.num_envs)
        if steps < c.learning_starts or len(buffer) * buffer.num_envs < c.batch_size:
            return {}
        rounds = c.gradient_steps if c.gradient_steps >= 0 else c.train_freq * buffer.num_envs
        columns = [name for name in buffer.schema if name not in ("truncated", "valid")]
        metrics: Mapping[str, float | Tensor] = {}
        for _ in range(rounds):
            batch = buffer.sample(c.batch_size, columns).to(self.device)
            obs, next_obs = self.normalizer(batch.obs), self.normalizer(batch.next_obs)
            noise = self.actor.noise(c.batch_size, self.generator)
            transitions = Transitions(obs, batch["action"], batch["reward"], next_obs, batch["terminated"], noise)
            metrics = self.train_step(transitions, actor=steps >= c.actor_starts)
        return metrics

    @torch.no_grad()
    def train_step(self, batch: Transitions, *, actor: bool = True) -> Mapping[str, Tensor]:
        """One update of critic, actor (or not) and targets."""
        metrics = {"critic_loss": self.critic_gradient(batch)}
        self.critic_optimizer.step()
        if actor:
            metrics["actor_loss"] = self.actor_gradient(batch)
            self.actor_optimizer.step()
        for slow, fast in zip(self.target_weights, self.weights, strict=True):
            slow.lerp_(fast, self.config.tau)
        return metrics

    @torch.no_grad()
    def critic_gradient(self, batch: Transitions) -> Tensor:
        """The critic's loss, []; its gradient is left in the critic's parameters."""
        next_q = self.target_critic(batch.next_obs, self.target_actor(batch.next_obs))
        target = critic_target(batch.reward, next_q, batch.terminated, self.config.gamma)
        q, backward = self.critic.with_backward(batch.obs, batch.action)
        loss, dloss_dq = critic_loss(q, target)
        backward(dloss_dq)
        distributed.average_(self.critic_optimizer.flat.grad)
        return loss

    @torch.no_grad()
    def actor_gradient(self, batch: Transitions) -> Tensor:
        """The actor's loss, []; its gradient is left in the actor's parameters.

        Of the critic it needs dQ/da alone, and no gradient of the parameters.
        """
        action, backward = self.actor.with_backward(batch.obs, batch.noise, self.config.temperature)
        q, dq_da = self.critic.action_gradient(batch.obs, action)
        loss, dloss_da = actor_loss(q, dq_da)
        backward(dloss_da)
        distributed.average_(self.actor_optimizer.flat.grad)
        return loss
