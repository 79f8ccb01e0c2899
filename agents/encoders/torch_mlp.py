"""A multi-layer perceptron's passes on torch tensors without autograd, in memory that is used again.

On the CPU the memory of a result that is new costs more than most of what is written there: a pass over 256 rows and
400 units asks the system for a hundred pages, every time. And where the weights lie by columns with the bias behind
them, [x, 1] @ [W'; b'] is a whole layer in one product, and its gradient, bias included, is another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_ALIGN = 16  # floats: rows start on a 64-byte boundary
_KEPT = 2**23  # floats: what takes more memory is given back

# Those whose output tells their derivative. In place: they follow a linear layer, whose output nobody else needs.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh_, "relu": torch.relu_}
# (gradient at the output, output) -> gradient at the input, in the place of the first.
_BACKWARD: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tanh": lambda grad, out: torch.ops.aten.tanh_backward.grad_input(grad, out, grad_input=grad),
    "relu": lambda grad, out: torch.ops.aten.threshold_backward.grad_input(grad, out, 0.0, grad_input=grad),
}


class Trace:
    """What `TorchMLP.trace` hands to `backward` or `input_gradient`, for one of them to use once."""

    def __init__(self, memory: _Memory) -> None:
        self.memory: _Memory | None = memory


class TorchMLP:
    """Layers with these `parameters` (weight [out, in], bias [out]) and one of `ACTIVATIONS` between them.

    The same numbers as autograd's, to rounding, in half the time.
    """

    def __init__(self, parameters: Sequence[tuple[Tensor, Tensor]], activation: str) -> None:
        self.parameters, self.activation = parameters, activation
        self._spare: list[_Memory] = []  # of the last pass; pop and append are safe between threads
        self._seen: tuple[int, list[Tensor]] | None = None
        self._seen_grads: tuple[int, list[Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[batch, in_dim] to [batch, out_dim]."""
        out, traced = self.trace(x)
        self._release(traced)
        return out

    def trace(self, *columns: Tensor) -> tuple[Tensor, Trace]:
        """The output for an input whose columns these tensors [batch, ...] make up, and what a way back needs."""
        activation = ACTIVATIONS[self.activation]
        matrices, memory = self._matrices(), self._memory(columns[0])
        first = 0
        for part in columns:
            memory.inputs[0][:, first : first + part.shape[1]].copy_(part)
            first += part.shape[1]
        for matrix, x, out in zip(matrices, memory.with_one, memory.inputs[1:], strict=False):
            torch.mm(x, matrix, out=out)
            activation(out)
        return memory.with_one[-1].mm(matrices[-1]), Trace(memory)

    def backward(self, traced: Trace, grad: Tensor) -> None:
        """Write dL/dparameters into their `.grad` (which must be there) from dL/doutput, [batch, out_dim]."""
        matrices, gradients, memory = self._matrices(), self._gradients(), _used(traced)
        for i in range(len(matrices) - 1, -1, -1):
            self._weight_gradient(i, memory.with_one[i].t(), grad, gradients)
            if i:
                grad = self._through(i, matrices[i], grad, memory)
        self._release(traced)

    def input_gradient(self, traced: Trace, grad: Tensor, first: int = 0) -> Tensor:
        """dL/dx of the input's columns from `first` on, [batch, in_dim - first], from dL/doutput [batch, out_dim]."""
        matrices, memory = self._matrices(), _used(traced)
        for i in range(len(matrices) - 1, 0, -1):
            grad = self._through(i, matrices[i], grad, memory)
        self._release(traced)
        return grad.mm(matrices[0][first:-1].t())

    def _through(self, i: int, matrix: Tensor, grad: Tensor, memory: _Memory) -> Tensor:
        """The gradient at the output of layer i - 1, before its activation, from that at layer i's output."""
        torch.mm(grad, matrix[:-1].t(), out=memory.grads[i])
        return _BACKWARD[self.activation](memory.grads[i], memory.inputs[i])

    def _weight_gradient(self, i: int, x: Tensor, grad: Tensor, gradients: list[Tensor] | None) -> None:
        if gradients is not None:
            torch.mm(x, grad, out=gradients[i])
            return
        weight, bias = self.parameters[i]
        product = x.mm(grad)
        assert weight.grad is not None
        assert bias.grad is not None
        weight.grad.copy_(product[:-1].t())
        bias.grad.copy_(product[-1])

    # --- where things lie -----------------------------------------------------------------------------------------

    def _matrices(self) -> list[Tensor]:
        """[W'; b'], [in + 1, out], of every layer: views where the parameters lie so, looked up when they move."""
        at = self.parameters[0][0].data_ptr()
        if self._seen is None or self._seen[0] != at:
            pairs = [(weight.detach(), bias.detach()) for weight, bias in self.parameters]
            if not all(_adjacent(weight, bias) for weight, bias in pairs):
                return [torch.cat((weight.t(), bias[None])) for weight, bias in pairs]
            self._seen = at, [_joined(weight) for weight, _ in pairs]
        return self._seen[1]

    def _gradients(self) -> list[Tensor] | None:
        """Where the gradients of `_matrices` go; None where weights and biases have theirs apart."""
        pairs = [(weight.grad, bias.grad) for weight, bias in self.parameters]
        first = pairs[0][0]
        assert first is not None
        if self._seen_grads is None or self._seen_grads[0] != first.data_ptr():
            if not all(w is not None and b is not None and _adjacent(w, b) for w, b in pairs):
                return None
            self._seen_grads = first.data_ptr(), [_joined(w) for w, _ in pairs if w is not None]
        return self._seen_grads[1]

    def _memory(self, x: Tensor) -> _Memory:
        spare = self._spare.pop() if self._spare else None
        first = self.parameters[0][0]
        if spare is None or spare.kind != (len(x), first.device, first.dtype):
            return _Memory(len(x), [weight.shape[1] for weight, _ in self.parameters], first)
        return spare

    def _release(self, traced: Trace) -> None:
        memory, traced.memory = traced.memory, None
        if memory is not None and not self._spare and memory.size <= _KEPT:
            self._spare.append(memory)


class _Memory:
    """Of one pass of so many rows: every layer's input [rows, width], and the gradient there.

    with_one: the same inputs with a column of ones behind them, which multiplies the bias.
    """

    def __init__(self, rows: int, widths: Sequence[int], like: Tensor) -> None:
        self.kind = rows, like.device, like.dtype
        self.size = 2 * rows * sum(widths)
        self.with_one: list[Tensor] = []
        with torch.inference_mode(False):  # whose tensors nothing else could write into
            for width in widths:
                memory = torch.zeros(rows, -(-(width + 1) // _ALIGN) * _ALIGN, dtype=like.dtype, device=like.device)
                memory[:, width] = 1.0
                self.with_one.append(memory[:, : width + 1])
            self.inputs = [x[:, :-1] for x in self.with_one]

    @functools.cached_property
    def grads(self) -> list[Tensor]:
        with torch.inference_mode(False):
            return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in self.inputs]


def _used(traced: Trace) -> _Memory:
    if traced.memory is None:
        raise RuntimeError("this pass has been gone back through already; trace anew")
    return traced.memory


def _adjacent(weight: Tensor, bias: Tensor) -> bool:
    """Whether a weight lies by columns, with its bias behind it."""
    behind = weight.storage_offset() + weight.numel() == bias.storage_offset()
    same = weight.untyped_storage().data_ptr() == bias.untyped_storage().data_ptr()
    return behind and same and weight.t().is_contiguous() and bias.is_contiguous()


def _joined(weight: Tensor) -> Tensor:
    """A weight that lies by columns, transposed, and the row behind it."""
    out, width = weight.shape
    return weight.as_strided((width + 1, out), (out, 1))
