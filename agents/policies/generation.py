"""Generation: many responses at once, each as if it were alone.

A prompt is prefilled once for all its samples; a response that ends leaves the batch, and one that waits takes its
place. Random numbers belong to the response (its seed and the token's position), so the same responses come out
whatever runs beside them, and `generate_slowly` (one at a time, no cache) is the definition of what comes out.

A response ends by `stop` (a stop token, which is its last token), `length` or `repeat`; `budget` parks it: given back
to `generate` later, with newer weights, it goes on where it was. Every token keeps the log-probability under the
distribution that it was drawn from and the version of the weights that drew it.

Left out: beam search, speculative decoding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from agents.policies.backbone import Backbone
from agents.policies.kv_cache import make_cache
from agents.policies.sampling import RepeatDetector, Sampling, draw, uniforms

CACHE_BYTES = 2**30  # what the keys and values of a running batch may take
STOP_REASONS = ("stop", "length", "budget", "repeat")


@dataclass
class Response:
    """What was written to one prompt.

    prompt: int64 [p]; tokens int64, log_probs float32 and versions int64: [n]. seed: of its random numbers.
    stop_reason: one of STOP_REASONS; `budget` means that it is unfinished.
    """

    prompt: Tensor
    tokens: Tensor
    log_probs: Tensor
    versions: Tensor
    stop_reason: str
    seed: int

    @property
    def finished(self) -> bool:
        return self.stop_reason != "budget"

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for a checkpoint."""
        return dict(vars(self))

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        return cls(**state)


def generate(
    backbone: Backbone,
    requests: Sequence[Tensor | Response],
    sampling: Sampling,
    *,
    generator: torch.Generator,
    stop_tokens: Collection[int],
    version: int = 0,
    budget: int | None = None,
) -> list[Response]:
    """One response to each request, in the requests' order.

    requests: prompts (int64 [p], equal ones are computed once) and parked responses to go on with. version: of the
    weights, noted with every new token. budget: new tokens in all (each row finishes the token it is at, so there may
    be one more a row) after which unfinished responses are parked; parked ones should stand first to be finished first.

    Raises ValueError for an empty prompt, one that fills the model's context, or a response that is finished already.
    """
    rows = _rows(backbone, requests, sampling, generator, stop_tokens)
    waiting, live = deque(rows), list[_Row]()
    most_rows = _most_rows(backbone, rows)
    cache = make_cache(backbone, min(most_rows, len(rows)))
    device, used = backbone.device, 0
    tokens = torch.zeros(0, dtype=torch.int64, device=device)
    training = backbone.model.training
    backbone.model.eval()
    with torch.inference_mode():
        while (waiting or live) and (budget is None or used < budget):
            logits = [cache.step(tokens)] if live else []
            if waiting and (not live or (not cache.equal_lengths and most_rows - len(live) >= most_rows // 4)):
                joining = _next(waiting, most_rows - len(live), cache.equal_lengths)
                logits.append(cache.admit([row.sequence for row in joining]))
                live += joining
            tokens, log_probs = draw(
                torch.cat(logits) if len(logits) > 1 else logits[0], sampling, _uniform(live, device)
            )
            alive = [
                row.append(token, log_prob, version)
                for row, token, log_prob in zip(live, tokens.tolist(), log_probs.tolist(), strict=True)
            ]
            used += len(live)
            if not all(alive):
                order = cache.keep(alive)
                tokens, live = tokens[order], [live[i] for i in order]
    backbone.model.train(training)
    return [row.response() for row in rows]


def generate_slowly(
    backbone: Backbone,
    requests: Sequence[Tensor | Response],
    sampling: Sampling,
    *,
    generator: torch.Generator,
    stop_tokens: Collection[int],
    version: int = 0,
) -> list[Response]:
    """What `generate` must return: one row at a time, every token from a forward pass over all before it."""
    rows = _rows(backbone, requests, sampling, generator, stop_tokens)
    training = backbone.model.training
    backbone.model.eval()
    with torch.inference_mode():
        for row in rows:
            going = True
            while going:
                hidden = backbone.hidden(torch.tensor([row.sequence], device=backbone.device))
                token, log_prob = draw(backbone.logits(hidden[:, -1]), sampling, _uniform([row], backbone.device))
                going = row.append(int(token), float(log_prob), version)
    backbone.model.train(training)
    return [row.response() for row in rows]


class _Row:
    """A response in the making."""

    def __init__(self, source: Tensor | Response, seed: int, limit: int, sampling: Sampling, stop: Collection[int]):
        parked = source if isinstance(source, Response) else None
        self.prompt = source.prompt if isinstance(source, Response) else source
        self.seed = parked.seed if parked else seed
        self.sequence: list[int] = self.prompt.tolist() + (parked.tokens.tolist() if parked else [])
        self.log_probs: list[float] = parked.log_probs.tolist() if parked else []
        self.versions: list[int] = parked.versions.tolist() if parked else []
        self.limit, self.stop, self.stop_reason = limit, stop, "budget"
        self.repeats = None
        if sampling.repeat_ngram:
            written = parked.tokens.tolist() if parked else []
            self.repeats = RepeatDetector(sampling.repeat_ngram, sampling.repeat_times, written)

    def append(self, token: int, log_prob: float, version: int) -> bool:
        """Take in a token; whether the response goes on."""
        self.sequence.append(token)
        self.log_probs.append(log_prob)
        self.versions.append(version)
        repeats = self.repeats is not None and self.repeats.push(token)
        if token in self.stop:
            self.stop_reason = "stop"
        elif repeats:
            self.stop_reason = "repeat"
        elif len(self.log_probs) >= self.limit:
            self.stop_reason = "length"
        return self.stop_reason == "budget"

    def response(self) -> Response:
        return Response(
            self.prompt,
            torch.tensor(self.sequence[len(self.prompt) :], dtype=torch.int64),
            torch.tensor(self.log_probs, dtype=torch.float32),
            torch.tensor(self.versions, dtype=torch.int64),
            self.stop_reason,
            self.seed,
        )


def _rows(
    backbone: Backbone,
    requests: Sequence[Tensor | Response],
    sampling: Sampling,
    generator: torch.Generator,
    stop_tokens: Collection[int],
) -> list[_Row]:
    """Every request takes a seed from the generator, so that what it draws depends on the number of them alone."""
    seeds = torch.randint(2**62, (len(requests),), generator=generator, device=generator.device).tolist()
    rows = []
    for i, (request, seed) in enumerate(zip(requests, seeds, strict=True)):
        if isinstance(request, Response) and request.finished:
            raise ValueError(f"request {i} is a finished response ({request.stop_reason}): nothing to go on with")
        prompt = request.prompt if isinstance(request, Response) else request
        if len(prompt) == 0:
            raise ValueError(f"request {i} is an empty prompt: a model needs a token to start from")
        room = sampling.max_tokens if backbone.context is None else backbone.context - len(prompt)
        if room < 1:
            raise ValueError(f"request {i} has {len(prompt)} tokens; the model's context is {backbone.context}")
        rows.append(_Row(request, seed, min(sampling.max_tokens, room), sampling, frozenset(stop_tokens)))
    return rows


def _uniform(rows: list[_Row], device: torch.device) -> Tensor:
    seeds = np.array([row.seed for row in rows], np.int64)
    positions = np.array([len(row.log_probs) for row in rows], np.int64)
    return torch.from_numpy(uniforms(seeds, positions)).to(device)


def _next(waiting: deque[_Row], room: int, equal_lengths: bool) -> list[_Row]:
    """The rows to start with: the first that wait, or with `equal_lengths` those as long as the first."""
    if not equal_lengths:
        return [waiting.popleft() for _ in range(min(room, len(waiting)))]
    length = len(waiting[0].sequence)
    chosen = [row for row in waiting if len(row.sequence) == length][:room]
    left = [row for row in waiting if not any(row is other for other in chosen)]
    waiting.clear()
    waiting.extend(left)
    return chosen


def _most_rows(backbone: Backbone, rows: list[_Row]) -> int:
    """Rows whose keys and values fit CACHE_BYTES at their full length; at least 8."""
    config = backbone.config
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "num_attention_heads", 1)
    width = getattr(config, "head_dim", None) or backbone.width // getattr(config, "num_attention_heads", 1)
    longest = max((len(row.prompt) + row.limit for row in rows), default=1)
    row_bytes = 2 * config.num_hidden_layers * heads * width * longest * backbone.model.dtype.itemsize
    return max(8, CACHE_BYTES // row_bytes)
