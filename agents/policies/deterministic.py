"""A deterministic policy, differentiable in its action: bounded Box actions, or categorical ones as one-hot vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from agents.encoders import MLP, EncoderConfig, make_encoder, output_and_backward
from agents.encoders.mlp import output


class DeterministicPolicy(nn.Module):
    """mu(observation), as the vector [batch, dim] that a Q critic takes.

    Box: tanh, in [-1, 1] per dimension; `to_env` maps it onto [low, high], which may differ from one dimension to
    the next and need not be symmetric. Discrete, MultiDiscrete and MultiBinary: one-hot blocks; `with_backward` samples
    them by straight-through Gumbel-softmax (Jang et al. 2017), so that dQ/da reaches the logits.

    sizes: of the one-hot blocks; none for a Box.

    Raises ValueError for other spaces and for a Box without finite bounds.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        hidden: Sequence[int] = (400, 300),
        activation: str = "relu",
        output_range: float = 3e-3,
        encoder: str | EncoderConfig = "cnn",
    ) -> None:
        super().__init__()
        self.action_space = action_space
        self.sizes: tuple[int, ...] = ()
        match action_space:
            case spaces.Box() if np.issubdtype(action_space.dtype, np.floating):
                if not action_space.is_bounded():
                    raise ValueError(f"DDPG needs a Box action space with finite bounds; got {action_space}")
                self.dim = int(torch.Size(action_space.shape).numel())
                # In double precision, so that -1 and 1 are the bounds themselves and not their neighbours.
                low, high = (x.reshape(-1).astype(np.float64) for x in (action_space.low, action_space.high))
                self.center, self.half_range = (high + low) / 2, (high - low) / 2
            case spaces.Discrete():
                self.sizes = (int(action_space.n),)
            case spaces.MultiDiscrete():
                self.sizes = tuple(int(n) for n in action_space.nvec.flatten())
            case spaces.MultiBinary():
                self.sizes = (2,) * int(torch.Size(action_space.shape).numel())
            case _:
                raise ValueError(
                    f"DDPG needs Box, Discrete, MultiDiscrete or MultiBinary actions, or typed ones on screens; "
                    f"got {action_space}"
                )
        self.dim = sum(self.sizes) if self.sizes else self.dim
        self.encoder = make_encoder(observation_space, encoder)
        self.net = MLP(self.encoder.out_dim, hidden, self.dim, activation, output_gain=output_range, init="fan_in")

    def forward(self, obs: Any) -> Tensor:
        """The greedy action, [batch, dim]."""
        out = self.net(self.encoder(obs))
        return self._one_hot(out) if self.sizes else torch.tanh(out)

    def predict(self, obs: Any) -> Tensor:
        """`forward` without a graph, and fast for a few observations."""
        out = output(self.encoder, self.net, obs)
        return self._one_hot(out) if self.sizes else out.tanh_()

    def noise(self, batch: int, generator: torch.Generator) -> Tensor | None:
        """The Gumbel noise [batch, dim] that `with_backward` adds to the logits; None for a Box."""
        return _gumbel((batch, self.dim), generator) if self.sizes else None

    @torch.no_grad()
    def with_backward(
        self, obs: Any, noise: Tensor | None = None, temperature: float = 1.0
    ) -> tuple[Tensor, Callable[[Tensor], None]]:
        """The action [batch, dim] that the actor's loss differentiates, which for a Box is `forward`'s, and a function
        that takes dL/daction and leaves dL/dparameters in the parameters' `.grad`."""
        out, backward = output_and_backward(self.encoder, self.net, obs)
        if noise is None:
            mu = torch.tanh(out)
            return mu, lambda grad: backward(torch.ops.aten.tanh_backward(grad, mu))
        scores = (out + noise).div_(temperature)
        soft = [block.softmax(-1) for block in scores.split(self.sizes, -1)]

        def straight_through(grad: Tensor) -> None:
            """As if the action were `soft`: dL/dlogits = soft * (grad - <grad, soft>) / temperature, by blocks."""
            blocks = zip(grad.split(self.sizes, -1), soft, strict=True)
            slopes = [p * (g - (g * p).sum(-1, keepdim=True)) for g, p in blocks]
            backward(torch.cat(slopes, -1).div_(temperature))

        return self._one_hot(scores), straight_through

    @property
    def continuous(self) -> bool:
        """Whether noise on its actions explores."""
        return not self.sizes

    def explore(
        self, obs: Any, generator: torch.Generator, epsilon: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        """An action with noise [batch, dim] (Box). Or a one-hot sample, [batch, dim]: of the uniform distribution with
        probability epsilon, of the softmax policy otherwise; every block for itself."""
        if not self.sizes:
            greedy = self.predict(obs)
            return greedy if noise is None else greedy.add_(noise).clamp_(-1.0, 1.0)
        logits = output(self.encoder, self.net, obs)
        sampled = self._one_hot(logits + _gumbel(logits.shape, generator))
        if epsilon == 0.0:
            return sampled
        chance = torch.rand(len(logits), len(self.sizes), generator=generator, device=generator.device)
        sizes = torch.tensor(self.sizes, device=generator.device)
        uniform = (chance < epsilon).repeat_interleave(sizes, -1, output_size=self.dim)
        return torch.where(uniform, self.random(len(logits), generator), sampled)

    def _one_hot(self, scores: Tensor) -> Tensor:
        blocks = [F.one_hot(block.argmax(-1), block.shape[-1]) for block in scores.split(self.sizes, -1)]
        return torch.cat(blocks, -1).to(scores.dtype)

    def random(self, batch: int, generator: torch.Generator, obs: Any = None) -> Tensor:
        """Uniform actions, [batch, dim]."""
        uniform = torch.rand(batch, self.dim, generator=generator, device=generator.device)
        return self._one_hot(uniform) if self.sizes else uniform.mul_(2.0).sub_(1.0)

    def to_env(self, action: Tensor, obs: Any = None) -> np.ndarray:
        """Action vectors [batch, dim] as the environment takes them; a Box action is clipped to its bounds."""
        space = self.action_space
        if not self.sizes:
            assert isinstance(space, spaces.Box)
            scaled = action.cpu().numpy() * self.half_range + self.center
            inside = np.minimum(np.maximum(scaled.reshape(-1, *space.shape), space.low), space.high)
            return inside.astype(space.dtype, copy=False)
        index = torch.stack([block.argmax(-1) for block in action.split(self.sizes, -1)], -1).cpu().numpy()
        assert isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary)
        return (index.reshape(-1, *(space.shape or ())) + getattr(space, "start", 0)).astype(space.dtype)

    def from_env(self, actions: Sequence[Any], obs: Any) -> Tensor:
        """The environment's actions as vectors [batch, dim]: `to_env` of them gives the actions back."""
        space, array = self.action_space, np.asarray(actions)
        if not self.sizes:
            offset = array.reshape(len(array), -1) - self.center
            vector = np.divide(offset, self.half_range, out=np.zeros_like(offset), where=self.half_range > 0)
            return torch.from_numpy(vector).clamp(-1.0, 1.0).float()
        start = getattr(space, "start", 0)
        index = torch.from_numpy(np.asarray(array - start, np.int64).reshape(len(array), -1))
        blocks = [F.one_hot(column, n) for column, n in zip(index.unbind(-1), self.sizes, strict=True)]
        return torch.cat(blocks, -1).float()

    def imitation_loss(self, obs: Any, action: Tensor) -> Tensor:
        """How far the policy is from an expert's actions [batch, dim], [batch]: squared error, or cross-entropy."""
        out = self.net(self.encoder(obs))
        if not self.sizes:
            return (torch.tanh(out) - action).square().sum(-1)
        pairs = zip(out.split(self.sizes, -1), action.split(self.sizes, -1), strict=True)
        return torch.stack([F.cross_entropy(logits, wanted, reduction="none") for logits, wanted in pairs]).sum(0)


def _gumbel(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.empty(*shape, device=generator.device).exponential_(generator=generator).log_().neg_()
