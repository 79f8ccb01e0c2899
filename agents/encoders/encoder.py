"""One function from an observation space to a module that gives features; what follows is the policy's own MLP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.core.spaces import leaves
from agents.encoders.cnn import CNN, is_image


def make_encoder(space: spaces.Space) -> Encoder:
    """An encoder for `space`.

    Raises ValueError for a leaf that has no numeric features (Text needs a language policy).
    """
    return Encoder(space)


class Encoder(nn.Module):
    """Features of every leaf, concatenated in the space's order: [batch, out_dim]."""

    def __init__(self, space: spaces.Space) -> None:
        super().__init__()
        named = leaves(space)
        self.names = list(named)
        self.single = self.names == [""]
        self.leaves = nn.ModuleDict({_key(name): _leaf_encoder(leaf) for name, leaf in named.items()})
        self.out_dim = sum(cast(int, module.out_dim) for module in self.leaves.values())
        # One float vector and nothing else is by far the most frequent case, and rollouts are bound by call overhead.
        self.identity = (
            isinstance(space, spaces.Box) and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating)
        )

    def forward(self, obs: Any) -> Tensor:
        if self.identity:
            return obs
        named: Mapping[str, Tensor] = {"": obs} if self.single else obs
        parts = [self.leaves[_key(name)](named[name]) for name in self.names]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _key(name: str) -> str:
    return "obs_" + name.replace(".", "/")


def _leaf_encoder(space: spaces.Space) -> nn.Module:
    if is_image(space):
        return CNN(space.shape)  # type: ignore[arg-type]
    match space:
        case spaces.Box() | spaces.MultiBinary():
            return _Vector(space)
        case spaces.Discrete():
            return _OneHot([int(space.n)], [int(space.start)])
        case spaces.MultiDiscrete():
            return _OneHot([int(n) for n in space.nvec.flatten()], [int(s) for s in space.start.flatten()])
    raise ValueError(
        f"the encoder takes Box, Discrete, MultiDiscrete and MultiBinary observations, alone or in a Dict or Tuple; "
        f"got {space}. Text needs a language policy."
    )


class _Vector(nn.Module):
    def __init__(self, space: spaces.Space) -> None:
        super().__init__()
        self.out_dim = int(torch.Size(space.shape or ()).numel())

    def forward(self, x: Tensor) -> Tensor:
        return x.float().flatten(1) if x.dim() > 1 else x.float()[:, None]


class _OneHot(nn.Module):
    def __init__(self, sizes: Sequence[int], starts: Sequence[int]) -> None:
        super().__init__()
        self.sizes, self.starts, self.out_dim = list(sizes), list(starts), sum(sizes)

    def forward(self, x: Tensor) -> Tensor:
        columns = x.flatten(1) if x.dim() > 1 else x[:, None]
        hot = [
            nn.functional.one_hot(columns[:, i] - start, size)
            for i, (size, start) in enumerate(zip(self.sizes, self.starts, strict=True))
        ]
        return torch.cat(hot, dim=1).float()
