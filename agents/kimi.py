"""Kimi k1.5 policy optimisation (Kimi Team 2025, arXiv:2501.12599, section 2.3) on any environment.

    maximise  E[ r(x, y) ] - tau KL(pi || pi_i)

x is a task (a reset seed, a prompt), y a whole episode, k of which make a group, and pi_i the policy at the start of
iteration i. The maximiser pi_i exp(r / tau) / Z satisfies r - tau log Z = tau log(pi / pi_i), whence the loss

    L = E_x E_{y ~ pi_i} [ ( r(x, y) - tau log Z - tau log( pi(y|x) / pi_i(y|x) ) )^2 ]

log pi(y|x) is the log-probability of the whole sequence: a sum over the episode's steps (a text response is one step,
and its log-probability the sum over its tokens). There is no critic and no credit for single steps.

Left out: a replay of earlier iterations' episodes, and any form of the loss per token or per unit of length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from agents.core import distributed
from agents.core.agent import Agent
from agents.core.buffer import Episodes, Field
from agents.core.errors import check_settings
from agents.core.flat import FlatParameters
from agents.core.normalizer import ObservationNormalizer, RunningMoments
from agents.core.returns import group_advantage, length_reward
from agents.core.tasks import SAMPLING, TaskSampler
from agents.policies import PolicyConfig, make_policy
from agents.policies.policy import episode_decisions, per_decision


@dataclass
class Config(PolicyConfig):
    """Settings of Kimi."""

    group_size: int = 8
    """k: episodes from the same task (reset seed, prompt)."""
    groups_per_iteration: int = 8
    """Whole groups that one iteration learns from."""
    tau: float = 0.1
    """Strength of the KL to the policy at the iteration's start, in units of (scaled) reward per nat."""
    baseline: Literal["mean", "log-z"] = "mean"
    """Estimate of tau log Z: the group's mean reward, or tau log mean exp(reward / tau)."""
    learning_rate: float | None = None
    """Step size (Adam); None: 1e-3, for a language model 1e-4."""
    epochs: int = 4
    """Passes over the episodes in one iteration; in a single step tau has no effect."""
    minibatch_size: int = 16
    """Episodes per gradient step."""
    max_grad_norm: float = 1.0
    """Longest gradient (of L / 2 tau); longer ones are scaled down."""
    reset_optimizer: bool = True
    """Start every iteration with a fresh optimiser, as the reference policy is fresh too."""
    sampling: Literal["uniform", "curriculum", "prioritised"] = "uniform"
    """How tasks are drawn: all alike, easy to hard, or in proportion to 1 - success rate."""
    difficulty_levels: tuple[int, int] | None = None
    """Levels to draw from; None: for uniform the environment's own, otherwise from its easiest to its own."""
    task_pool: int = 0
    """Number of different tasks to train on; 0: a new one for every group."""
    success_return: float = 1.0
    """Return from which an episode counts as a success, for sampling and for the length reward."""
    length_reward_weight: float = 0.0
    """Weight of the length reward."""
    length_reward_warmup: int = 0
    """Iterations before the length reward is switched on."""
    scale_returns: bool = True
    """Divide returns by their running standard deviation, so that tau means the same on every task. Never for text,
    where a return is a verdict."""
    partial_rollouts: bool = True
    """Let unfinished episodes go on in the next iteration with the newer policy; otherwise they are dropped."""
    step_budget: int = 0
    """Environment steps that end an iteration's collection even if fewer groups are whole; 0: no such limit."""
    drop_old_segments: bool = False
    """Leave the steps that older policies took out of the loss."""
    skip_equal_groups: bool = True
    """Leave out groups whose episodes all have the same reward: they say nothing about what is better."""
    positives_only: bool = False
    """Learn only from episodes above their group's baseline (ReST): the ablation of negative gradients."""
    normalize_observations: bool = True
    """Observations by their running mean and standard deviation."""
    token_budget: int = 0
    """Text: tokens that end an iteration's collection, unfinished responses going on in the next; 0: no limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_settings(
            self,
            "kimi",
            positive=("groups_per_iteration", "tau", "learning_rate", "epochs", "minibatch_size", "max_grad_norm"),
            from_zero=("task_pool", "step_budget", "token_budget", "length_reward_warmup"),
            one_of={"baseline": ("mean", "log-z"), "sampling": SAMPLING},
        )
        if self.group_size < 2:
            raise ValueError(f"kimi: group_size must be at least 2, or nothing can be compared; got {self.group_size}")
        if (self.step_budget or self.token_budget) and not self.partial_rollouts:
            raise ValueError("kimi: step_budget and token_budget leave episodes unfinished, set partial_rollouts")


def kimi_loss(
    log_prob_sum: Tensor,
    reference_log_prob_sum: Tensor,
    reward: Tensor,
    group: Tensor,
    tau: float,
    baseline: str = "mean",
) -> Tensor:
    """L of whole groups, a scalar; everything else [E], one entry an episode.

    Its gradient is -2 tau times the paper's equation 3, the direction in which to change the policy.
    """
    adv = group_advantage(reward, group, tau, baseline)
    return surrogate(log_prob_sum - reference_log_prob_sum, adv, tau)


def surrogate(log_ratio: Tensor, adv: Tensor, tau: float) -> Tensor:
    """mean (r - baseline - tau log(pi / pi_i))^2 given adv = r - baseline; both [E]."""
    return (adv - tau * log_ratio).square().mean()


class Kimi(Agent):
    """Kimi k1.5 for Box, Discrete, MultiDiscrete, MultiBinary and Text actions (a language model answers text)."""

    name = "kimi"
    Config = Config

    def build(self) -> None:
        c = self.config
        if distributed.world() > 1:
            raise ValueError(
                "kimi learns in one process, as its groups end at different times; "
                "trpo, actor-critic and ddpg take several"
            )
        self.policy = make_policy(
            self.observation_space,
            self.action_space,
            c,
            seed=self.seed,
            device=self.device,
            token_budget=c.token_budget,
        )
        self.flat = FlatParameters(self.policy)
        rate = c.learning_rate or self.policy.typical_rate
        self.optimizer = torch.optim.Adam([self.flat.vector], lr=rate, fused=True)
        self.normalizer = ObservationNormalizer(self.observation_space, enabled=c.normalize_observations).to(
            self.device
        )
        self.returns = RunningMoments(())
        self.sampler = TaskSampler(
            c.group_size, seed=self.seed, sampling=c.sampling, levels=c.difficulty_levels, pool=c.task_pool
        )

    def parts(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "optimizer": self.optimizer,
            "normalizer": self.normalizer,
            "returns": self.returns,
            "tasks": self.sampler,
        }

    def schema(self) -> dict[str, Field]:
        # A policy whose decisions may be older than their step has a version of its own for each.
        return {"version": Field((), torch.int64), **self.policy.fields()}

    # --- collecting ---------------------------------------------------------------------------------------------

    def tasks(self) -> TaskSampler:
        """The sampler, set to the levels of the environment at hand. Raises ValueError where it needs some in vain."""
        c, levels = self.config, getattr(self.env, "levels", None)
        if c.difficulty_levels is not None and levels is None:
            raise ValueError(
                "kimi: difficulty_levels needs an environment with levels of difficulty; this one has none"
            )
        if c.difficulty_levels is None and c.sampling != "uniform" and levels is not None:
            low, high = self.env.difficulty  # type: ignore[union-attr]
            self.sampler.levels = (levels[0] if low == high else low), high
        return self.sampler

    def rows_per_iteration(self) -> int:
        budget = self.config.step_budget or max(self.total_timesteps, 1)  # an episode may never end
        return -(-budget // self.num_envs)

    def buffer_rows(self) -> int:
        return 256  # it grows with what the groups need

    def enough(self) -> bool:
        whole = self.sampler.whole_groups(in_order=not self.config.partial_rollouts)
        return len(whole) >= self.config.groups_per_iteration or self.policy.exhausted

    def act(self, obs: Any, episode_start: np.ndarray) -> Mapping[str, Any]:
        fields = self.policy.act(
            self.normalizer(obs), self.generator, episode_start=episode_start, version=self.iterations
        )
        return {"version": np.full(len(episode_start), self.iterations), **fields}

    # --- learning -----------------------------------------------------------------------------------------------

    def update(self) -> dict[str, float]:
        c, buffer, collector = self.config, self.buffer, self.collector
        assert buffer is not None
        assert collector is not None
        episodes = self.take_groups()
        metrics = self.improve_policy(episodes) if len(episodes) else {}
        buffer.forget(episodes.episode_id)
        self.policy.renew()
        self.normalizer.update(buffer.rollout().flat().obs)
        buffer.clear()
        if not c.partial_rollouts:
            collector.reset()
        return metrics

    def take_groups(self) -> Episodes:
        """The episodes of whole groups, whose success goes to the sampler."""
        c, buffer, sampler = self.config, self.buffer, self.sampler
        assert buffer is not None
        groups = sampler.whole_groups(in_order=not c.partial_rollouts)
        if not c.partial_rollouts:
            groups = groups[: c.groups_per_iteration]
        finished = buffer.episodes([name for name in buffer.schema if not name.startswith("next_obs")])
        episodes = finished.take(torch.isin(finished.group_id, torch.tensor(groups)).nonzero().squeeze(1))
        success = episodes.ret >= c.success_return
        for group in groups:
            sampler.record(group, int(success[episodes.group_id == group].sum()))
        return episodes

    def improve_policy(self, episodes: Episodes) -> dict[str, float]:
        """Several epochs of minibatch descent on L, all against the same reference."""
        c = self.config
        reward = self.rewards(episodes)
        adv = group_advantage(reward, episodes.group_id, c.tau, c.baseline)
        keep, group_std, skipped = self.informative(reward, episodes.group_id)
        success = episodes.ret >= c.success_return
        solved = torch.isin(episodes.group_id, episodes.group_id[success])  # by one of the group at least
        metrics = {
            "episodes": float(len(episodes)),
            "steps": float(len(episodes.segment)),
            "length": float(episode_decisions(episodes).float().mean()),
            "success_rate": float(success.float().mean()),
            f"pass_at_{c.group_size}": float(solved.float().mean()),
            "group_std": group_std,
            "skipped_groups": skipped,
            "old": float((per_decision(episodes.steps["version"]) < self.iterations).float().mean()),
        }
        if c.positives_only:
            keep &= adv > 0
        used = keep.nonzero().squeeze(1)
        batches, totals = 0, torch.zeros(4, device=self.device)
        for epoch in range(c.epochs if len(used) else 0):
            for index in used[self.shuffled(episodes.group_id[used])].split(c.minibatch_size):
                found = self.train_step(episodes.take(index), adv[index].to(self.device))
                if epoch == c.epochs - 1:
                    totals += torch.stack(found)
                    batches += 1
        if batches:
            names = ("loss", "kl", "entropy", "grad_norm")
            metrics |= dict(zip(names, (totals / batches).tolist(), strict=True))
        if c.reset_optimizer:
            self.optimizer.state.clear()
        return metrics

    def shuffled(self, group: Tensor) -> Tensor:
        """An order of episodes [E] at random in which groups stay together, for their prompts are computed but once."""
        order = torch.randperm(len(group), generator=self.generator, device=self.device).cpu()
        _, index = torch.unique(group[order], return_inverse=True)
        rank = torch.randperm(int(index.max()) + 1, generator=self.generator, device=self.device).cpu()
        return order[torch.argsort(rank[index], stable=True)]

    def rewards(self, episodes: Episodes) -> Tensor:
        """r(x, y), [E]: the scaled return, and the length reward once its warm-up is over."""
        c, reward = self.config, episodes.ret
        if c.scale_returns and not self.policy.judged:
            self.returns.update(reward.numpy())
            reward = reward / float((self.returns.var + 1e-8) ** 0.5)
        if c.length_reward_weight and self.iterations >= c.length_reward_warmup:
            correct = episodes.ret >= c.success_return
            shortness = length_reward(episode_decisions(episodes), correct, episodes.group_id)
            reward = reward + c.length_reward_weight * shortness
        return reward

    def informative(self, reward: Tensor, group: Tensor) -> tuple[Tensor, float, float]:
        """Which episodes to learn from [E], the groups' mean standard deviation, and the share of groups left out."""
        _, index = torch.unique(group, return_inverse=True)
        rows = reward[torch.argsort(index, stable=True)].view(-1, self.config.group_size)
        equal = rows.amax(1) == rows.amin(1)
        keep = ~equal[index] if self.config.skip_equal_groups else torch.ones_like(reward, dtype=torch.bool)
        return keep, float(rows.std(1, correction=0).mean()), 1.0 - float(keep.float().mean())

    def train_step(self, episodes: Episodes, adv: Tensor) -> list[Tensor]:
        """One gradient step; loss, KL(pi_i || pi) of a sequence, mean entropy and gradient norm before it."""
        c = self.config
        self.flat.zero_grad()
        totals = torch.zeros(3, device=self.device)
        for rows in self.policy.micro_batches(episodes.steps, episodes.segment):
            part = episodes.take(rows)
            steps, segment = part.steps.to(self.device), part.segment.to(self.device)
            found = self.policy.decisions(steps.with_obs(self.normalizer(steps.obs)))
            assert found.behaviour is not None
            # Summing the differences, not the log-probabilities, keeps the digits of a long episode.
            difference = found.log_prob - found.behaviour
            if c.drop_old_segments:
                difference = difference * (per_decision(steps["version"]) == self.iterations)
            log_ratio = torch.zeros(len(rows), device=self.device).index_add(0, segment[found.step], difference)
            share = len(rows) / len(episodes)
            loss = surrogate(log_ratio, adv[rows.to(self.device)], c.tau) * share
            (loss / (2 * c.tau)).backward()  # minus the paper's gradient, whatever tau
            with torch.no_grad():
                kl = (difference.expm1() - difference).sum() / len(episodes)
                totals += torch.stack([loss.detach(), kl, found.entropy.mean() * share])
        norm = self.flat.clip_grad(c.max_grad_norm)
        self.optimizer.step()
        return [*totals.unbind(), norm]
