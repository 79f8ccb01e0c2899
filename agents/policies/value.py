"""State-value and action-value functions on the shared encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.core.arrays import Array, as_array
from agents.core.buffer import Batch, Ragged
from agents.core.spaces import leaves
from agents.encoders import MLP, EncoderConfig, make_encoder, output_and_backward
from agents.encoders.cnn import is_image
from agents.encoders.mlp import output


class ValueFunction(nn.Module):
    """V(observation), [batch].

    encoder: of images and text; where there are none, as among a policy's own features, nothing is made of it.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        encoder: str | EncoderConfig = "cnn",
    ) -> None:
        super().__init__()
        seen = any(is_image(leaf) or isinstance(leaf, spaces.Text) for leaf in leaves(observation_space).values())
        self.encoder = make_encoder(observation_space, encoder if seen else "mlp")
        self.net = MLP(self.encoder.out_dim, hidden, 1, activation)

    def forward(self, obs: Any) -> Tensor:
        return self.net(self.encoder(obs)).squeeze(-1)

    def predict(self, obs: Any) -> Any:
        """V(obs) [batch], without a graph; an array for NumPy arrays."""
        return output(self.encoder, self.net, obs)[:, 0]

    def with_backward(self, obs: Any) -> tuple[Any, Callable[[Any], None]]:
        """V(obs) [batch], and a function that takes dL/dV [batch] and leaves the parameters' gradient in `.grad`."""
        out, backward = output_and_backward(self.encoder, self.net, obs)
        return out[:, 0], lambda grad: backward(grad[:, None])


def map_tree(function: Callable[[Any], Any], obs: Any) -> Any:
    """`function` on every leaf of an observation."""
    if isinstance(obs, Mapping):
        return {name: function(value) for name, value in obs.items()}
    return function(obs)


def map_split(obs: Any, size: int) -> list[Any]:
    """An observation batch cut into minibatches of `size` rows: views, but for text."""
    if isinstance(obs, Mapping):
        names, parts = list(obs), zip(*(map_split(value, size) for value in obs.values()), strict=True)
        return [dict(zip(names, part, strict=True)) for part in parts]
    if isinstance(obs, Ragged):
        return [obs.take(rows) for rows in torch.arange(len(obs), device=obs.lengths.device).split(size)]
    return list(obs.split(size))


def merge_steps(obs: Any) -> Any:
    """An observation's leaves [T, N, ...] as [T * N, ...]; text is laid out so already."""
    return map_tree(lambda x: x if isinstance(x, Ragged) else x.reshape(-1, *x.shape[2:]), obs)


def take_rows(obs: Any, index: Tensor) -> Any:
    """The rows `index` [M] of an observation batch."""

    def rows(x: Any) -> Any:
        if isinstance(x, np.ndarray):  # for which a tensor of one element would be a number
            return x[as_array(index)]
        return x.take(index) if isinstance(x, Ragged) else x[index]

    return map_tree(rows, obs)


@torch.no_grad()
def next_values(value: Callable[[Any], Array], values: Array, rollout: Batch) -> Array:
    """V(next_obs) of a time-major rollout from `values` = V(obs); both [T, N].

    Within an episode next_obs[t] is obs[t + 1], so only the rollout's last row and the rows where an episode was cut
    short are looked at again. It is 0, and means nothing, where terminated.
    """
    terminated, truncated = (as_array(rollout[name]) > 0 for name in ("terminated", "truncated"))
    following = values * 0.0
    following[:-1] = values[1:]
    if not np.count_nonzero(terminated) and not np.count_nonzero(truncated[:-1]):
        T, N = values.shape
        last = torch.arange((T - 1) * N, T * N)
        following[-1] = value(map_tree(lambda x: x.take(last) if isinstance(x, Ragged) else x[-1], rollout.next_obs))
        return following
    look = truncated
    look[-1] = True
    look &= ~terminated
    following[terminated.nonzero()] = 0.0
    t, n = look.nonzero()
    if len(t):
        following[t, n] = value(take_rows(merge_steps(rollout.next_obs), torch.from_numpy(t * values.shape[1] + n)))
    return following


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns), []: 1 is perfect, 0 no better than a constant."""
    return 1 - (returns - values).var() / returns.var()


class ActionValue(nn.Module):
    """Q(observation, action vector), [batch]; the action joins the observation's features.

    sizes: of the blocks of a one-hot action.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_dim: int,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        init: str = "orthogonal",
        output_gain: float = 1.0,
        encoder: str | EncoderConfig = "cnn",
        sizes: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.encoder = make_encoder(observation_space, encoder)
        width = self.encoder.out_dim + action_dim
        self.net = MLP(width, hidden, 1, activation, output_gain=output_gain, init=init)

    def forward(self, obs: Any, action: Tensor) -> Tensor:
        return self.net(torch.cat((self.encoder(obs), action), -1)).squeeze(-1)

    def with_backward(self, obs: Any, action: Tensor) -> tuple[Tensor, Callable[[Tensor], None]]:
        """Q(obs, action) [batch], and a function that takes dL/dQ and leaves the parameters' gradient in `.grad`."""
        if self.encoder.identity and self.net.has_backward:
            out, passed = self.net.torch.trace(obs, action)
            return out.squeeze(-1), lambda grad: self.net.torch.backward(passed, grad[:, None])
        joined = _Joined(self.encoder, action)
        out, backward = output_and_backward(joined, self.net, obs)
        return out.squeeze(-1), lambda grad: backward(grad[:, None])

    def action_gradient(self, obs: Any, action: Tensor) -> tuple[Tensor, Tensor]:
        """Q(obs, action) [batch] and dQ/daction [batch, action_dim]; the parameters' gradients stay as they are.

        The slope of a one-hot action is that of the chord: entry j says by how much Q would rise with choice j in place
        of the one made. The critic only ever sees the corners, and its tangent at one of them says nothing of the
        others: an actor that follows it can settle on a choice that its critic knows to be worse.
        """
        if self.sizes:
            return self._chords(obs, action)
        if self.encoder.identity and self.net.has_backward:
            q, passed = self.net.torch.trace(obs, action)
            return q.squeeze(-1), self.net.torch.input_gradient(passed, torch.ones_like(q), self.encoder.out_dim)
        with torch.enable_grad():
            varied = action.detach().requires_grad_()
            q = self(obs, varied)
            (slope,) = torch.autograd.grad(q.sum(), varied)
        return q.detach(), slope

    @torch.no_grad()
    def _chords(self, obs: Any, action: Tensor) -> tuple[Tensor, Tensor]:
        batch, dim = action.shape
        block = torch.tensor([i for i, size in enumerate(self.sizes) for _ in range(size)], device=action.device)
        kept = action[:, None] * (block[:, None] != block)  # [batch, dim, dim]: the action without choice j's block
        choices = (kept + torch.eye(dim, device=action.device)).flatten(0, 1)
        features = self.encoder(obs).repeat_interleave(dim, 0)
        values = self.net(torch.cat((features, choices), -1)).view(batch, dim)
        first = slice(self.sizes[0])
        q = (values[:, first] * action[:, first]).sum(-1)
        return q, values - q[:, None]


class _Joined(nn.Module):
    """An encoder whose features are followed by a given action vector."""

    def __init__(self, encoder: nn.Module, action: Tensor) -> None:
        super().__init__()
        self.encoder, self.action = encoder, action

    def forward(self, obs: Any) -> Tensor:
        return torch.cat((self.encoder(obs), self.action), -1)
