"""Trust region policy optimisation (Schulman et al. 2015, arXiv:1502.05477).

    maximise  E[ pi(a|s) / pi_old(a|s) * A ]   subject to   mean KL(pi_old || pi) <= delta

The step is s = F^-1 g by conjugate gradient, scaled to sqrt(2 delta / s'Fs) and shortened until the surrogate improves
within the trust region. F is the Fisher matrix of the *analytic* distribution, J' M J, with J the Jacobian of the
distribution's parameters and M its Fisher matrix (appendix C); nothing is estimated from sampled log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.core.agent import Agent
from agents.core.buffer import Batch, Field
from agents.core.flat import FlatAdam, FlatParameters
from agents.core.normalizer import ObservationNormalizer, RewardScaler
from agents.core.returns import gae
from agents.policies import StochasticPolicy
from agents.policies.stochastic import Distribution
from agents.policies.value import ValueFunction, explained_variance, map_split, map_tree, next_values


@dataclass
class Config:
    """Settings of TRPO."""

    n_steps: int = 128
    """Steps of every environment that one update learns from."""
    gamma: float = 0.99
    """Discount factor."""
    lam: float = 0.95
    """Lambda of generalised advantage estimation."""
    delta: float = 0.01
    """Trust region: the largest mean KL(old || new) of one update, in nats."""
    cg_iterations: int = 10
    """Conjugate-gradient iterations, each with one Fisher-vector product."""
    damping: float = 0.1
    """Added to the Fisher matrix's diagonal."""
    line_search_steps: int = 10
    """Step sizes tried before the update is given up."""
    backtrack: float = 0.8
    """Factor from one tried step size to the next."""
    critic_lr: float = 1e-3
    """Learning rate (Adam) of the value function."""
    critic_epochs: int = 10
    """Passes over the batch when fitting the value function."""
    critic_batch_size: int = 128
    """Minibatch size of that fit."""
    normalize_advantage: bool = True
    """Advantages to mean 0, standard deviation 1 over the batch."""
    normalize_observations: bool = True
    """Observations by their running mean and standard deviation."""
    normalize_rewards: bool = True
    """Rewards by the running standard deviation of the discounted return."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of policy and value function."""
    activation: str = "tanh"
    """Activation: tanh, relu, elu or gelu."""
    log_std_init: float = 0.0
    """Logarithm of the first standard deviation (Box actions)."""

    def __post_init__(self) -> None:
        positive = (
            "n_steps",
            "delta",
            "cg_iterations",
            "line_search_steps",
            "critic_epochs",
            "critic_batch_size",
        )
        for name in positive:
            if not getattr(self, name) > 0:
                raise ValueError(f"trpo: {name} must be positive; got {getattr(self, name)}")
        for name in ("gamma", "lam", "backtrack"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"trpo: {name} must lie between 0 and 1; got {getattr(self, name)}")


def surrogate(log_prob: Tensor, old_log_prob: Tensor, adv: Tensor) -> Tensor:
    """E[ pi / pi_old * A ], a scalar; all [batch]."""
    return ((log_prob - old_log_prob).exp() * adv).mean()


def conjugate_gradient(product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tol: float = 1e-10) -> Tensor:
    """Solve A x = b for symmetric positive definite A, given v -> A v; x, b: [dim]."""
    x = torch.zeros_like(b)
    r, p = b.clone(), b.clone()
    rr = r @ r
    for _ in range(iterations):
        Ap = product(p)
        alpha = rr / (p @ Ap)
        x += alpha * p
        r -= alpha * Ap
        rr_next = r @ r
        if float(rr_next) < tol:
            break
        p = r + (rr_next / rr) * p
        rr = rr_next
    return x


def fisher_vector_product(distribution: Distribution, params: list[Tensor]) -> Callable[[Tensor], Tensor]:
    """v -> F v, F = mean over the batch of J' M J, exact at the current parameters; v: [number of parameters].

    J v comes from differentiating u -> J' u, which is linear in u, so that both products replay graphs made once.
    """
    outputs = distribution.parameters
    frozen = distribution.detach()
    u = [torch.zeros_like(out, requires_grad=True) for out in outputs]
    Jt_u = torch.autograd.grad(outputs, params, u, create_graph=True)
    batch = outputs[0].shape[0]

    def product(v: Tensor) -> Tensor:
        Jv = torch.autograd.grad(Jt_u, u, unflatten(v, params), retain_graph=True)
        MJv = frozen.fisher(Jv)
        return flatten(torch.autograd.grad(outputs, params, MJv, retain_graph=True)) / batch

    return product


def flatten(tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def unflatten(vector: Tensor, like: list[Tensor]) -> list[Tensor]:
    return [part.view_as(p) for part, p in zip(vector.split([p.numel() for p in like]), like, strict=True)]


class TRPO(Agent):
    """TRPO for Box, Discrete, MultiDiscrete and MultiBinary actions."""

    name = "trpo"
    Config = Config

    def build(self) -> None:
        c = self.config
        net = {"hidden": c.hidden, "activation": c.activation}
        self.policy = StochasticPolicy(
            self.observation_space, self.action_space, log_std_init=c.log_std_init, **net
        ).to(self.device)
        self.critic = ValueFunction(self.observation_space, **net).to(self.device)
        self.flat_critic = FlatParameters(self.critic)
        self.critic_optimizer = FlatAdam(self.flat_critic, c.critic_lr)
        self.normalizer = ObservationNormalizer(self.observation_space, enabled=c.normalize_observations).to(
            self.device
        )
        self.reward_scaler = RewardScaler(c.gamma)

    def parts(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "critic": self.critic,
            "critic_optimizer": self.critic_optimizer,
            "normalizer": self.normalizer,
            "reward_scaler": self.reward_scaler,
        }

    def schema(self) -> dict[str, Field]:
        return self.policy.fields()

    def rows_per_iteration(self) -> int:
        return self.config.n_steps

    def act(self, obs: Any, episode_start: np.ndarray) -> Mapping[str, Tensor]:
        return self.policy.act(self.normalizer(obs), self.generator)

    def choose(self, obs: Any, deterministic: bool) -> Tensor:
        return self.policy.choose(self.normalizer(obs), deterministic, self.predict_generator)

    def to_env(self, action: Tensor, obs: Any) -> np.ndarray:
        return self.policy.to_env(action, obs)

    def update(self) -> dict[str, float]:
        c, buffer = self.config, self.buffer
        assert buffer is not None
        raw = buffer.rollout()
        if c.normalize_rewards:
            self.reward_scaler.update(raw)
        rollout = raw.to(self.device)
        reward = self.reward_scaler(rollout["reward"]) if c.normalize_rewards else rollout["reward"]
        values, successors = self.values(rollout)
        adv = gae(reward, values, successors, rollout["terminated"], rollout["truncated"], c.gamma, c.lam)
        rollout["adv"], rollout["ret"] = adv, adv + values
        batch = rollout.flat()
        obs = self.normalizer(batch.obs)

        # The two fits share nothing but their inputs. The policy's is long operations, the critic's many short ones.
        with ThreadPoolExecutor(1) as pool:
            critic_fit = pool.submit(self.fit_critic, obs, batch["ret"])
            metrics = self.improve_policy(obs, batch["action"], batch["log_prob"], batch["adv"])
            metrics["value_loss"] = critic_fit.result()
        metrics["explained_variance"] = float(explained_variance(values, rollout["ret"]))
        self.normalizer.update(raw.flat().obs)
        buffer.clear()
        return metrics

    @torch.no_grad()
    def values(self, rollout: Batch) -> tuple[Tensor, Tensor]:
        """V(obs) and V(next_obs), both [T, N]."""

        def value(obs: Any) -> Tensor:
            return self.critic(self.normalizer(obs))

        values = value(map_tree(lambda x: x.flatten(0, 1), rollout.obs)).view_as(rollout["reward"])
        return values, next_values(value, values, rollout)

    def improve_policy(self, obs: Any, action: Tensor, old_log_prob: Tensor, adv: Tensor) -> dict[str, float]:
        """One trust-region step; without an acceptable one the parameters stay bit for bit as they were."""
        c = self.config
        if c.normalize_advantage and len(adv) > 1:
            adv = (adv - adv.mean()) / (adv.std() + 1e-8)
        params: list[Tensor] = list(self.policy.parameters())
        distribution = self.policy(obs)
        old = distribution.detach()
        objective = surrogate(distribution.log_prob(action), old_log_prob, adv)
        g = flatten(torch.autograd.grad(objective, params, retain_graph=True))
        Fv = fisher_vector_product(distribution, params)
        before = objective.item()

        def damped(v: Tensor) -> Tensor:
            return Fv(v).add_(v, alpha=c.damping)

        s = conjugate_gradient(damped, g, c.cg_iterations)
        step = s * (2 * c.delta / (s @ damped(s))).sqrt()
        start = [p.detach().clone() for p in params]
        kl, after, accepted = 0.0, before, 0.0
        with torch.no_grad():
            for i in range(c.line_search_steps if bool(step.isfinite().all()) else 0):
                fraction = c.backtrack**i
                torch._foreach_copy_(params, torch._foreach_add(start, unflatten(step, params), alpha=fraction))
                new = self.policy(obs)
                after = surrogate(new.log_prob(action), old_log_prob, adv).item()
                kl = old.kl(new).mean().item()
                if math.isfinite(after) and after > before and kl <= c.delta:  # a NaN kl fails the comparison
                    accepted = fraction
                    break
            else:
                torch._foreach_copy_(params, start)
                kl, after = 0.0, before
        return {
            "policy_objective": after - before,
            "kl_divergence_loss": kl,
            "is_line_search_success": float(accepted > 0),
            "step_fraction": accepted,
            "entropy": old.entropy().mean().item(),
        }

    def fit_critic(self, obs: Any, ret: Tensor) -> float:
        """Least squares on the returns by minibatch Adam; the last epoch's mean loss."""
        c, n = self.config, len(ret)
        total = torch.zeros((), device=self.device)
        for _ in range(c.critic_epochs):
            order = torch.randperm(n, generator=self.generator, device=self.device)
            shuffled = map_tree(itemgetter(order), obs)
            minibatches = zip(
                map_split(shuffled, c.critic_batch_size), ret[order].split(c.critic_batch_size), strict=True
            )
            total.zero_()
            for obs_b, ret_b in minibatches:
                values, backward = self.critic.with_backward(obs_b)
                error = values - ret_b
                backward(error * (2.0 / len(error)))  # of the mean squared error
                self.critic_optimizer.step()
                total += error.square_().sum()
        return float(total) / n
