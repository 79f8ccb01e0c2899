"""The actor-critic family (Sutton & Barto 2018, chapter 13), chosen by `variant`.

    qac          grad log pi(a|s) Q(s, a), Q by Sarsa: r + gamma Q(s', a')
    a2c          grad log pi(a|s) A(s, a), A from a V critic: GAE, n-step or TD error (Mnih et al. 2016)
    off-policy   rho grad log pi(a|s) delta on replayed steps, rho = min(pi / beta, rho_max) (Degris et al. 2012)

each with an entropy bonus. The deterministic member of the family is DDPG.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from agents.core import distributed
from agents.core.agent import Agent
from agents.core.arrays import Array
from agents.core.buffer import Batch
from agents.core.errors import check_settings
from agents.core.flat import FlatAdam, FlatParameters, FlatRMSprop
from agents.core.normalizer import ObservationNormalizer, RewardScaler
from agents.core.returns import gae, n_step
from agents.policies import PolicyConfig, StochasticPolicy, make_policy
from agents.policies.credit import as_column, credit
from agents.policies.policy import per_decision
from agents.policies.value import ActionValue, ValueFunction, explained_variance, merge_steps, next_values


@dataclass
class Config(PolicyConfig):
    """Settings of the actor-critic family."""

    variant: Literal["a2c", "qac", "off-policy"] = "a2c"
    """Which member: advantage actor-critic, Q actor-critic, or off-policy with importance weights."""
    n_steps: int = 5
    """Steps of every environment between updates."""
    gamma: float = 0.99
    """Discount factor."""
    advantage: Literal["gae", "n-step", "td"] = "gae"
    """a2c: generalised advantage estimation, n-step return minus V, or the TD error."""
    lam: float = 1.0
    """a2c: lambda of GAE."""
    lookahead: int = 5
    """a2c: n of the n-step return."""
    learning_rate: float = 7e-4
    """Step size, of actor and critic."""
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    """RMSprop (eps 1e-5, as in A3C) or Adam."""
    anneal: bool = False
    """Let the learning rate fall linearly to 0 over the run."""
    value_coef: float = 0.5
    """Weight of the critic's squared error in the loss."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.5
    """Longest gradient; longer ones are scaled down."""
    normalize_advantage: bool = False
    """Advantages to mean 0, standard deviation 1 over the batch."""
    normalize_observations: bool = True
    """Observations by their running mean and standard deviation."""
    normalize_rewards: bool = False
    """Rewards by the running standard deviation of the discounted return."""
    buffer_size: int = 50_000
    """off-policy: transitions kept for replay."""
    batch_size: int = 256
    """off-policy: replayed transitions per gradient step."""
    gradient_steps: int = 1
    """off-policy: gradient steps per update."""
    max_importance: float = 2.0
    """off-policy: largest importance weight rho."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(
            self,
            "actor-critic",
            positive=(
                "n_steps",
                "lookahead",
                "learning_rate",
                "max_grad_norm",
                "batch_size",
                "gradient_steps",
                "max_importance",
            ),
            from_zero=("value_coef", "entropy_coef"),
            share=("gamma", "lam"),
            one_of={
                "variant": ("a2c", "qac", "off-policy"),
                "advantage": ("gae", "n-step", "td"),
                "optimizer": ("rmsprop", "adam"),
            },
        )
        if self.variant == "off-policy" and self.batch_size > self.buffer_size:
            raise ValueError(
                f"actor-critic: batch_size {self.batch_size} is larger than buffer_size {self.buffer_size}"
            )


def policy_loss(log_prob: Tensor, adv: Tensor) -> Tensor:
    """-E[ log pi(a|s) A ]; both [batch]. No gradient goes through adv."""
    return -(log_prob * adv.detach()).mean()


def policy_gradient(score: tuple[Array, ...], adv: Array) -> tuple[Array, ...]:
    """The gradient of `policy_loss` with respect to the distribution's parameters: -A grad log pi(a|s) / batch.

    score: grad log pi(a|s) with respect to them, each [batch, dim]; adv: [batch]. Tensors or NumPy arrays.
    """
    weight = (adv * (-1.0 / len(adv)))[:, None]
    return tuple(part * weight for part in score)


def importance(log_prob: Tensor, behaviour_log_prob: Tensor, maximum: float) -> Tensor:
    """rho = min(pi / beta, maximum), [batch], without a gradient."""
    return (log_prob.detach() - behaviour_log_prob).exp().clamp(max=maximum)


def sarsa_targets(reward: Tensor, next_q: Tensor, terminated: Tensor, gamma: float) -> Tensor:
    """r + gamma Q(s', a'), nothing beyond a termination."""
    return reward + gamma * (1.0 - terminated) * next_q


class ActorCritic(Agent):
    """Actor-critic for Box, Discrete, MultiDiscrete, MultiBinary and, by a2c, Text actions.

    In a text environment every token of a response is a decision, whose state is all that stands before it, and the
    critic is a head on the language model, whose trunk learns from its error too.
    """

    name = "actor-critic"
    Config = Config
    log_interval = 100

    def build(self) -> None:
        c = self.config
        net: dict[str, Any] = {"hidden": c.hidden, "activation": c.activation, "encoder": c.encoder_config}
        self.policy: Any = make_policy(self.observation_space, self.action_space, c, seed=self.seed, device=self.device)
        self.by_hand = isinstance(self.policy, StochasticPolicy)
        self.arrays = False  # whether rollouts are NumPy arrays, see `prepare`
        if not self.by_hand:
            self._refuse_variants()
            self.log_interval = 1  # its iterations are long
        if c.variant == "qac":
            self.critic: Any = ActionValue(self.observation_space, self._action_vector_dim(), **net).to(self.device)
        else:
            self.critic = ValueFunction(self.policy.critic_space, **net).to(self.device)
        self.flat = FlatParameters(self.policy, self.critic)
        self.optimizer: FlatRMSprop | FlatAdam = (
            FlatRMSprop(self.flat, c.learning_rate)
            if c.optimizer == "rmsprop"
            else FlatAdam(self.flat, c.learning_rate, eps=1e-5)
        )
        self.normalizer = ObservationNormalizer(self.observation_space, enabled=c.normalize_observations).to(
            self.device
        )
        self.reward_scaler = RewardScaler(c.gamma)

    def _refuse_variants(self) -> None:
        c = self.config
        if c.variant != "a2c":
            raise ValueError(
                f"actor-critic: variant {c.variant} needs Box, Discrete, MultiDiscrete or MultiBinary actions; "
                f"{self.environment_takes}. Use variant a2c."
            )
        if c.advantage == "n-step":
            raise ValueError(
                f"actor-critic: n-step advantages count steps of one decision; {self.environment_takes}. "
                "Use advantage gae or td."
            )

    def prepare(self) -> None:
        """As every agent's; small networks learn from a short rollout in NumPy, whose calls cost a third of torch's."""
        super().prepare()
        c, rows = self.config, self.config.n_steps * self.num_envs
        alike = c.variant == "a2c" and c.advantage != "n-step" and self.device.type == "cpu" and self.by_hand
        self.arrays = alike and self.policy.takes_arrays(rows)

    def parts(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "critic": self.critic,
            "optimizer": self.optimizer,
            "normalizer": self.normalizer,
            "reward_scaler": self.reward_scaler,
        }

    def forget_episodes(self) -> None:
        self.reward_scaler.running = None

    def rows_per_iteration(self) -> int:
        return self.config.n_steps

    def buffer_rows(self) -> int:
        if self.config.variant != "off-policy":
            return self.config.n_steps
        return max(self.config.n_steps, -(-self.config.buffer_size // self.num_envs))

    def act(self, obs: Any, episode_start: np.ndarray) -> Mapping[str, Any]:
        if self.arrays:
            obs = obs.numpy()
        return self.policy.act(self.normalizer(obs), self.generator)

    # --- learning -----------------------------------------------------------------------------------------------

    def update(self) -> Mapping[str, float | Tensor]:
        c, buffer = self.config, self.buffer
        assert buffer is not None
        raw = buffer.rollout()
        if c.normalize_rewards:
            self.reward_scaler.update(raw)
        if c.anneal:
            remaining = 1.0 - min(1.0, self.num_timesteps / max(1, self.total_timesteps))
            self.optimizer.lr = c.learning_rate * remaining
        a2c = self._a2c if self.by_hand else self._a2c_of_decisions
        step = {"a2c": a2c, "qac": self._qac, "off-policy": self._off_policy}[c.variant]
        metrics = step(raw)
        self.normalizer.update(raw.flat("obs").obs)
        buffer.clear()
        return metrics

    def _a2c(self, raw: Batch) -> Mapping[str, float | Tensor]:
        c, rollout = self.config, self._on_device(raw)
        obs = self.normalizer(merge_steps(rollout.obs))
        flat_values, critic_backward = self.critic.with_backward(obs)
        reward, terminated, truncated = rollout["reward"], rollout["terminated"], rollout["truncated"]
        values = flat_values.reshape(reward.shape)
        successors = next_values(lambda o: self.critic.predict(self.normalizer(o)), values, rollout)
        if c.advantage == "n-step":
            adv = n_step(reward, successors, terminated, truncated, c.gamma, c.lookahead) - values
        else:
            lam = c.lam if c.advantage == "gae" else 0.0
            adv = gae(reward, values, successors, terminated, truncated, c.gamma, lam)
        return self._descend(obs, rollout, adv.reshape(-1), flat_values, (adv + values).reshape(-1), critic_backward)

    def _a2c_of_decisions(self, raw: Batch) -> Mapping[str, float | Tensor]:
        """A2C where a step consists of several decisions, or its gradient is left to autograd, in micro-batches."""
        c, rollout = self.config, self._on_device(raw)
        lam = c.lam if c.advantage == "gae" else 0.0
        steps, judged = credit(self.policy, self.critic, self.normalizer, rollout, rollout["reward"], c.gamma, lam)
        adv = judged.adv
        if c.normalize_advantage and len(adv) > 1:
            mean, std = distributed.moments(adv)
            adv = (adv - mean) / (std + 1e-8)
        steps["adv"], steps["ret"] = (as_column(x, steps["log_prob"]) for x in (adv, judged.ret))
        self.flat.zero_grad()
        (count,) = distributed.mean(len(adv))
        totals = torch.zeros(3, device=self.device)  # policy loss, squared error, entropy
        coefs = torch.tensor([1.0, c.value_coef, -c.entropy_coef], device=self.device)
        for rows in self.policy.micro_batches(steps, torch.arange(len(steps["log_prob"]))):
            part = steps.take(rows.to(self.device))
            found = self.policy.decisions(part, entropy=True)
            error = self.critic(found.features) - per_decision(part["ret"])
            means = policy_loss(found.log_prob, per_decision(part["adv"])), error.square().mean(), found.entropy.mean()
            terms = torch.stack(means) * (len(error) / count)
            (coefs @ terms).backward()
            totals += terms.detach()
        distributed.average_(self.flat.grad)
        norm = self.flat.clip_grad(c.max_grad_norm)
        self.optimizer.step()
        return {
            **dict(zip(("policy_loss", "value_loss", "entropy"), totals.unbind(), strict=True)),
            "explained_variance": explained_variance(judged.values, judged.ret),
            "grad_norm": norm,
        }

    def _qac(self, raw: Batch) -> Mapping[str, float | Tensor]:
        rollout = self._on_device(raw)
        with torch.no_grad():
            # a' is the action that was taken next; behind an episode's or the rollout's end it is drawn from pi.
            next_obs = self.normalizer(merge_steps(rollout.next_obs))
            next_action = self.policy(next_obs).sample(self.generator).view_as(rollout["action"])
            ended = torch.maximum(rollout["terminated"], rollout["truncated"]) > 0
            goes_on = ~ended[:-1]
            next_action[:-1][goes_on] = rollout["action"][1:][goes_on]
            next_q = self.critic(next_obs, self._action_vector(next_action.flatten(0, 1))).view_as(rollout["reward"])
        target = sarsa_targets(rollout["reward"], next_q, rollout["terminated"], self.config.gamma).flatten()
        obs = self.normalizer(merge_steps(rollout.obs))
        q, critic_backward = self.critic.with_backward(obs, self._action_vector(rollout["action"].flatten(0, 1)))
        return self._descend(obs, rollout, q, q, target, critic_backward)

    def _off_policy(self, raw: Batch) -> Mapping[str, float | Tensor]:
        c, buffer = self.config, self.buffer
        assert buffer is not None
        metrics: Mapping[str, float | Tensor] = {}
        if len(buffer) * buffer.num_envs < c.batch_size:
            return metrics
        for _ in range(c.gradient_steps):
            batch = self._on_device(buffer.sample(c.batch_size))
            obs = self.normalizer(batch.obs)
            values, critic_backward = self.critic.with_backward(obs)
            with torch.no_grad():
                next_values = self.critic(self.normalizer(batch.next_obs))
            target = sarsa_targets(batch["reward"], next_values, batch["terminated"], c.gamma)
            metrics = self._descend(obs, batch, target - values, values, target, critic_backward)
        return metrics

    @torch.no_grad()
    def _descend(
        self,
        obs: Any,
        batch: Batch,
        adv: Any,
        values: Any,
        targets: Any,
        critic_backward: Callable[[Any], None],
    ) -> Mapping[str, float | Tensor]:
        """One gradient step on policy_loss + value_coef * squared error - entropy_coef * entropy.

        obs, adv, values, targets: flat, [batch], all tensors or all NumPy arrays. The loss is differentiated by hand
        up to the networks' outputs.
        """
        c = self.config
        distribution, policy_backward = self.policy.with_backward(obs)
        action = batch["action"].reshape(len(adv), *batch["action"].shape[batch["reward"].ndim :])
        kept, share = _kept(batch)
        if c.normalize_advantage and len(adv[kept]) > 1:
            mean, std = distributed.moments(adv[kept])
            adv = (adv - mean) / (float(std) + 1e-8)
        off_policy = c.variant == "off-policy"
        weight = importance(distribution.log_prob(action), batch["log_prob"], c.max_importance) if off_policy else share
        weighted = adv if weight is None else adv * weight
        grads = policy_gradient(distribution.score(action), weighted)
        if c.entropy_coef:
            bonus = zip(grads, distribution.entropy_gradient(), strict=True)
            coef = c.entropy_coef / len(adv) * (1.0 if share is None else share[:, None])
            grads = tuple(g - coef * e for g, e in bonus)
        policy_backward(grads)
        error = values - targets
        critic_grad = error * (2.0 * c.value_coef / len(error))
        critic_backward(critic_grad if weight is None else critic_grad * weight)
        distributed.average_(self.flat.grad)
        self.flat.clip_grad(c.max_grad_norm)
        self.optimizer.step()
        if not self.log_due:
            return {}
        return {
            "policy_loss": policy_loss(*map(torch.as_tensor, (distribution.log_prob(action), weighted))),
            "value_loss": (error * error * (1.0 if weight is None else weight)).mean(),
            "entropy": distribution.entropy()[kept].mean(),
            "explained_variance": explained_variance(values[kept], targets[kept]),
        }

    def _on_device(self, batch: Batch) -> Batch:
        out = batch.numpy() if self.arrays else batch.to(self.device)
        if self.config.normalize_rewards:
            out["reward"] = self.reward_scaler(out["reward"])
        return out

    def _action_vector_dim(self) -> int:
        space = self.action_space
        match space:
            case spaces.Discrete():
                return int(space.n)
            case spaces.MultiDiscrete():
                return int(space.nvec.sum())
        return int(torch.Size(space.shape or ()).numel())

    def _action_vector(self, action: Tensor) -> Tensor:
        """Stored actions [batch, ...] as the vector [batch, dim] that a Q critic takes: integers one-hot."""
        space = self.action_space
        match space:
            case spaces.Discrete():
                return F.one_hot(action, int(space.n)).float()
            case spaces.MultiDiscrete():
                columns = zip(action.unbind(-1), space.nvec.flatten().tolist(), strict=True)
                return torch.cat([F.one_hot(column, n) for column, n in columns], -1).float()
        return action.float()


def _kept(batch: Batch) -> tuple[Any, Any]:
    """Which steps count, [batch], and weights that turn a mean over all into one over those; None where all count.

    An environment's own reset steps do not.
    """
    if "valid" not in batch or bool(batch["valid"].all()):
        return slice(None), None
    valid = batch["valid"].flatten() > 0
    return valid, valid * (len(valid) / max(int(valid.sum()), 1))
