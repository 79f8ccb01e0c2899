"""A training pass of a Llama-type model over packs, written out instead of run by its modules.

All tokens of a pass lie end to end, without padding; only attention lays them out by packs and responses. Attention
meets a prompt's keys once for all its responses and a response's own keys beside them, so that nothing is computed
between two responses of a pack, where a mask would have it computed and thrown away. Norms, rotations and gates keep
their inputs alone for the backward pass.

Left out: what `llama_cache` leaves out, dropout, and second derivatives; `suits` sends such models, and Fisher-vector
products, to the model's modules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from agents.policies import llama_cache
from agents.policies.backbone import Backbone
from agents.policies.packing import Pack


def suits(backbone: Backbone) -> bool:
    """Whether the model consists of Llama's modules, without biases, and nothing else (adapters, hooks, dropout)."""
    return llama_cache.suits(backbone) and not (backbone.model.training and backbone.config.attention_dropout)


@dataclass(frozen=True)
class Places:
    """Where padded rows [rows x width] find their tokens in a run of tokens, and the reverse; None: they are the same.

    Padding finds token 0, and no token finds padding.
    """

    shape: tuple[int, ...]
    source: Tensor | None
    target: Tensor | None

    @classmethod
    def of(cls, lengths: Tensor, shape: tuple[int, ...]) -> Places:
        """Rows of these lengths, in `shape` (its last entry the width)."""
        width = shape[-1]
        if int(lengths.min()) == width:
            return cls(shape, None, None)
        inside = torch.arange(width) < lengths[:, None]
        source = torch.zeros(inside.shape, dtype=torch.int64)
        source[inside] = torch.arange(int(lengths.sum()))
        return cls(shape, source.flatten(), inside.flatten().nonzero().squeeze(1))

    def to(self, device: torch.device) -> Places:
        if self.source is None or self.target is None:
            return self
        return Places(self.shape, self.source.to(device), self.target.to(device))

    def pad(self, x: Tensor) -> Tensor:
        """[tokens, ...] as [*shape, ...]"""
        x = x if self.source is None else _Pad.apply(x, self.source, self.target)
        return x.unflatten(0, self.shape)

    def cut(self, x: Tensor) -> Tensor:
        """The inverse of `pad`."""
        x = x.flatten(0, len(self.shape) - 1)
        return x if self.target is None else x.index_select(0, self.target)


@dataclass(frozen=True)
class Layout:
    """One pass: the packs' heads end to end, then their tails.

    A head is a prompt, and its tails are the responses; where all packs are of one response, that belongs to the head
    and there are no tails. tokens, positions: [tokens]; index: where each response token is predicted, in the order of
    the packs and of their rows; head_tokens: those of all heads. heads: [packs, longest]; tails: [packs, most
    responses, longest]; mask: [packs, 1, 1, longest head], additive, on the heads' padding.
    """

    tokens: Tensor
    positions: Tensor
    index: Tensor
    head_tokens: int
    heads: Places
    tails: Places | None
    mask: Tensor | None


def lay_out(
    packs: Sequence[Pack], prompts: Sequence[Tensor], responses: Sequence[Tensor], backbone: Backbone
) -> Layout:
    """The pass that `packs` make."""
    device = backbone.device
    shared = any(len(pack.rows) > 1 for pack in packs)
    heads, positions, starts = [], [], []
    at = 0
    for pack in packs:
        head = prompts[pack.rows[0]]
        if not shared:
            head = torch.cat((head, responses[pack.rows[0]][:-1]))
        heads.append(head)
        positions.append(torch.arange(len(head)))
        starts.append(at)
        at += len(head)
    tails, index = [], []
    most = max(len(pack.rows) for pack in packs)
    lengths = torch.zeros(len(packs), most, dtype=torch.int64)
    for i, pack in enumerate(packs):
        last = starts[i] + len(prompts[pack.rows[0]]) - 1  # of the prompt: predicts each response's first token
        for j, row in enumerate(pack.rows):
            response = responses[row]
            if not len(response):
                continue
            fed = len(response) - 1
            if shared:
                index += [last, *range(at, at + fed)]
                tails.append(response[:-1])
                positions.append(torch.arange(len(heads[i]), len(heads[i]) + fed))
                lengths[i, j] = fed
                at += fed
            else:
                index += range(last, last + fed + 1)
    sizes = torch.tensor([len(head) for head in heads])
    longest = int(sizes.max())
    mask = None
    if shared and int(sizes.min()) < longest:
        mask = torch.zeros(len(packs), longest, dtype=backbone.dtype)
        mask = mask.masked_fill_(torch.arange(longest) >= sizes[:, None], -torch.inf)[:, None, None].to(device)
    width = int(lengths.max())
    rows = Places.of(lengths.flatten(), (len(packs), most, width)).to(device) if width else None
    return Layout(
        torch.cat(heads + tails).to(device),
        torch.cat(positions).to(device),
        torch.tensor(index, dtype=torch.int64, device=device),
        int(sizes.sum()),
        Places.of(sizes, (len(packs), longest)).to(device),
        rows,
        mask,
    )


def hidden(backbone: Backbone, layout: Layout) -> Tensor:
    """Last hidden states at `layout.index`, [tokens of responses, width]."""
    model, config = backbone.model.model, backbone.config
    kv_heads, repeats = config.num_key_value_heads, config.num_attention_heads // config.num_key_value_heads
    x = backbone.embed(layout.tokens)
    cos, sin = (t[0, :, None] for t in model.rotary_emb(x, layout.positions[None]))  # [tokens, 1, head width]
    half = cos.shape[-1] // 2
    sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)  # the sign of rotate_half
    for layer in model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        h = _norm(layer.input_layernorm, x)
        query, key, value = (
            F.linear(h, projection.weight).unflatten(1, (-1, attention.head_dim))
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = _Turn.apply(query, cos, sin), _Turn.apply(key, cos, sin)
        seen = _attend(layout, query.unflatten(1, (kv_heads, repeats)), key, value, attention.scaling)
        x = x + F.linear(seen, attention.o_proj.weight)
        h = _norm(layer.post_attention_layernorm, x)
        gated = _Gate.apply(F.linear(h, mlp.gate_proj.weight), F.linear(h, mlp.up_proj.weight))
        x = x + F.linear(gated, mlp.down_proj.weight)
    return _norm(model.norm, x.index_select(0, layout.index))


def _norm(module: Any, x: Tensor) -> Tensor:
    return _Norm.apply(x, module.weight, module.variance_epsilon)


def _attend(layout: Layout, query: Tensor, key: Tensor, value: Tensor, scaling: float) -> Tensor:
    """[tokens, heads x head width] of query [tokens, kv heads, repeats, head width] and key, value [tokens, kv heads,
    head width]."""
    heads, tails, count = layout.heads, layout.tails, layout.head_tokens
    q, k, v = (heads.pad(t[:count]).transpose(1, 2) for t in (query.flatten(1, 2), key, value))
    seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True)
    seen = heads.cut(seen.transpose(1, 2)).flatten(1)
    if tails is None:
        return seen
    q = tails.pad(query[count:]).permute(0, 3, 1, 2, 4, 5)  # [packs, kv heads, responses, length, repeats, head width]
    own = (tails.pad(t[count:]).permute(0, 3, 1, 2, 4) for t in (key, value))  # [packs, kv heads, responses, length, .]
    out = _SharedAttention.apply(q, k, v, *own, layout.mask, scaling)
    return torch.cat((seen, tails.cut(out.permute(0, 2, 3, 1, 4, 5)).flatten(1)))


class _SharedAttention(torch.autograd.Function):
    """Attention of responses' tokens to their prompt and to their own response up to themselves.

    query [packs, heads, responses, length, repeats, width]; prompt keys and values [packs, heads, prompt, width]; own
    keys and values [packs, heads, responses, length, width]; mask as in `Layout`.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, *rest: Any) -> Tensor:
        *keys_values, mask, scaling = rest
        key, value, own_key, own_value = (t.contiguous() for t in keys_values)
        shape, prompt = query.shape, key.shape[2]
        q = (query * scaling).flatten(3, 4)  # [packs, heads, responses, rows = length x repeats, width]
        scores = q.new_empty(*q.shape[:4], prompt + shape[3])
        seen = _together(q) @ key.transpose(2, 3)
        if mask is not None:
            seen += mask
        scores[..., :prompt] = seen.view(*q.shape[:4], prompt)
        own = scores[..., prompt:]
        own.copy_(q @ own_key.transpose(3, 4))
        later = torch.ones(shape[3], shape[3], dtype=torch.bool, device=q.device).triu_(1)
        own.masked_fill_(later.repeat_interleave(shape[4], 0), -torch.inf)
        weights = scores.softmax(-1)
        out = weights[..., prompt:] @ own_value
        out += (_together(weights[..., :prompt]) @ value).view_as(out)
        ctx.save_for_backward(q, key, value, own_key, own_value, weights)
        ctx.scaling = scaling
        return out.view(shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        q, key, value, own_key, own_value, weights = ctx.saved_tensors
        prompt, shape = key.shape[2], grad.shape
        grad = grad.flatten(3, 4)
        grads = torch.empty_like(weights)
        grads[..., :prompt] = (_together(grad) @ value.transpose(2, 3)).view(*q.shape[:4], prompt)
        grads[..., prompt:] = grad @ own_value.transpose(3, 4)
        grads = torch._softmax_backward_data(grads, weights, -1, weights.dtype)
        far, own = _together(grads[..., :prompt]), grads[..., prompt:]
        query_grad = own @ own_key
        query_grad += (far @ key).view_as(query_grad)
        return (
            query_grad.mul_(ctx.scaling).view(shape),
            far.transpose(2, 3) @ _together(q),
            _together(weights[..., :prompt]).transpose(2, 3) @ _together(grad),
            own.transpose(3, 4) @ q,
            weights[..., prompt:].transpose(3, 4) @ grad,
            None,
            None,
        )


def _together(x: Tensor) -> Tensor:
    """The rows of all responses of a pack: [packs, heads, responses, rows, n] as [packs, heads, responses x rows, n]"""
    return x.flatten(2, 3)


class _Pad(torch.autograd.Function):
    """x[source]; only the places `target` matter, so that the gradient is moved back, not added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, source: Tensor, target: Tensor) -> Tensor:
        ctx.target = target
        return x.index_select(0, source)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.index_select(0, ctx.target), None, None


class _Norm(torch.autograd.Function):
    """x / sqrt(mean x^2 + eps) * weight over the last dimension of x [tokens, width]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        scale = (x.float().square().mean(-1, keepdim=True) + eps).rsqrt().to(x.dtype)
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, scale = ctx.saved_tensors
        normal = x * scale
        products = grad * normal
        inner = (products @ weight)[:, None] / x.shape[-1]
        return (grad * weight).sub_(normal.mul_(inner)).mul_(scale), products.sum(0), None


class _Turn(torch.autograd.Function):
    """Rotary embedding of x [tokens, heads, width]; cos: [tokens, 1, width]; sin: with the sign of its half."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.cos, ctx.sin = cos, sin
        return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # turned back
        return (grad * ctx.cos).addcmul_(grad.roll(grad.shape[-1] // 2, -1), ctx.sin, value=-1), None, None


class _Gate(torch.autograd.Function):
    """silu(gate) * up"""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grad * up, gate), F.silu(gate).mul_(grad)
