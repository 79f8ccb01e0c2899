"""Log-probabilities of given tokens under a language model's head, whose gradient needs one array of its logits' size.

A vocabulary of fifty thousand makes logits the widest arrays of a small model by far: composed of torch's operations,
they, their log-probabilities and the gradient of either would each take as much again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_ROWS = 256  # of a product with the head


def token_log_probs(hidden: Tensor, weight: Tensor, tokens: Tensor, *, temperature: float = 1.0) -> Tensor:
    """log softmax(hidden weight' / temperature)[token], float32 [n]; once differentiable.

    hidden: [n, width]; weight: of a head without bias, [vocabulary, width]; tokens: int64 [n].
    """
    return _TokenLogProbs.apply(hidden if temperature == 1 else hidden / temperature, weight, tokens)


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
        n, training = len(tokens), any(ctx.needs_input_grad)
        log_prob = hidden.new_empty(n, dtype=torch.float32)
        total = hidden.new_empty(n, 1, dtype=torch.float32)  # of each row's weights
        weights = hidden.new_empty(n if training else min(n, _ROWS), len(weight), dtype=torch.float32)
        for start in range(0, n, _ROWS):
            part = slice(start, start + _ROWS)
            seen = weights[part] if training else weights[: len(tokens[part])]
            _product(hidden[part], weight.t(), seen)
            highest = seen.amax(-1, keepdim=True)
            chosen = seen.gather(1, tokens[part, None]) - highest
            total[part] = seen.sub_(highest).exp_().sum(-1, keepdim=True)
            log_prob[part] = (chosen - total[part].log()).squeeze(1)
        ctx.save_for_backward(hidden, weight, tokens, weights, total)
        return log_prob

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        """grad (onehot(token) - probabilities), times the head's weights and times the hidden states."""
        hidden, weight, tokens, weights, total = ctx.saved_tensors
        grad = grad[:, None]
        hidden_grad = torch.empty_like(hidden)
        weight_grad = torch.zeros_like(weight)
        logits_grad = weights.new_empty(min(len(tokens), _ROWS), len(weight))
        for start in range(0, len(tokens), _ROWS):
            part = slice(start, start + _ROWS)
            out = torch.mul(weights[part], -grad[part] / total[part], out=logits_grad[: len(tokens[part])])
            out = out.scatter_add_(1, tokens[part, None], grad[part]).to(hidden.dtype)
            torch.mm(out, weight, out=hidden_grad[part])
            weight_grad.addmm_(out.t(), hidden[part])
        return hidden_grad, weight_grad, None


def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
    if a.dtype == out.dtype:
        torch.mm(a, b, out=out)
    else:
        out.copy_(a @ b)
