"""A stochastic policy: encoder, then the distribution that the action space calls for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.core.arrays import as_array
from agents.core.buffer import Batch, Field
from agents.encoders import MLP, EncoderConfig, make_encoder, output_and_backward
from agents.encoders.mlp import output, takes_arrays
from agents.policies.categorical import Bernoulli, MultiCategorical
from agents.policies.gaussian import Gaussian
from agents.policies.numpy_gaussian import NumpyGaussian
from agents.policies.policy import Decisions, Distribution, Policy

MOST_SCREENS = 256  # images or texts that one backward pass has memory for, but for one long segment


class StochasticPolicy(Policy):
    """pi(action | observation) for Box, Discrete, MultiDiscrete and MultiBinary actions.

    Actions are kept as sampled; `to_env` clips Box actions to their bounds and adds a Discrete space's start.
    Raises ValueError for any other action space.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: str = "tanh",
        log_std_init: float = 0.0,
        output_gain: float = 0.01,
        encoder: str | EncoderConfig = "cnn",
    ) -> None:
        super().__init__()
        self.observation_space, self.action_space = observation_space, action_space
        self.sizes = _sizes(action_space)
        self.encoder = make_encoder(observation_space, encoder)
        self.net = MLP(self.encoder.out_dim, hidden, sum(self.sizes), activation, output_gain=output_gain)
        if isinstance(action_space, spaces.Box):
            self.log_std = nn.Parameter(torch.full((sum(self.sizes),), float(log_std_init)))

    def forward(self, obs: Any) -> Distribution:
        return self._distribution(self.net(self.encoder(obs)))

    def with_backward(self, obs: Any) -> tuple[Any, Callable[[tuple[Any, ...]], None]]:
        """pi(. | obs) without a graph, and a function that takes dL/d`distribution.parameters` (each [batch, dim]) and
        leaves the gradient of the policy's parameters in `.grad`. NumPy arrays, where `takes_arrays`, give arrays."""
        out, backward = output_and_backward(self.encoder, self.net, obs)
        if isinstance(out, np.ndarray):
            return NumpyGaussian(out, self._log_std().copy()), lambda grads: self._array_backward(backward, grads)
        distribution = self._distribution(out).detach()

        @torch.no_grad()
        def through(grads: tuple[Tensor, ...]) -> None:
            backward(grads[0])
            if isinstance(self.action_space, spaces.Box):
                torch.sum(grads[1], 0, out=self.log_std.grad)

        return distribution, through

    def _array_backward(self, backward: Callable[[Any], None], grads: tuple[Any, ...]) -> None:
        backward(grads[0])
        assert self.log_std.grad is not None
        np.add.reduce(grads[1], 0, out=self.log_std.grad.numpy())

    def _log_std(self) -> np.ndarray:
        return self.log_std.detach().numpy()

    def takes_arrays(self, rows: int) -> bool:
        """Whether `act` and `with_backward` take so many observations as NumPy arrays, on the CPU."""
        return isinstance(self.action_space, spaces.Box) and takes_arrays(self.encoder, self.net, rows)

    def _distribution(self, out: Tensor) -> Distribution:
        match self.action_space:
            case spaces.Box():
                return Gaussian(out, self.log_std)
            case spaces.MultiBinary():
                return Bernoulli(out)
        return MultiCategorical(out, self.sizes, isinstance(self.action_space, spaces.Discrete))

    def act(
        self, obs: Any, generator: torch.Generator, *, episode_start: np.ndarray | None = None, version: int = 0
    ) -> dict[str, Any]:
        """Sampled actions and their log-probabilities [batch]: arrays for NumPy arrays, where `takes_arrays`."""
        out = output(self.encoder, self.net, obs)
        few = isinstance(out, np.ndarray)
        distribution: Any = NumpyGaussian(out, self._log_std()) if few else self._distribution(out)
        action, log_prob = distribution.sample_with_log_prob(generator)
        return {"action": action, "log_prob": log_prob}

    @torch.inference_mode()
    def choose(self, obs: Any, deterministic: bool, generator: torch.Generator) -> Tensor:
        """Actions for evaluation: the most likely ones, or samples."""
        distribution = self(obs)
        return distribution.mode() if deterministic else distribution.sample(generator)

    def fields(self) -> dict[str, Field]:
        return {"action": Field(*action_field_shape(self.action_space)), "log_prob": Field()}

    def to_env(self, action: Tensor | np.ndarray, obs: Any) -> np.ndarray:
        """Stored actions [batch, ...] as the environment takes them: clipped to a Box, from a Discrete's start on."""
        space, array = self.action_space, as_array(action)
        match space:
            case spaces.Box():
                array = array.reshape(-1, *space.shape)
                return np.minimum(np.maximum(array, space.low), space.high).astype(space.dtype, copy=False)
            case spaces.Discrete() | spaces.MultiDiscrete():
                return (array.reshape(-1, *(space.shape or ())) + space.start).astype(space.dtype, copy=False)
        return array.reshape(-1, *(space.shape or ())).astype(space.dtype, copy=False)

    def from_env(self, actions: Sequence[Any], obs: Any) -> Tensor:
        """The environment's actions as they are stored: `to_env` of it gives them back."""
        space, (shape, dtype) = self.action_space, action_field_shape(self.action_space)
        array = np.asarray(actions)
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            array = array - space.start
        return torch.as_tensor(array).to(dtype).reshape(len(array), *shape)

    def decisions(self, steps: Batch, *, entropy: bool = False) -> Decisions:
        """One for each step; the entropy is exact."""
        distribution = self(steps.obs)
        log_prob = distribution.log_prob(steps["action"])
        with torch.set_grad_enabled(entropy and torch.is_grad_enabled()):
            entropies = distribution.entropy()
        step = torch.arange(len(log_prob), device=log_prob.device)
        return Decisions(log_prob, steps.get("log_prob"), step, entropies, steps.obs)

    def distribution(self, steps: Batch) -> Distribution:
        if not self.encoder.towers():
            return self(steps.obs)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the others have one derivative
            return self(steps.obs)

    def micro_batches(self, steps: Batch, segment: Tensor) -> list[Tensor]:
        if not self.encoder.towers():
            return super().micro_batches(steps, segment)
        sizes = torch.bincount(segment).cpu()
        counts = torch.bincount((sizes.cumsum(0) - sizes) // MOST_SCREENS)  # of segments in each part
        return list(torch.arange(len(sizes)).split(counts[counts > 0].tolist()))

    @property
    def critic_space(self) -> spaces.Space:
        return self.observation_space

    def features(self, steps: Batch) -> Any:
        return steps.obs

    def first_features(self, obs: Any) -> Any:
        return obs


def _sizes(space: spaces.Space) -> tuple[int, ...]:
    """Outputs of the network: one block per categorical, or one block in all."""
    match space:
        case spaces.Discrete():
            return (int(space.n),)
        case spaces.MultiDiscrete():
            return tuple(int(n) for n in space.nvec.flatten())
        case spaces.MultiBinary():
            return (int(torch.Size(space.shape).numel()),)
        case spaces.Box() if np.issubdtype(space.dtype, np.floating):
            return (int(torch.Size(space.shape).numel()),)
    raise ValueError(f"a stochastic policy acts in Box, Discrete, MultiDiscrete and MultiBinary spaces; got {space}")


def action_field_shape(space: spaces.Space) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of one stored action: Box [dim] float32; Discrete [] int64; the others [n] int64."""
    if isinstance(space, spaces.Box):
        return (int(torch.Size(space.shape).numel()),), torch.float32
    if isinstance(space, spaces.Discrete):
        return (), torch.int64
    return (int(torch.Size(space.shape or ()).numel()),), torch.int64
