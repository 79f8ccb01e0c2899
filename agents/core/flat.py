"""All parameters of some modules as one vector, so that an optimiser step, a norm or a polyak average is one operation.

On small networks the time goes into the number of operations, not into their size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_ALIGN = 16  # floats: every parameter starts on a 64-byte boundary, as matrix products like it


class FlatParameters:
    """Moves the trainable parameters of `modules` (already on their device) into one storage.

    vector: the parameter to give to an optimiser; its `.grad` is always there, and every module parameter's `.grad` is
    a view of it that `backward` adds to.
    """

    def __init__(self, *modules: nn.Module) -> None:
        params = [p for module in modules for p in module.parameters() if p.requires_grad]
        sizes = [-(-p.numel() // _ALIGN) * _ALIGN for p in params]
        flat = params[0].detach().new_zeros(sum(sizes))
        grad = torch.zeros_like(flat)
        for p, data, g in zip(params, flat.split(sizes), grad.split(sizes), strict=True):
            view = data[: p.numel()].view_as(p)
            view.copy_(p.detach())
            p.data, p.grad = view, g[: p.numel()].view_as(p)
        self.vector = nn.Parameter(flat)
        self.vector.grad = grad

    @property
    def grad(self) -> Tensor:
        assert self.vector.grad is not None
        return self.vector.grad

    def zero_grad(self) -> None:
        self.grad.zero_()

    def clip_grad(self, max_norm: float) -> Tensor:
        """Scale the gradient down to `max_norm` where it is longer; its norm before."""
        norm = self.grad.norm()
        self.grad.mul_((max_norm / (norm + 1e-6)).clamp_(max=1.0))
        return norm
