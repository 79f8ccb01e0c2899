"""Multi-layer perceptrons."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "elu": F.elu,
    "gelu": F.gelu,
}  # (gradient at the output, output) -> gradient at the input, where the output tells the derivative.
_BACKWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": torch.ops.aten.tanh_backward,
    "relu": lambda grad, out: torch.ops.aten.threshold_backward(grad, out, 0.0),
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
        self.activation = activation
        widths = [in_dim, *hidden, out_dim]
        layers = [nn.Linear(i, o) for i, o in itertools.pairwise(widths)]
        if init == "orthogonal":
            for layer in layers[:-1]:
                orthogonal(layer, 2.0**0.5)
            orthogonal(layers[-1], output_gain)
        else:
            for p in layers[-1].parameters():
                nn.init.uniform_(p, -output_gain, output_gain)
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.activation]
        *hidden, output = self.layers
        for layer in hidden:
            x = activation(F.linear(x, layer.weight, layer.bias))  # type: ignore[arg-type]
        return F.linear(x, output.weight, output.bias)  # type: ignore[arg-type]

    @property
    def has_fast_backward(self) -> bool:
        return self.activation in _BACKWARD

    @torch.no_grad()
    def squared_error_backward(self, x: Tensor, target: Tensor) -> Tensor:
        """Write the gradient of mean (net(x) - target)^2 into the parameters' `.grad`, and return the error [].

        The same numbers as autograd's to rounding. What was in `.grad` before is overwritten, and must be there.
        """
        activation, backward = ACTIVATIONS[self.activation], _BACKWARD[self.activation]
        layers = [(layer.weight, layer.bias) for layer in cast(list[nn.Linear], self.layers)]
        inputs = [x]  # of each layer
        for weight, bias in layers[:-1]:
            inputs.append(activation(torch.addmm(bias, inputs[-1], weight.t())))
        error = torch.addmm(layers[-1][1], inputs[-1], layers[-1][0].t()).sub_(target)
        loss = error.square().mean()
        grad = error.mul_(2.0 / error.numel())
        for i in range(len(layers) - 1, -1, -1):
            weight, bias = layers[i]
            torch.mm(grad.t(), inputs[i], out=weight.grad)
            torch.sum(grad, 0, out=bias.grad)
            if i:
                grad = backward(grad.mm(weight), inputs[i])
        return loss


def orthogonal(layer: nn.Linear | nn.Conv2d, gain: float) -> None:
    """Orthogonal weights with the given gain, and zero bias."""
    nn.init.orthogonal_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
