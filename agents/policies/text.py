"""A language model as the policy of a text environment, or of a screen: each of its tokens is a decision.

A response is stored as its tokens, with the log-probability each was drawn with and the version of the weights that
drew it; text is made for the environment alone. A response that the token budget cuts short is parked: its environment
waits, nothing is stored, and the response goes on at the next call.

A prompt is the observation's text, behind the screenshot where there is one; for a chat model a user message, or where
the text marks turns (`agents.core.spaces.TURN`) the messages of a conversation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from agents.core.buffer import Batch, Field, Ragged
from agents.encoders import learning_statistics
from agents.policies.categorical import MultiCategorical
from agents.policies.generation import STOP_REASONS, Response
from agents.policies.language import LanguagePolicy
from agents.policies.policy import Decisions, Policy
from agents.policies.sampling import Sampling


class TextPolicy(Policy):
    """Answers text with `language` as `sampling` says, within a token budget that `renew` refills.

    token_budget: tokens generated between two calls of `renew`; 0 sets no limit.
    """

    typical_rate = 1e-4
    judged = True

    def __init__(self, language: LanguagePolicy, sampling: Sampling, *, token_budget: int = 0) -> None:
        super().__init__()
        self.language, self.sampling, self.token_budget = language, sampling, token_budget
        self.parked: dict[int, Response] = {}  # by environment
        self.used = 0

    def fields(self) -> dict[str, Field]:
        """`action` is the response's tokens, its stop token included."""
        return {
            "action": Field((), torch.int64, ragged=True),
            "log_prob": Field((), torch.float32, ragged=True),
            "version": Field((), torch.int64, ragged=True),
            "stop_reason": Field((), torch.int64),  # index into STOP_REASONS
        }

    @property
    def exhausted(self) -> bool:
        return self.token_budget > 0 and self.used >= self.token_budget

    def renew(self) -> None:
        self.used = 0

    # --- acting -------------------------------------------------------------------------------------------------

    def act(
        self, obs: Any, generator: torch.Generator, *, episode_start: np.ndarray | None = None, version: int = 0
    ) -> dict[str, Ragged | Tensor | np.ndarray]:
        """The `fields` for N environments, and `idle` [N]: whose response is still being written."""
        for i in [] if episode_start is None else np.flatnonzero(episode_start).tolist():
            self.parked.pop(i, None)  # what it answers is gone
        before = sum(len(response.tokens) for response in self.parked.values())
        budget = None if self.token_budget == 0 else self.token_budget - self.used
        with torch.no_grad(), self.language.reading(obs) as prompts:
            order = sorted(range(len(prompts)), key=lambda i: i not in self.parked)  # parked ones are finished first
            requests = [
                # the same prompt, in whose tokens a picture may have another number now
                replace(self.parked[i], prompt=prompts[i]) if i in self.parked else prompts[i]
                for i in order
            ]
            found = self.language.generate(requests, self.sampling, generator=generator, version=version, budget=budget)
        self.used += sum(len(response.tokens) for response in found) - before
        responses = dict(zip(order, found, strict=True))
        self.parked = {i: response for i, response in responses.items() if not response.finished}
        ordered = [responses[i] for i in range(len(prompts))]
        return {
            "action": Ragged.of([r.tokens for r in ordered], torch.int64),
            "log_prob": Ragged.of([r.log_probs for r in ordered], torch.float32),
            "version": Ragged.of([r.versions for r in ordered], torch.int64),
            "stop_reason": torch.tensor([STOP_REASONS.index(r.stop_reason) for r in ordered]),
            "idle": np.array([not r.finished for r in ordered]),
        }

    def choose(self, obs: Any, deterministic: bool, generator: torch.Generator) -> Ragged:
        return Ragged.of([r.tokens for r in self.respond(obs, deterministic, generator)], torch.int64)

    def respond(self, obs: Any, deterministic: bool, generator: torch.Generator) -> list[Response]:
        """Responses for evaluation, the most probable token at every place where `deterministic`."""
        sampling = replace(self.sampling, temperature=0.0) if deterministic else self.sampling
        with torch.no_grad(), self.language.reading(obs) as prompts:
            return self.language.generate(prompts, sampling, generator=generator)

    def to_env(self, action: Ragged, obs: Any) -> list[str]:
        return self.language.decode(action.rows())

    def from_env(self, actions: Sequence[str], obs: Any) -> Ragged:
        """Texts as tokens, each closed by the stop token."""
        return Ragged.of(self.language.response_tokens(actions), torch.int64)

    # --- scoring ------------------------------------------------------------------------------------------------

    def decisions(self, steps: Batch, *, entropy: bool = False) -> Decisions:
        """Of every response token. Without `entropy` it is estimated as -log_prob of the tokens drawn, which is free,
        where that of the distribution takes one more pass over the whole vocabulary."""
        responses = _responses(steps)
        with self.language.reading(steps.obs) as prompts:
            scores = self.language.score(
                prompts,
                responses,
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                entropies=entropy,
                states=True,
            )
        assert scores.hidden is not None
        log_prob, lengths = scores.log_probs.values, scores.log_probs.lengths
        behaviour = steps["log_prob"].values if "log_prob" in steps else None
        if scores.entropies is not None:
            entropies = scores.entropies.values
        else:
            entropies = -(log_prob.detach() if behaviour is None else behaviour)
        step = torch.repeat_interleave(torch.arange(len(responses)), lengths).to(log_prob.device)
        return Decisions(log_prob, behaviour, step, entropies, scores.hidden.values)

    def imitation_losses(self, steps: Batch) -> Tensor:
        """-log_prob; the eyes' batch statistics are learned here, and here alone."""
        with learning_statistics(*self.language.eyes):
            return super().imitation_losses(steps)

    def distribution(self, steps: Batch) -> MultiCategorical:
        """The categorical over the vocabulary at every response token; nuclei (top_p < 1) are not cut out of it."""
        # the fused kernels, of whatever reads a picture too, have one derivative
        with sdpa_kernel(SDPBackend.MATH), self.language.reading(steps.obs) as prompts:
            return self.language.distribution(prompts, _responses(steps), temperature=self.sampling.temperature)

    @property
    def critic_space(self) -> spaces.Box:
        """Of the model's last hidden states, in which it has read all there is to judge."""
        return spaces.Box(-np.inf, np.inf, (self.language.backbone.width,))

    def features(self, steps: Batch) -> Tensor:
        """[tokens, width]"""
        with self.language.reading(steps.obs) as prompts:
            return self.language.hidden(prompts, _responses(steps)).values

    def first_features(self, obs: Any) -> Tensor:
        """[batch, width]"""
        with self.language.reading(obs) as prompts:
            return self.language.prompt_hidden(prompts)

    def micro_batches(self, steps: Batch, segment: Tensor) -> list[Tensor]:
        """Numbers of segments, cut so that one backward pass through whole segments fits in memory."""
        prompts, responses = self.language.prompts(steps.obs), _responses(steps)
        count = int(segment.max()) + 1
        if len(responses) == count:  # of one turn each
            return [torch.tensor(rows) for rows in self.language.micro_batches(prompts, responses)]
        everything: list[list[Tensor]] = [[] for _ in range(count)]
        for i, prompt, response in zip(segment.tolist(), prompts, responses, strict=True):
            everything[i] += [prompt, response]
        whole = [torch.cat(sequence) for sequence in everything]
        return [torch.tensor(rows) for rows in self.language.micro_batches(whole, [whole[0][:0]] * count)]

    # --- checkpoint ---------------------------------------------------------------------------------------------

    def get_extra_state(self) -> dict[str, Any]:
        """What `state_dict` holds besides the weights."""
        return {"used": self.used, "parked": {i: response.state_dict() for i, response in self.parked.items()}}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.used = state["used"]
        self.parked = {i: Response.from_state(response) for i, response in state["parked"].items()}


def _responses(steps: Batch) -> list[Tensor]:
    """Of each step, as tokens."""
    return steps["action"].to(torch.device("cpu")).rows()
