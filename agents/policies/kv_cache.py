"""Caches of a running batch: rows join it after their prefill and leave it one by one.

Llama-type models have one of their own (`llama_cache`); the others run any model's modules on transformers' caches.
`SlotCache` (attention over all that went before) keeps each row's keys and values at the token's own position in one
preallocated block: nothing is concatenated, rows of any length run side by side, and a row that ends makes room for
the last one. `SharedCache` (recurrent, sliding-window and ALiBi models) is transformers' own cache, whose rows must
all have the same length, without padding.

Left out: sharing a prompt's keys between the rows of a group while decoding; they are copied to each row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from agents.policies.backbone import Backbone
from agents.policies.batching import closed_up, prefill, prefill_parts
from agents.policies.llama_cache import LlamaCache, suits

_GROWTH = 64  # positions by which a block of keys grows


def make_cache(backbone: Backbone, most_rows: int) -> LlamaCache | SlotCache | SharedCache:
    """The fastest cache that the model's layers allow."""
    if suits(backbone):
        return LlamaCache(backbone)
    return SlotCache(backbone, most_rows) if backbone.takes_masks else SharedCache(backbone)


class SlotCache:
    """A running batch of rows of any length, for models that take any mask and positions."""

    equal_lengths = False  # whether rows must be equally long

    def __init__(self, backbone: Backbone, most_rows: int) -> None:
        self.backbone, self.most_rows = backbone, most_rows
        self.lengths = torch.zeros(0, dtype=torch.int64, device=backbone.device)
        self.layers: list[_Slots] = []
        self.capacity = 0

    def admit(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Prefill rows and append them to the batch; logits [rows, vocabulary] of their next tokens.

        Each distinct sequence is computed once.
        """
        rows_of: dict[tuple[int, ...], list[int]] = {}
        for i, sequence in enumerate(sequences):
            rows_of.setdefault(tuple(sequence), []).append(i)
        start, device = len(self.lengths), self.backbone.device
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=device)
        self.lengths = torch.cat((self.lengths, lengths))
        logits = torch.empty(len(sequences), self.backbone.vocabulary, device=device)
        for part in prefill_parts(sorted(rows_of, key=len)):
            last, filled = prefill(self.backbone, part)
            source = [i for i, sequence in enumerate(part) for _ in rows_of[sequence]]
            target = [row for sequence in part for row in rows_of[sequence]]
            logits[target] = last[source]
            self._place(filled, source, [start + row for row in target], len(part[-1]))
        return logits

    def _place(self, filled: Any, source: list[int], target: list[int], longest: int) -> None:
        if not self.layers:
            self.layers = [_Slots(self.most_rows, layer.keys, layer.values) for layer in filled.layers]
        self._reserve(longest)
        for slots, layer in zip(self.layers, filled.layers, strict=True):
            slots.keys[target, :, :longest] = layer.keys[source]  # padding's will be overwritten
            slots.values[target, :, :longest] = layer.values[source]

    def _reserve(self, length: int) -> None:
        if length > self.capacity:
            self.capacity = length + max(_GROWTH, length // 4)
            for slots in self.layers:
                slots.grow(self.capacity, len(self.lengths))

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [rows] to each row; logits [rows, vocabulary] of the next ones."""
        longest = int(self.lengths.max()) + 1
        self._reserve(longest)
        rows, at = torch.arange(len(tokens), device=tokens.device), self.lengths
        for slots in self.layers:
            slots.rows, slots.at, slots.longest = rows, at, longest
        mask = None
        if int(at.min()) + 1 < longest:
            seen = torch.arange(longest, device=at.device) <= at[:, None]
            mask = torch.zeros(seen.shape, dtype=self.layers[0].keys.dtype, device=at.device)
            mask = mask.masked_fill_(~seen, torch.finfo(mask.dtype).min)[:, None, None]
        cache = Cache(layers=list(self.layers))
        hidden = self.backbone.hidden(tokens[:, None], mask=mask, positions=at[:, None], cache=cache)
        self.lengths = at + 1
        return self.backbone.logits(hidden[:, 0])

    def keep(self, alive: list[bool]) -> list[int]:
        """Let go of rows; the order of the others: place j is taken by row order[j]. Few rows are copied."""
        order = closed_up(alive)
        moved = [(j, i) for j, i in enumerate(order) if i != j]
        longest = int(self.lengths.max())
        if moved:
            to, source = [j for j, _ in moved], [i for _, i in moved]
            for slots in self.layers:
                slots.keys[to, :, :longest] = slots.keys[source, :, :longest]
                slots.values[to, :, :longest] = slots.values[source, :, :longest]
        self.lengths = self.lengths[order]
        return order


class _Slots(DynamicLayer):
    """One layer's keys and values, [most rows, heads, capacity, head width], written at each row's own position."""

    keys: Tensor
    values: Tensor
    rows: Tensor
    at: Tensor
    longest: int

    def __init__(self, most_rows: int, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.keys = keys.new_empty(most_rows, keys.shape[1], 0, keys.shape[3])
        self.values = values.new_empty(most_rows, values.shape[1], 0, values.shape[3])
        self.is_initialized = True

    def grow(self, capacity: int, rows: int) -> None:
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(*old.shape[:2], capacity, old.shape[3])  # a masked NaN would be a NaN still
            new[:rows, :, : old.shape[2]] = old[:rows]
            setattr(self, name, new)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        self.keys[self.rows, :, self.at] = key_states[:, :, 0]
        self.values[self.rows, :, self.at] = value_states[:, :, 0]
        count = len(self.rows)
        return self.keys[:count, :, : self.longest], self.values[:count, :, : self.longest]

    def get_seq_length(self) -> int:
        return self.longest - 1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.longest, 0


class SharedCache:
    """A running batch of equally long rows in transformers' own cache."""

    equal_lengths = True

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.length = 0
        self.cache: Any = None

    def admit(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Prefill equally long rows into the empty batch; logits [rows, vocabulary] of their next tokens."""
        places: dict[tuple[int, ...], int] = {}
        index = [places.setdefault(tuple(sequence), len(places)) for sequence in sequences]
        tokens = torch.tensor(list(places), device=self.backbone.device)
        self.cache = DynamicCache(config=self.backbone.config)
        self.length = tokens.shape[1]
        hidden = self.backbone.hidden(tokens, cache=self.cache)
        self.cache.reorder_cache(torch.tensor(index, device=tokens.device))
        return self.backbone.logits(hidden[:, -1])[index]

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [rows] to each row; logits [rows, vocabulary] of the next ones."""
        positions = torch.full((len(tokens), 1), self.length, device=tokens.device)
        hidden = self.backbone.hidden(tokens[:, None], positions=positions, cache=self.cache)
        self.length += 1
        return self.backbone.logits(hidden[:, 0])

    def keep(self, alive: list[bool]) -> list[int]:
        """Let go of rows; the order of the others: place j is taken by row order[j]."""
        order = closed_up(alive)
        if order:
            self.cache.reorder_cache(torch.tensor(order, device=self.backbone.device))
        return order
