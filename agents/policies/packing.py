"""Laying prompts and responses out for training passes: a prompt once for several of its responses.

A pack is one row of a pass: a prompt and then responses to it, side by side. Each response sees the prompt and itself
and counts its positions from the prompt's end, so that it is scored as if it stood alone, while the prompt's share of
the work is done once. Where attention is computed between responses too, only to be masked, it grows with the square of
a pack's length, which bounds how many fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_PADDING = 0.25  # more padding than this share of the tokens, and a further pass costs less


@dataclass(frozen=True)
class Pack:
    """Rows (indices of responses) with one prompt; length: tokens to be fed."""

    rows: tuple[int, ...]
    length: int


@dataclass(frozen=True)
class Layout:
    """One pass. tokens [packs, length]; index [tokens of responses]: where, in the flattened pass, each is predicted.

    mask (additive, [packs, 1, length, length]) and positions [packs, length] are None where no prompt is shared.
    """

    tokens: Tensor
    index: Tensor
    mask: Tensor | None
    positions: Tensor | None

    def to(self, device: torch.device) -> Layout:
        mask, positions = (None if t is None else t.to(device) for t in (self.mask, self.positions))
        return Layout(self.tokens.to(device), self.index.to(device), mask, positions)


def plan(
    prompts: Sequence[Tensor], responses: Sequence[Tensor], most_tokens: int, *, width: int | None, share: bool
) -> list[list[Pack]]:
    """Passes of at most `most_tokens` tokens, padding included (one longer row makes a pass of its own).

    width: of the model's hidden states, which decides how many responses to pack; None: attention between responses
    costs nothing. share: whether to pack any.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt.tolist()) if share else (i,), []).append(i)
    packs: list[Pack] = []
    for rows in groups.values():
        start = len(prompts[rows[0]])
        fed = {i: max(len(responses[i]) - 1, 0) for i in rows}  # a response's last token predicts nothing
        most = len(rows)
        if width is not None:
            most = -(-len(rows) // _best_packs(len(rows), start, sum(fed.values()) / len(rows), width))
        chosen: list[int] = []
        length = start
        for i in rows:
            if chosen and (len(chosen) >= most or length + fed[i] > most_tokens):
                packs.append(Pack(tuple(chosen), length))
                chosen, length = [], start
            chosen.append(i)
            length += fed[i]
        packs.append(Pack(tuple(chosen), length))
    passes: list[list[Pack]] = []
    room = 0  # of the pass that is being filled: tokens of its packs, for which padding is counted
    for pack in sorted(packs, key=lambda pack: pack.length):
        count = len(passes[-1]) + 1 if passes else 1
        room += pack.length
        if not passes or count * pack.length > most_tokens or count * pack.length - room > _PADDING * room:
            passes.append([])
            room = pack.length
        passes[-1].append(pack)
    return passes


def _best_packs(count: int, prompt: float, response: float, width: int) -> int:
    """Number of packs, of n = prompt + m response tokens, that minimises their work: n + n^2 / (2 width) each.

    The terms' ratio is that of a Transformer's matrix products to its attention, which runs at a third of their speed.
    """

    def work(packs: int) -> float:
        n = prompt + -(-count // packs) * response
        return packs * (n + n * n / (2 * width))

    return min(range(1, count + 1), key=work)


def lay_out(
    packs: Sequence[Pack], prompts: Sequence[Tensor], responses: Sequence[Tensor], dtype: torch.dtype
) -> Layout:
    """The pass that `packs` make; response tokens in the order of the packs and of their rows."""
    length = max(pack.length for pack in packs)
    tokens = torch.zeros(len(packs), length, dtype=torch.int64)
    part = torch.full((len(packs), length), -1)  # 0: the prompt, 1...: a response; -1: padding
    positions = torch.zeros(len(packs), length, dtype=torch.int64)
    index = []
    for i, pack in enumerate(packs):
        prompt = prompts[pack.rows[0]]
        at = len(prompt)
        tokens[i, :at], part[i, :at], positions[i, :at] = prompt, 0, torch.arange(at)
        for j, row in enumerate(pack.rows):
            response = responses[row]
            if not len(response):
                continue
            end = at + len(response) - 1
            tokens[i, at:end], part[i, at:end] = response[:-1], j + 1
            positions[i, at:end] = torch.arange(len(prompt), len(prompt) + end - at)
            index += [i * length + len(prompt) - 1, *range(i * length + at, i * length + end)]
            at = end
    where = torch.tensor(index, dtype=torch.int64)
    if all(len(pack.rows) == 1 for pack in packs):
        return Layout(tokens, where, None, None)
    seen = (part[:, None] == 0) | (part[:, None] == part[:, :, None])  # [packs, query, key]
    seen &= torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
    return Layout(tokens, where, mask[:, None], positions)
