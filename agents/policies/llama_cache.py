"""A running batch of a Llama-type model, whose decoding step is written out here instead of run by its modules.

Rows that join together form a block. A prompt's keys and values are kept once for the rows that share it, and all
their queries meet them in one matrix product; what a row wrote itself is appended to a block of its own, where it
stands at the place of every other row's token of the same step, so that nothing is masked and nothing concatenated.
Weights are used as they are: a step is the model's own matrix products and little else.

Left out: biases, adapters, attention windows and other activations than SiLU; `suits` sends such models to the caches
that run the model's modules (`kv_cache`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.llama import modeling_llama as llama

from agents.policies.backbone import Backbone
from agents.policies.batching import closed_up, prefill, prefill_parts

_GROWTH = 32  # tokens by which a block's room for responses grows
_KNOWN = {
    llama.LlamaForCausalLM,
    llama.LlamaModel,
    llama.LlamaDecoderLayer,
    llama.LlamaAttention,
    llama.LlamaMLP,
    llama.LlamaRMSNorm,
    llama.LlamaRotaryEmbedding,
    nn.Embedding,
    nn.Linear,
    nn.ModuleList,
}


def suits(backbone: Backbone) -> bool:
    """Whether the model consists of Llama's modules, without biases, and nothing else (adapters, hooks)."""
    model = backbone.model
    return (
        type(model) is llama.LlamaForCausalLM
        and model.config.hidden_act == "silu"
        and all(type(m) in _KNOWN or m is layer.mlp.act_fn for layer in model.model.layers for m in layer.modules())
        and all(type(m) in _KNOWN for m in (model.model, model.model.norm, model.model.rotary_emb))
        and all(m.bias is None for m in model.modules() if isinstance(m, nn.Linear))
        and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    )


def store_by_columns(backbone: Backbone) -> None:
    """Have the layers' matrices stored by columns, which changes nothing else.

    A step of decoding multiplies few rows, and a processor's libraries do so a quarter faster when they need not turn
    a matrix on its way; with many rows, as in training, either way is as fast. With bfloat16 inside the products
    (`torch.set_float32_matmul_precision("medium")`) it is slower by a third.
    """
    for layer in backbone.model.model.layers:
        for module in layer.modules():
            if isinstance(module, nn.Linear):
                module.weight.data = module.weight.data.t().contiguous().t()


class LlamaCache:
    """A running batch of rows of any length."""

    equal_lengths = False  # whether rows must be equally long

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.model = backbone.model.model
        self.lengths = torch.zeros(0, dtype=torch.int64, device=backbone.device)
        self.blocks: list[_Block] = []
        config = backbone.config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads

    def admit(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Prefill rows and append them to the batch; logits [rows, vocabulary] of their next tokens.

        Each distinct sequence is computed once.
        """
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for i, sequence in enumerate(sequences):
            rows_of.setdefault(tuple(sequence), []).append(i)
        distinct = sorted(rows_of, key=len)
        prefix = _Prefix(distinct, [rows_of[sequence] for sequence in distinct], self.backbone)
        logits = torch.empty(len(sequences), self.backbone.vocabulary, device=self.backbone.device)
        done = 0
        for part in prefill_parts(distinct):
            last, filled = prefill(self.backbone, part)
            prefix.place(done, filled)
            for i, sequence in enumerate(part):
                logits[rows_of[sequence]] = last[i]
            done += len(part)
        self.blocks.append(_Block(prefix))
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=self.lengths.device)
        self.lengths = torch.cat((self.lengths, lengths))
        return logits

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [rows] to each row; logits [rows, vocabulary] of the next ones."""
        x = self.model.embed_tokens(tokens)  # [rows, width]
        cos, sin = (t[0, :, None] for t in self.model.rotary_emb(x, self.lengths[None]))  # [rows, 1, head width]
        half = cos.shape[-1] // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)  # the sign of rotate_half
        sizes = [block.rows for block in self.blocks]
        for block in self.blocks:
            block.open()
        for i, layer in enumerate(self.model.layers):
            attention, mlp = layer.self_attn, layer.mlp
            h = _norm(layer.input_layernorm, x)
            query, key, value = (
                F.linear(h, projection.weight).unflatten(1, (-1, attention.head_dim))
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            query = _rotate(query, cos, sin, half).mul_(attention.scaling).unflatten(1, (self.kv_heads, -1))
            key = _rotate(key, cos, sin, half)
            parts = zip(self.blocks, query.split(sizes), key.split(sizes), value.split(sizes), strict=True)
            mixed = [block.attend(i, q, k, v) for block, q, k, v in parts]
            seen = mixed[0] if len(mixed) == 1 else torch.cat(mixed)
            x = x + F.linear(seen.flatten(1), attention.o_proj.weight)
            h = _norm(layer.post_attention_layernorm, x)
            gate = mlp.act_fn(F.linear(h, mlp.gate_proj.weight))
            x = x.add_(F.linear(gate.mul_(F.linear(h, mlp.up_proj.weight)), mlp.down_proj.weight))
        self.lengths = self.lengths + 1
        return self.backbone.logits(_norm(self.model.norm, x))

    def keep(self, alive: list[bool]) -> list[int]:
        """Let go of rows; the order of the others: place j is taken by row order[j]."""
        order: list[int] = []
        start = 0
        for block in self.blocks:
            end = start + block.rows
            order += [start + i for i in block.keep(alive[start:end])]
            start = end
        self.blocks = [block for block in self.blocks if block.rows]
        self.lengths = self.lengths[order]
        return order


def _norm(module: Any, x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), module.weight, module.variance_epsilon)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, half: int) -> Tensor:
    """Rotary embedding of x [rows, heads, head width]."""
    return (x * cos).addcmul_(x.roll(half, -1), sin)


class _Prefix:
    """Keys and values of prompts, [layers, pieces, heads, longest, head width], and which rows look at which.

    A prompt of very many rows among prompts of few is cut into several pieces, copies: the rows' queries are laid out
    as [pieces, rows of the fullest piece], and half of those places or more are to be taken.
    """

    def __init__(self, sequences: Sequence[Sequence[int]], rows: list[list[int]], backbone: Backbone) -> None:
        self.count = sum(map(len, rows))
        size = max(map(len, rows))
        while size * sum(-(-len(r) // size) for r in rows) > 2 * self.count:
            size = -(-size // 2)
        self.source = [i for i, r in enumerate(rows) for _ in range(0, len(r), size)]
        self.piece_of = torch.empty(self.count, dtype=torch.int64)  # row -> piece
        for piece, chunk in enumerate(r[j : j + size] for r in rows for j in range(0, len(r), size)):
            self.piece_of[chunk] = piece
        self.lengths = torch.tensor([len(sequences[i]) for i in self.source], device=backbone.device)
        self.longest = len(sequences[-1])
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def place(self, first: int, filled: Any) -> None:
        """Take in the keys and values of the sequences from `first` on."""
        count, width = filled.layers[0].keys.shape[0], filled.layers[0].keys.shape[2]
        pieces = [i for i, source in enumerate(self.source) if first <= source < first + count]
        taken = [self.source[i] - first for i in pieces]
        for name in ("keys", "values"):
            if getattr(self, name) is None:
                one = getattr(filled.layers[0], name)
                shape = (len(filled.layers), len(self.source), one.shape[1], self.longest, one.shape[3])
                setattr(self, name, one.new_zeros(shape))  # a masked NaN would be a NaN still
            for i, layer in enumerate(filled.layers):
                getattr(self, name)[i][pieces, :, :width] = getattr(layer, name)[taken]


class _Block:
    """Rows that joined together: their prompts' keys and values, and their own, of equally many tokens each."""

    def __init__(self, prefix: _Prefix) -> None:
        assert prefix.keys is not None
        assert prefix.values is not None
        self.rows = prefix.count
        self.piece_of, self.lengths = prefix.piece_of, prefix.lengths
        self.prompt = [prefix.keys, prefix.values]  # [layers, pieces, heads, longest, head width]
        layers, _, heads, _, width = prefix.keys.shape
        self.own = [prefix.keys.new_empty(layers, self.rows, heads, 0, width) for _ in range(2)]
        self.written = 0
        self._arrange()

    def _arrange(self) -> None:
        """Where the rows' queries stand in [pieces, rows of the fullest piece], and what prompts' padding hides."""
        device = self.lengths.device
        pieces = len(self.lengths)
        counts = torch.bincount(self.piece_of, minlength=pieces)
        self.shape = pieces, int(counts.max())
        by_piece = torch.argsort(self.piece_of, stable=True)
        rank = torch.arange(self.rows) - (counts.cumsum(0) - counts)[self.piece_of[by_piece]]
        place = torch.empty(self.rows, dtype=torch.int64)
        place[by_piece] = self.piece_of[by_piece] * self.shape[1] + rank
        self.place: Tensor | None = None  # row -> place; None: they are the same
        if len(place) != pieces * self.shape[1] or not torch.equal(place, torch.arange(self.rows)):
            self.place = place.to(device)
            self.row_at = torch.zeros(pieces * self.shape[1], dtype=torch.int64).index_put_(
                (place,), torch.arange(self.rows)
            )
            self.row_at = self.row_at.to(device)
        self.mask: Tensor | None = None
        longest = self.prompt[0].shape[3]
        if int(self.lengths.min()) < longest:
            hidden = torch.arange(longest, device=device) >= self.lengths[:, None]
            self.mask = torch.zeros(hidden.shape, dtype=self.prompt[0].dtype, device=device)
            self.mask = self.mask.masked_fill_(hidden, -torch.inf)[:, None, None]

    def open(self) -> None:
        """Room for one more token a row."""
        self.written += 1
        if self.written > self.own[0].shape[3]:
            size = self.written - 1
            more = [t.new_empty(*t.shape[:3], size + _GROWTH + size // 2, t.shape[4]) for t in self.own]
            for new, old in zip(more, self.own, strict=True):
                new[:, :, :, :size] = old
            self.own = more

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of rows' queries [rows, kv heads, repeats, head width], scaled, to all before and to themselves.

        key, value: [rows, kv heads, head width] of the last token, which are kept.
        """
        keys, values = (t[layer, : self.rows, :, : self.written] for t in self.own)
        keys[:, :, -1], values[:, :, -1] = key, value
        scores = query.new_empty(*query.shape[:3], self.prompt[0].shape[3] + self.written)
        width = self.prompt[0].shape[3]
        prompt = self._by_piece(query) @ self.prompt[0][layer].transpose(2, 3)
        if self.mask is not None:
            prompt += self.mask
        scores[..., :width] = self._by_row(prompt, query.shape[2])
        scores[..., width:] = query @ keys.transpose(2, 3)
        weights = scores.softmax(-1)
        out = weights[..., width:] @ values
        return out.add_(self._by_row(self._by_piece(weights[..., :width]) @ self.prompt[1][layer], query.shape[2]))

    def _by_piece(self, x: Tensor) -> Tensor:
        """[rows, heads, repeats, n] as [pieces, heads, rows of a piece x repeats, n]"""
        x = x if self.place is None else x[self.row_at]
        return x.unflatten(0, self.shape).transpose(1, 2).flatten(2, 3)

    def _by_row(self, x: Tensor, repeats: int) -> Tensor:
        """The inverse of `_by_piece`."""
        x = x.unflatten(2, (self.shape[1], repeats)).transpose(1, 2).flatten(0, 1)
        return x if self.place is None else x[self.place]

    def keep(self, alive: list[bool]) -> list[int]:
        if all(alive):
            return list(range(self.rows))
        order = closed_up(alive)
        moved = [(j, i) for j, i in enumerate(order) if i != j]
        if moved:
            to, source = [j for j, _ in moved], [i for _, i in moved]
            for t in self.own:
                t[:, to, :, : self.written] = t[:, source, :, : self.written]
        self.rows = len(order)
        if self.rows:
            self.piece_of = self.piece_of[order]
            used, renumbered = torch.unique(self.piece_of, return_inverse=True)
            if len(used) <= 0.75 * len(self.lengths):  # prompts that nobody looks at any more
                self.piece_of = renumbered
                kept = used.to(self.lengths.device)
                self.prompt, self.lengths = [t[:, kept] for t in self.prompt], self.lengths[kept]
            self._arrange()
        return order
