"""What the caches of a running batch share: the forward pass over prompts, and the order of the rows that stay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from agents.policies.backbone import Backbone

PREFILL_TOKENS = 4096  # tokens, padding included, of one forward pass over prompts


def prefill(backbone: Backbone, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Any]:
    """Logits [sequences, vocabulary] of the tokens after sequences in ascending order of length, and their cache.

    What the cache holds behind a shorter sequence's end is padding.
    """
    device = backbone.device
    tokens = torch.zeros(len(sequences), len(sequences[-1]), dtype=torch.int64)
    for i, sequence in enumerate(sequences):
        tokens[i, : len(sequence)] = torch.tensor(sequence)
    ends = torch.tensor([len(sequence) for sequence in sequences], device=device)
    filled: Any = DynamicCache()
    # no token sees the padding behind it, so there is nothing to mask
    hidden = backbone.hidden(tokens.to(device), cache=filled)
    return backbone.logits(hidden[torch.arange(len(sequences), device=device), ends - 1]), filled


def prefill_parts(sequences: list[tuple[int, ...]]) -> list[list[tuple[int, ...]]]:
    """Sequences in ascending order of length, cut so that no padded part exceeds PREFILL_TOKENS."""
    parts: list[list[tuple[int, ...]]] = [[]]
    for sequence in sequences:
        if parts[-1] and (len(parts[-1]) + 1) * len(sequence) > PREFILL_TOKENS:
            parts.append([])
        parts[-1].append(sequence)
    return parts


def closed_up(alive: list[bool]) -> list[int]:
    """An order of the rows that live on in which the last ones fill the gaps: as few as possible change places."""
    count = sum(alive)
    spare = [i for i in range(count, len(alive)) if alive[i]]
    return [i if alive[i] else spare.pop() for i in range(count)]
