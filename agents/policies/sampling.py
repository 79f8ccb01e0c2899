"""From logits to tokens: temperature, top-p, and random numbers that belong to a response, not to a batch.

A token is found by inverting the cumulative distribution at a uniform number that is a pure function of the response's
seed and the token's position. What a response becomes therefore does not depend on the rows that it is computed with.

Left out: top-k and repetition penalties, which reinforcement learning has no use for.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_BLOCK = 256  # tokens whose probabilities are summed before any of them is looked at


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    max_tokens: of one response, its stop token included. temperature: 0 takes the most probable token, whose
    log-probability is then 0. top_p: the nucleus is the smallest set of most probable tokens whose probability reaches
    top_p, with all ties of its last one. repeat_ngram: stop a response in which one sequence of that many tokens has
    occurred `repeat_times` times (0: never).
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    repeat_ngram: int = 0
    repeat_times: int = 4

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1; got {self.max_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature must be 0 (greedy) or positive; got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must lie in (0, 1]; got {self.top_p}")
        if self.repeat_ngram < 0 or self.repeat_times < 2:
            raise ValueError(f"repeat_ngram >= 0 and repeat_times >= 2; got {self.repeat_ngram}, {self.repeat_times}")


class RepeatDetector:
    """Tells when a sequence of `ngram` tokens has occurred `times` times in what was pushed."""

    def __init__(self, ngram: int, times: int, tokens: Iterable[int] = ()) -> None:
        self.last: deque[int] = deque(maxlen=ngram)
        self.times = times
        self.counts: Counter[tuple[int, ...]] = Counter()
        for token in tokens:
            self.push(token)

    def push(self, token: int) -> bool:
        self.last.append(token)
        if not self.last.maxlen or len(self.last) < self.last.maxlen:
            return False
        seen = tuple(self.last)
        self.counts[seen] += 1
        return self.counts[seen] >= self.times


def uniforms(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), float64 [n], from the seeds and positions (int64 [n]) alone: SplitMix64's mixing function."""
    x = seeds.astype(np.uint64) + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (x >> np.uint64(11)) * 2.0**-53


def draw(logits: Tensor, sampling: Sampling, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens int64 [n] and their log-probabilities float32 [n] under the distribution drawn from.

    logits: float32 [n, vocabulary], overwritten; uniform: float64 [n].
    """
    if sampling.temperature == 0:
        return logits.argmax(-1), logits.new_zeros(len(logits))
    if sampling.temperature != 1:
        logits.div_(sampling.temperature)
    weights = logits.sub_(logits.amax(-1, keepdim=True)).exp_()
    if sampling.top_p < 1:
        weights.masked_fill_(weights < nucleus_floor(weights, sampling.top_p), 0.0)
    # Two levels, because a cumulative sum over the whole vocabulary costs more than all the rest.
    whole = weights.shape[1] // _BLOCK * _BLOCK
    sums = [weights[:, :whole].unflatten(1, (-1, _BLOCK)).sum(-1)] if whole else []
    if whole < weights.shape[1]:
        sums.append(weights[:, whole:].sum(-1, keepdim=True))
    blocks = torch.cat(sums, 1).double().cumsum(-1)
    total = blocks[:, -1:]
    block, rest = _invert(blocks, uniform[:, None] * total)
    index = (block * _BLOCK + torch.arange(_BLOCK, device=logits.device)).clamp_(max=weights.shape[1] - 1)
    inside = weights.gather(1, index).double()
    inside.masked_fill_(block * _BLOCK + torch.arange(_BLOCK, device=logits.device) >= weights.shape[1], 0.0)
    within, _ = _invert(inside.cumsum(-1), rest)
    token = block * _BLOCK + within
    log_prob = weights.gather(1, token).double().log() - total.log()
    return token.squeeze(1), log_prob.squeeze(1).float()


def _invert(cumulative: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The first entry above `target` [n, 1], never one of zero width, and how far into it the target lies."""
    # rounding may put the target at the very end, behind the last entry of any width
    target = torch.minimum(target, torch.nextafter(cumulative[:, -1:], torch.zeros_like(target)))
    entry = torch.searchsorted(cumulative, target, right=True)
    before = torch.where(entry > 0, cumulative.gather(1, (entry - 1).clamp(min=0)), 0.0)
    return entry, target - before


def nucleus_floor(weights: Tensor, top_p: float) -> Tensor:
    """The weight of the nucleus's least probable token, [n, 1]; weights: probabilities up to a factor, [n, vocabulary].

    Looks at ever more of the most probable tokens until they suffice: sorting all of them would take longer than the
    model.
    """
    needed = weights.sum(-1, dtype=torch.float64) * top_p
    floor = weights.new_zeros(len(weights))
    rows = torch.arange(len(weights), device=weights.device)
    count = 64
    while len(rows):
        count = min(count, weights.shape[1])
        top = weights[rows].topk(count).values
        reached = top.double().cumsum(-1) >= needed[rows, None]
        found = reached.any(-1)
        place = torch.where(found, reached.int().argmax(-1), count - 1)  # not found: so far, all of them
        floor[rows] = top.gather(1, place[:, None]).squeeze(1)
        if count == weights.shape[1]:
            break
        rows = rows[~found]
        count *= 8
    return floor[:, None]


def log_softmax(logits: Tensor, tokens: Tensor, *, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Log-probabilities [n, vocabulary] of the distribution that `draw` draws from, differentiable.

    logits: [n, vocabulary]; tokens: [n]. Outside the nucleus they are -inf, save that a row's own token counts as
    inside: a policy that has moved away from a token may find it improbable, never impossible.
    """
    if temperature != 1:
        logits = logits / temperature
    if top_p < 1:
        with torch.no_grad():
            weights = (logits - logits.amax(-1, keepdim=True)).exp_()
            outside = weights < nucleus_floor(weights, top_p)
            outside.scatter_(1, tokens[:, None], False)
        logits = logits.masked_fill(outside, float("-inf"))
    return logits.log_softmax(-1)
