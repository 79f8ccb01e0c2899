"""Multi-layer perceptrons."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.encoders import torch_mlp
from agents.encoders.numpy_mlp import FEW_MULTIPLICATIONS, FEW_ROWS, NumpyMLP
from agents.encoders.torch_mlp import TorchMLP

# In place where autograd allows it: they follow a linear layer, whose output nobody else needs.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **torch_mlp.ACTIVATIONS,
    "elu": F.elu_,
    "gelu": F.gelu,
}


class MLP(nn.Module):
    """Linear layers with an activation between them: [batch, in_dim] to [batch, out_dim].

    hidden: widths of the hidden layers. init: "orthogonal" (gain sqrt 2, output layer `output_gain`, zero bias) or
    "fan_in" (PyTorch's uniform +-1/sqrt(fan_in), output layer uniform +-output_gain, as in the DDPG paper).
    Raises ValueError for an unknown activation.
    """

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        activation: str = "tanh",
        *,
        output_gain: float = 1.0,
        init: str = "orthogonal",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is one of {', '.join(ACTIVATIONS)}; got {activation!r}")
        if any(width < 1 for width in hidden):
            raise ValueError(f"every hidden layer needs a width of at least 1; got {tuple(hidden)}")
        self.activation = activation
        widths = [in_dim, *hidden, out_dim]
        self.size = sum(i * o for i, o in itertools.pairwise(widths))  # multiplications a row
        layers = [nn.Linear(i, o) for i, o in itertools.pairwise(widths)]
        if init == "orthogonal":
            for layer in layers[:-1]:
                orthogonal(layer, 2.0**0.5)
            orthogonal(layers[-1], output_gain)
        else:
            for p in layers[-1].parameters():
                nn.init.uniform_(p, -output_gain, output_gain)
        self.layers = nn.ModuleList(layers)
        for layer in layers:  # by columns with the bias behind them, as its passes like it
            both = torch.cat((layer.weight.data.t(), layer.bias.data[None]))
            layer.weight.data, layer.bias.data = both[:-1].t(), both[-1]
        parameters = [(layer.weight, layer.bias) for layer in layers]
        self.torch, self.numpy = TorchMLP(parameters, activation), NumpyMLP(parameters, activation)

    def forward(self, x: Tensor) -> Tensor:
        if self.has_backward and x.dim() == 2 and not torch.is_grad_enabled():
            return self.torch.forward(x)
        activation = ACTIVATIONS[self.activation]
        *hidden, output = self.layers
        for layer in hidden:
            x = activation(F.linear(x, layer.weight, layer.bias))  # type: ignore[arg-type]
        return F.linear(x, output.weight, output.bias)  # type: ignore[arg-type]

    @property
    def has_backward(self) -> bool:
        """Whether `torch` and `numpy` have its passes."""
        return self.activation in torch_mlp.ACTIVATIONS


def output(encoder: nn.Module, net: MLP, obs: Any) -> Any:
    """net(encoder(obs)) without a graph; NumPy arrays, for which `takes_arrays` must hold, give an array."""
    if isinstance(obs, np.ndarray):
        return net.numpy.forward(obs)
    if _numpy_serves(encoder, net, obs):
        return torch.from_numpy(net.numpy.forward(obs.numpy()))
    with torch.no_grad():
        return net(encoder(obs))


def output_and_backward(encoder: nn.Module, net: MLP, obs: Any) -> tuple[Any, Callable[[Any], None]]:
    """net(encoder(obs)), and a function that takes dL/doutput and leaves dL/dparameters in the parameters' `.grad`.

    Vector observations take the network's own backward pass (few of them NumPy's), all others autograd. NumPy arrays,
    for which `takes_arrays` must hold, give an array, and the function takes one.
    """
    if isinstance(obs, np.ndarray):
        array, layers = net.numpy.trace(obs)
        return array, lambda grad: net.numpy.backward(layers, grad)
    if _numpy_serves(encoder, net, obs):
        few, traced = net.numpy.trace(obs.numpy())
        return torch.from_numpy(few), lambda grad: net.numpy.backward(traced, grad.numpy())
    if getattr(encoder, "identity", False) and net.has_backward:
        out, passed = net.torch.trace(obs)
        return out, lambda grad: net.torch.backward(passed, grad)
    with torch.enable_grad():
        graph = net(encoder(obs))

    def backward(grad: Tensor) -> None:
        for p in (*encoder.parameters(), *net.parameters()):
            if p.grad is not None:
                p.grad.zero_()
        graph.backward(grad)

    return graph.detach(), backward


def takes_arrays(encoder: nn.Module, net: MLP, rows: int) -> bool:
    """Whether so many rows are few vectors for a small network that has its passes in NumPy."""
    if not (getattr(encoder, "identity", False) and net.has_backward):
        return False
    return rows <= FEW_ROWS and rows * net.size <= FEW_MULTIPLICATIONS


def _numpy_serves(encoder: nn.Module, net: MLP, obs: Any) -> bool:
    return takes_arrays(encoder, net, len(obs)) and obs.is_cpu


def orthogonal(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    """Orthogonal weights with the given gain, and zero bias."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
