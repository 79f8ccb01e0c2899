"""State-value and action-value functions on the shared encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.core.buffer import Batch
from agents.encoders import make_encoder
from agents.encoders.mlp import orthogonal


class ValueFunction(nn.Module):
    """V(observation), [batch]."""

    def __init__(
        self, observation_space: spaces.Space, *, hidden: Sequence[int] = (64, 64), activation: str = "tanh"
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, hidden, activation)
        self.output = nn.Linear(self.encoder.out_dim, 1)
        orthogonal(self.output, 1.0)

    def forward(self, obs: Any) -> Tensor:
        return self.output(self.encoder(obs)).squeeze(-1)


def map_tree(function: Callable[[Any], Any], obs: Any) -> Any:
    """`function` on every leaf of an observation."""
    if isinstance(obs, Mapping):
        return {name: function(value) for name, value in obs.items()}
    return function(obs)


@torch.no_grad()
def rollout_values(value: Callable[[Any], Tensor], rollout: Batch) -> tuple[Tensor, Tensor]:
    """V(obs) and V(next_obs) of a time-major rollout, both [T, N].

    Within an episode next_obs[t] is obs[t + 1], so only the rollout's last row and the rows where an episode was cut
    short are looked at again. V(next_obs) is meaningless (and 0) where terminated.
    """
    T, N = rollout["reward"].shape
    values = value(map_tree(lambda x: x.flatten(0, 1), rollout.obs)).view(T, N)
    next_values = torch.zeros_like(values)
    next_values[:-1] = values[1:]
    ended = rollout["terminated"] + rollout["truncated"] > 0
    next_values[ended] = 0.0
    look = ended & (rollout["terminated"] == 0)
    look[-1] |= rollout["terminated"][-1] == 0
    index = look.flatten().nonzero().squeeze(1)
    if len(index):
        successors = map_tree(lambda x: x.flatten(0, 1)[index], rollout.next_obs)
        next_values.view(-1)[index] = value(successors)
    return values, next_values


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant."""
    variance = returns.var()
    return float(1 - (returns - values).var() / variance) if float(variance) > 0 else float("nan")


class ActionValue(nn.Module):
    """Q(observation, action vector), [batch]; the action joins at the trunk's input."""

    def __init__(
        self,
        observation_space: spaces.Space,
        action_dim: int,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        init: str = "orthogonal",
        output_range: float | None = None,
    ) -> None:
        super().__init__()
        self.encoder = make_encoder(observation_space, hidden, activation, extra_dim=action_dim, init=init)
        self.output = nn.Linear(self.encoder.out_dim, 1)
        if output_range is None:
            orthogonal(self.output, 1.0)
        else:
            nn.init.uniform_(self.output.weight, -output_range, output_range)
            nn.init.uniform_(self.output.bias, -output_range, output_range)

    def forward(self, obs: Any, action: Tensor) -> Tensor:
        return self.output(self.encoder(obs, action)).squeeze(-1)
