"""All parameters of some modules as one vector, so that an optimiser step, a norm or a polyak average is one operation.

On small networks the time goes into the number of operations, not into their size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from agents.core.errors import Diverged

_ALIGN = 16  # floats: every matrix starts on a 64-byte boundary, as products like it; a bias lies behind its matrix


class FlatParameters:
    """Moves the trainable parameters of `modules` (already on their device) into one storage.

    vector: the parameter to give to an optimiser; its `.grad` is always there, and every module parameter's `.grad` is
    a view of it that `backward` adds to.
    """

    def __init__(self, *modules: nn.Module) -> None:
        params = [p for module in modules for p in module.parameters() if p.requires_grad]
        starts, end = [], 0
        for p in params:
            starts.append(end if p.dim() == 1 else -(-end // _ALIGN) * _ALIGN)
            end = starts[-1] + p.numel()
        flat = params[0].detach().new_zeros(-(-end // _ALIGN) * _ALIGN)
        grad = torch.zeros_like(flat)
        for p, start in zip(params, starts, strict=True):
            strides = torch.empty_like(p, device="meta").stride()  # a matrix stored by columns stays so
            view = flat.as_strided(p.shape, strides, start)
            view.copy_(p.detach())
            p.data, p.grad = view, grad.as_strided(p.shape, strides, start)
        self.vector = nn.Parameter(flat)
        self.vector.grad = grad

    @property
    def grad(self) -> Tensor:
        assert self.vector.grad is not None
        return self.vector.grad

    def zero_grad(self) -> None:
        self.grad.zero_()

    def clip_grad(self, max_norm: float) -> Tensor:
        """Scale the gradient down to `max_norm` where it is longer; its norm before. Raises Diverged where it is not
        finite, before an optimiser puts it into the weights."""
        norm = torch.linalg.vector_norm(self.grad)
        length = float(norm)
        if not math.isfinite(length):
            raise Diverged(f"the gradient's norm is {length}: lower the learning rate, or normalise what comes in")
        if length > max_norm:
            self.grad.mul_(max_norm / (length + 1e-6))
        return norm


class FlatRMSprop:
    """RMSprop (Hinton 2012) on one vector: `torch.optim.RMSprop`'s numbers, to rounding. alpha 0.99, eps 1e-5 as A3C.

    torch's optimisers serve lists of tensors on any device; for one vector of a few thousand numbers that generality
    costs three times the arithmetic, and loading them costs 40 MB.
    """

    def __init__(self, flat: FlatParameters, lr: float) -> None:
        self.flat, self.lr = flat, lr
        self.weights = flat.vector.detach()
        self.square = torch.zeros_like(flat.grad)

    def step(self) -> None:
        """One step along the gradient in `flat.grad`."""
        g = self.flat.grad
        self.square.mul_(0.99).addcmul_(g, g, value=0.01)
        self.weights.addcdiv_(g, self.square.sqrt().add_(1e-5), value=-self.lr)

    def state_dict(self) -> dict[str, Any]:
        return {"square": self.square}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.square.copy_(state["square"])


class FlatAdam:
    """Adam (Kingma & Ba 2015) on one vector: `torch.optim.Adam`'s numbers, to rounding. Betas 0.9 and 0.999."""

    def __init__(self, flat: FlatParameters, lr: float, eps: float = 1e-8) -> None:
        self.flat, self.lr, self.eps = flat, lr, eps
        self.weights = flat.vector.detach()
        self.steps = 0
        self.m, self.v = torch.zeros_like(flat.grad), torch.zeros_like(flat.grad)

    def step(self) -> None:
        """One step along the gradient in `flat.grad`."""
        self.steps += 1
        steps = torch.full((), float(self.steps), device=self.m.device)
        if self.steps % 100 == 0:
            # A unit that relu has shut off gets no gradient: its moments decay into denormals, which are ten times
            # slower. In a hundred steps nothing gets there from here, and all this is far below what moves a weight.
            torch.hardshrink(self.m, 1e-30, out=self.m)
            torch.threshold_(self.v, 1e-36, 0.0)
        torch._fused_adam_(
            [self.weights], [self.flat.grad], [self.m], [self.v], [], [steps],
            lr=self.lr, beta1=0.9, beta2=0.999, weight_decay=0.0, eps=self.eps, amsgrad=False, maximize=False,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "m": self.m, "v": self.v}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        self.m.copy_(state["m"])
        self.v.copy_(state["v"])
