"""A multi-layer perceptron's passes in NumPy, on the CPU weights and gradients that torch holds.

For a few rows, as in acting and in small updates: there the time goes into calls, and a NumPy call costs a third of a
torch call. Equal to torch's passes up to rounding. Left out: activations other than tanh and relu.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

# Up to here NumPy is the faster; beyond, the products outweigh the calls, and torch's are at least as fast.
FEW_ROWS = 128
FEW_MULTIPLICATIONS = 2**20

_ONES = np.ones(FEW_ROWS, np.float32)

Arrays = list[tuple[np.ndarray, np.ndarray]]


class NumpyMLP:
    """The network whose layers have these `parameters` (weight [out, in], bias [out]).

    `trace` and `backward` do what `MLP`'s do, on arrays.
    """

    def __init__(self, parameters: Sequence[tuple[Tensor, Tensor]], activation: str) -> None:
        self.parameters, self.activation = parameters, activation
        self._seen: tuple[int, Arrays] | None = None
        self._seen_grads: tuple[int, Arrays] | None = None

    def forward(self, x: np.ndarray) -> np.ndarray:
        """[batch, in_dim] to [batch, out_dim]."""
        return self.trace(x)[0]

    def trace(self, x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
        """The output, and the input of every layer."""
        *hidden, (weight, bias) = self._weights()
        inputs = [x]
        for w, b in hidden:
            x = x @ w.T
            x += b
            x = np.tanh(x, out=x) if self.activation == "tanh" else np.maximum(x, 0.0, out=x)
            inputs.append(x)
        out = x @ weight.T
        out += bias
        return out, inputs

    def backward(self, inputs: list[np.ndarray], grad: np.ndarray) -> None:
        """Write dL/dparameters into their `.grad` (which must be there) from dL/doutput, [batch, out_dim]."""
        weights, grads = self._weights(), self._gradients()
        for i in range(len(inputs) - 1, -1, -1):
            x, (into_weight, into_bias) = inputs[i], grads[i]
            np.matmul(x.T, grad, out=into_weight.T)  # the weights lie by columns
            np.matmul(_ONES[: len(grad)], grad, out=into_bias)  # the sum over the batch, several times as fast
            if i:
                grad = grad @ weights[i][0]
                grad *= 1.0 - x * x if self.activation == "tanh" else x > 0.0

    def _weights(self) -> Arrays:
        """Views, made anew when the parameters have moved."""
        at = self.parameters[0][0].data_ptr()
        if self._seen is None or self._seen[0] != at:
            self._seen = at, [(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in self.parameters]
        return self._seen[1]

    def _gradients(self) -> Arrays:
        first = self.parameters[0][0].grad
        assert first is not None
        at = first.data_ptr()
        if self._seen_grads is None or self._seen_grads[0] != at:
            self._seen_grads = at, [(_grad(weight), _grad(bias)) for weight, bias in self.parameters]
        return self._seen_grads[1]


def _grad(parameter: Tensor) -> np.ndarray:
    assert parameter.grad is not None
    return parameter.grad.numpy()
