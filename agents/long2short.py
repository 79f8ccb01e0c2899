"""long2short: what a policy that thinks at length can do in fewer tokens (Kimi Team 2025, arXiv:2501.12599, 2.4).

    average      the weights of a long and a short model, halfway
    rejection    several responses to a problem; the shortest right one becomes a demonstration
    DPO          the shortest right one is preferred to longer wrong ones and to right ones 1.5 times as long

The fourth way, a second phase of reinforcement learning with the length reward and a smaller maximum length, is Kimi
itself with other settings. All of it is said of episodes and their decisions, so that other policies than language
models can be taught to be brief as well.

Left out: DPO on several rounds of fresh responses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from torch import Tensor, nn
from torch.nn import functional as F

from agents.cloning import Config as ImitationConfig
from agents.cloning import Imitator
from agents.core.agent import Agent
from agents.core.buffer import Buffer, Episodes
from agents.core.collector import Collector, transition_schema
from agents.core.errors import check_settings
from agents.core.tasks import TaskSampler
from agents.policies.policy import episode_decisions, per_decision

SUCCESS = 1.0  # return from which an episode counts as right
LONGER = 1.5  # how many times as long a right response must be for the shortest one to be preferred to it


@dataclass(frozen=True)
class Config:
    """Settings of the two ways that learn from samples."""

    epochs: int = 2
    """Passes over the demonstrations or pairs."""
    batch_size: int = 64
    """Demonstrations or pairs per gradient step."""
    learning_rate: float = 1e-4
    """Step size (Adam)."""
    max_grad_norm: float = 1.0
    """Longest gradient; longer ones are scaled down."""
    beta: float = 0.1
    """DPO: strength of the KL to the policy that the responses are drawn from."""
    nll_weight: float = 1.0
    """DPO: weight of the preferred response's negative log-likelihood per token; 0: none."""

    def __post_init__(self) -> None:
        positive = [name for name in vars(self) if name != "nll_weight"]
        check_settings(self, "long2short", positive=positive, from_zero=("nll_weight",))


def average(agent: Agent, other: Agent, weight: float = 0.5) -> None:
    """Move the policy of `agent` to (1 - weight) of its own parameters plus weight of the other's.

    Raises ValueError where the two differ in architecture.
    """
    theirs = dict(other.policy.named_parameters())
    mine = dict(agent.policy.named_parameters())
    shapes = [{name: tuple(p.shape) for name, p in params.items()} for params in (mine, theirs)]
    if shapes[0] != shapes[1]:
        name = next(n for n in sorted(shapes[0] | shapes[1]) if shapes[0].get(n) != shapes[1].get(n))
        raise ValueError(
            f"only models of the same architecture can be averaged: {name} is {shapes[0].get(name, 'absent')} in one, "
            f"{shapes[1].get(name, 'absent')} in the other"
        )
    with torch.no_grad():
        for name, p in mine.items():
            p.lerp_(theirs[name].to(p.device), weight)
    agent.imitated()


# --- samples --------------------------------------------------------------------------------------------------------


def sample_groups(agent: Agent, env: VectorEnv, problems: int, samples: int, *, seed: int = 0) -> Episodes:
    """`samples` episodes of the present policy on each of `problems` training tasks, which form groups.

    Their steps have `obs`, `action` and `log_prob` (of every decision, as drawn).
    """
    tasks = TaskSampler(samples, seed=seed)
    schema = transition_schema(env, agent.policy.fields(), episodes=True)
    buffer = Buffer(schema, 64, env.num_envs)
    collector = Collector(env, _Sampler(agent, seed), buffer, tasks=tasks)
    going = True
    while going:  # a row at a time: an episode may take any number of them
        agent.policy.renew()
        collector.collect(1)
        going = len(tasks.whole_groups(in_order=True)) < problems
    groups = torch.tensor(tasks.whole_groups(in_order=True)[:problems])
    episodes = buffer.episodes([name for name in schema if not name.startswith("next_obs")])
    return episodes.take(torch.isin(episodes.group_id, groups).nonzero().squeeze(1))


class _Sampler:
    """An agent's policy as a collector's actor, with random numbers of its own."""

    def __init__(self, agent: Agent, seed: int) -> None:
        self.agent, self.device = agent, agent.device
        self.generator = torch.Generator(agent.device).manual_seed(seed)

    def act(self, obs: Any, episode_start: np.ndarray) -> Mapping[str, Any]:
        agent = self.agent
        fields: Mapping[str, Any] = agent.policy.act(agent.normalizer(obs), self.generator, episode_start=episode_start)
        return fields

    def to_env(self, action: Any, obs: Any) -> Any:
        return self.agent.policy.to_env(action, obs)


def shortest_correct(length: Tensor, correct: Tensor, group: Tensor) -> Tensor:
    """Indices of the shortest right episode of each group that has one, the first of equals; all arguments [E]."""
    order = torch.argsort(length, stable=True)
    order = order[correct[order]]
    order = order[torch.argsort(group[order], stable=True)]
    found = group[order]
    first = torch.ones_like(found, dtype=torch.bool)
    first[1:] = found[1:] != found[:-1]
    return order[first]


def preference_pairs(length: Tensor, correct: Tensor, group: Tensor) -> Tensor:
    """Pairs (preferred, rejected) of episodes, int64 [pairs, 2]; all arguments [E].

    Preferred is the shortest right one of a group; rejected are the group's wrong ones that are longer, and right ones
    at least `LONGER` times as long.
    """
    best = shortest_correct(length, correct, group)
    same = group[best][:, None] == group  # [groups, E]
    shortest = length[best][:, None]
    rejected = same & torch.where(correct, length >= LONGER * shortest, length > shortest)
    row, loser = rejected.nonzero(as_tuple=True)
    return torch.stack([best[row], loser], 1)


# --- learning from them ---------------------------------------------------------------------------------------------


def imitate_shortest(agent: Agent, episodes: Episodes, config: Config, generator: torch.Generator) -> dict[str, float]:
    """Shortest-rejection sampling: clone the shortest right episode of every group.

    Raises ValueError where none is right.
    """
    best = shortest_correct(episode_decisions(episodes), episodes.ret >= SUCCESS, episodes.group_id)
    if not len(best):
        raise ValueError(f"none of {len(episodes)} episodes is right: there is nothing to learn from")
    settings = ImitationConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        max_grad_norm=config.max_grad_norm,
    )
    metrics = Imitator(agent, settings).fit(episodes.take(best).steps, generator)
    agent.imitated()
    return {"demonstrations": float(len(best)), **metrics}


def dpo_loss(preferred: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """mean -log sigmoid(beta (preferred - rejected)) (Rafailov et al. 2023, eq. 7), a scalar.

    preferred, rejected [pairs]: log pi(y|x) / pi_ref(y|x) of whole responses.
    """
    return -F.logsigmoid(beta * (preferred - rejected)).mean()


def prefer_shortest(agent: Agent, episodes: Episodes, config: Config, generator: torch.Generator) -> dict[str, float]:
    """DPO on the pairs of `preference_pairs`; the reference is the policy that drew the episodes.

    Where all that is preferred is short, DPO alone soon makes answers shorter than any that was, and wrong: its
    loss falls as long as the rejected ones become less likely still. The likelihood of the preferred ones is therefore
    part of the loss (Pang et al. 2024, eq. 1).

    The metrics are those of the last pass; `won` is the share of pairs whose preferred response gained on the other.
    Raises ValueError where there is no pair.
    """
    pairs = preference_pairs(episode_decisions(episodes), episodes.ret >= SUCCESS, episodes.group_id)
    if not len(pairs):
        raise ValueError(f"{len(episodes)} episodes give no pair: no right one beside a longer one in its group")
    params = [p for p in agent.policy.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(params, lr=config.learning_rate, fused=True)
    batches, totals = 0, torch.zeros(3, device=agent.device)
    for epoch in range(config.epochs):
        for index in torch.randperm(len(pairs), generator=generator).split(config.batch_size):
            found = _dpo_step(agent, episodes, pairs[index], config, params, optimizer)
            if epoch == config.epochs - 1:
                totals += found
                batches += 1
    agent.imitated()
    loss, won, norm = (totals / batches).tolist()
    return {"pairs": float(len(pairs)), "loss": loss, "won": won, "grad_norm": norm}


def _dpo_step(
    agent: Agent,
    episodes: Episodes,
    pairs: Tensor,
    config: Config,
    params: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> Tensor:
    """One gradient step; its loss, the share of pairs won, and the gradient's norm before it is cut."""
    both = episodes.take(pairs.flatten())  # preferred and rejected by turns
    for p in params:  # kept, as an agent may have laid them into one vector
        if p.grad is not None:
            p.grad.zero_()
    totals = torch.zeros(2, device=agent.device)
    for rows in agent.policy.micro_batches(both.steps, both.segment // 2):
        part = both.take(torch.stack([2 * rows, 2 * rows + 1], 1).flatten())
        steps, segment = part.steps.to(agent.device), part.segment.to(agent.device)
        found = agent.policy.decisions(steps.with_obs(agent.normalizer(steps.obs)))
        behaviour, owner = per_decision(steps["log_prob"]), segment[found.step]
        zeros = torch.zeros(len(part), device=agent.device)
        ratio = zeros.index_add(0, owner, found.log_prob - behaviour).view(-1, 2)
        share = len(rows) / len(pairs)
        loss = dpo_loss(ratio[:, 0], ratio[:, 1], config.beta) * share
        if config.nll_weight:
            nll = -zeros.index_add(0, owner, found.log_prob) / episode_decisions(part).to(agent.device)
            loss = loss + config.nll_weight * nll[::2].mean() * share
        loss.backward()
        won = (ratio[:, 0] > ratio[:, 1]).float().mean() * share
        totals += torch.stack([loss.detach(), won.detach()])
    norm = nn.utils.clip_grad_norm_(params, config.max_grad_norm)
    optimizer.step()
    return torch.cat([totals, norm[None]])
