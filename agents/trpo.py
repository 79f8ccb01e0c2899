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
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.core import distributed
from agents.core.agent import Agent
from agents.core.buffer import Batch
from agents.core.errors import Diverged, check_settings
from agents.core.flat import FlatAdam, FlatParameters
from agents.core.normalizer import ObservationNormalizer, RewardScaler
from agents.policies import PolicyConfig, make_policy
from agents.policies.credit import as_column, credit
from agents.policies.policy import Distribution, Policy, per_decision
from agents.policies.value import ValueFunction, explained_variance, map_split, take_rows


@dataclass
class Config(PolicyConfig):
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
    fisher_share: float = 1.0
    """Share of the steps that Fisher-vector products look at; gradient and trust region see all of them."""
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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(
            self,
            "trpo",
            positive=(
                "n_steps",
                "delta",
                "cg_iterations",
                "line_search_steps",
                "critic_epochs",
                "critic_batch_size",
                "critic_lr",
                "fisher_share",
            ),
            from_zero=("damping",),
            share=("gamma", "lam", "backtrack", "fisher_share"),
        )
        if self.top_p < 1:
            raise ValueError("trpo: top_p must be 1: the KL to a policy that cuts out other tokens is infinite")


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


def mean_product(
    policy: Policy, batches: list[tuple[float, Batch]], params: list[Tensor]
) -> Callable[[Tensor], Tensor]:
    """v -> F v over batches, each with its share of the decisions.

    Their graphs would not fit in memory together, so that every product makes them anew.
    """

    def product(v: Tensor) -> Tensor:
        Fv = torch.zeros_like(v)
        for share, batch in batches:
            Fv.add_(fisher_vector_product(policy.distribution(batch), params)(v), alpha=share)
        return Fv

    return product


def decided(distribution: Distribution, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Of the batch's decisions: log-probability under `distribution` and as they were taken, advantage; all [D]."""
    log_prob = distribution.log_prob(per_decision(batch["action"]))
    return log_prob, per_decision(batch["log_prob"]), per_decision(batch["adv"])


def flatten(tensors: tuple[Tensor, ...] | list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def unflatten(vector: Tensor, like: list[Tensor]) -> list[Tensor]:
    return [part.view_as(p) for part, p in zip(vector.split([p.numel() for p in like]), like, strict=True)]


class TRPO(Agent):
    """TRPO for Box, Discrete, MultiDiscrete, MultiBinary and Text actions.

    In a text environment every token of a response is a decision, whose state is all that stands before it: KL, Fisher
    matrix and advantages are means over tokens. The critic judges the language model's hidden states, and its fit
    leaves the model alone. It thus costs no second model and no further pass, while the policy's parameters change by
    the trust-region step and by nothing else.
    """

    name = "trpo"
    Config = Config

    def build(self) -> None:
        c = self.config
        if distributed.world() > 1 and isinstance(self.action_space, spaces.Text):
            raise ValueError(
                "trpo learns from text in one process, as responses of different lengths make fits of different "
                "lengths; actor-critic takes several"
            )
        self.policy = make_policy(self.observation_space, self.action_space, c, seed=self.seed, device=self.device)
        self.params: list[Tensor] = [p for p in self.policy.parameters() if p.requires_grad]
        self.critic = ValueFunction(
            self.policy.critic_space, hidden=c.hidden, activation=c.activation, encoder=c.encoder_config
        ).to(self.device)
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

    def forget_episodes(self) -> None:
        self.reward_scaler.running = None

    def rows_per_iteration(self) -> int:
        return self.config.n_steps

    def act(self, obs: Any, episode_start: np.ndarray) -> Mapping[str, Any]:
        return self.policy.act(self.normalizer(obs), self.generator)

    def update(self) -> dict[str, float]:
        c, buffer = self.config, self.buffer
        assert buffer is not None
        raw = buffer.rollout()
        if c.normalize_rewards:
            self.reward_scaler.update(raw)
        rollout = raw.to(self.device)
        reward = self.reward_scaler(rollout["reward"]) if c.normalize_rewards else rollout["reward"]
        steps, judged = credit(self.policy, self.critic, self.normalizer, rollout, reward, c.gamma, c.lam)
        adv = as_column(judged.adv, steps["log_prob"])
        seen = Batch(action=steps["action"], log_prob=steps["log_prob"], adv=adv).with_obs(steps.obs)

        # The two fits share nothing but their inputs. The policy's is long operations, the critic's many short ones.
        with ThreadPoolExecutor(1) as pool:
            critic_fit = pool.submit(self.fit_critic, judged.features, judged.ret)
            if distributed.world() > 1:  # ranks must meet in one order
                critic_fit.result()
            metrics = self.improve_policy(seen)
            metrics["value_loss"] = critic_fit.result()
        if not math.isfinite(metrics["value_loss"]):
            raise Diverged(f"the critic's loss is {metrics['value_loss']}: lower critic_lr, or normalise rewards")
        metrics["explained_variance"] = float(explained_variance(judged.values, judged.ret))
        self.normalizer.update(raw.flat().obs)
        buffer.clear()
        return metrics

    def improve_policy(self, steps: Batch) -> dict[str, float]:
        """One trust-region step; without an acceptable one the parameters stay bit for bit as they were.

        steps: `obs` (normalised), `action`, and for each decision `log_prob` as it was taken and `adv`.
        """
        c, params = self.config, self.params
        adv = per_decision(steps["adv"])
        if c.normalize_advantage and len(adv) > 1:
            mean, std = distributed.moments(adv)
            steps = Batch({**steps, "adv": as_column((adv - mean) / (std + 1e-8), steps["adv"])})
        batches = self.micro_batches(steps)
        old: list[Any] = []
        g, before = torch.zeros((), device=self.device), 0.0
        for share, batch in batches:
            distribution = self.policy.distribution(batch)
            objective = surrogate(*decided(distribution, batch)) * share
            g = g + flatten(torch.autograd.grad(objective, params, retain_graph=len(batches) == 1))
            before += objective.item()
            old.append(distribution.detach())
        distributed.average_(g)
        (before,) = distributed.mean(before)
        if c.fisher_share < 1:
            some = torch.linspace(0, len(steps["log_prob"]) - 1, max(1, int(c.fisher_share * len(steps["log_prob"]))))
            Fv = mean_product(self.policy, self.micro_batches(steps.take(some.long().to(self.device))), params)
        elif len(batches) > 1:
            Fv = mean_product(self.policy, batches, params)
        else:
            Fv = fisher_vector_product(distribution, params)

        def damped(v: Tensor) -> Tensor:
            product = Fv(v)
            distributed.average_(product)
            return product.add_(v, alpha=c.damping)

        s = conjugate_gradient(damped, g, c.cg_iterations)
        step = s * (2 * c.delta / (s @ damped(s))).sqrt()
        start = [p.detach().clone() for p in params]
        kl, after, accepted = 0.0, before, 0.0
        with torch.no_grad():
            for i in range(c.line_search_steps if bool(step.isfinite().all()) else 0):
                fraction = c.backtrack**i
                torch._foreach_copy_(params, torch._foreach_add(start, unflatten(step, params), alpha=fraction))
                kl = after = 0.0
                for (share, batch), previous in zip(batches, old, strict=True):
                    new = self.policy.distribution(batch)
                    after += surrogate(*decided(new, batch)).item() * share
                    kl += previous.kl(new).mean().item() * share
                after, kl = distributed.mean(after, kl)
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
            "entropy": sum(share * part.entropy().mean().item() for (share, _), part in zip(batches, old, strict=True)),
        }

    def micro_batches(self, steps: Batch) -> list[tuple[float, Batch]]:
        """The steps, cut into what one pass has memory for, each part with its share of the decisions."""
        found = self.policy.micro_batches(steps, torch.arange(len(steps["log_prob"])))
        if len(found) == 1:
            return [(1.0, steps)]
        parts = [steps.take(rows.to(self.device)) for rows in found]
        total = len(per_decision(steps["log_prob"]))
        return [(len(per_decision(part["log_prob"])) / total, part) for part in parts]

    def fit_critic(self, obs: Any, ret: Tensor) -> float:
        """Least squares on the returns by minibatch Adam; the last epoch's mean loss."""
        c, n = self.config, len(ret)
        total = torch.zeros((), device=self.device)
        for _ in range(c.critic_epochs):
            order = torch.randperm(n, generator=self.generator, device=self.device)
            shuffled = take_rows(obs, order)
            minibatches = zip(
                map_split(shuffled, c.critic_batch_size), ret[order].split(c.critic_batch_size), strict=True
            )
            total.zero_()
            for obs_b, ret_b in minibatches:
                values, backward = self.critic.with_backward(obs_b)
                error = values - ret_b
                backward(error * (2.0 / len(error)))  # of the mean squared error
                distributed.average_(self.flat_critic.grad)
                self.critic_optimizer.step()
                total += error.square_().sum()
        return float(total) / n
