"""A language policy where a vector environment asks for N responses at a time: what it stores, and what it parks.

One response is one step of an episode. It is stored as its tokens, with the log-probability each was drawn with and
the version of the weights that drew it; text is made for the environment alone. A response that the token budget cuts
short is parked: its environment waits, nothing is stored, and the response goes on at the next call.

Left out: conversations as chat messages. A prompt is the observation's text (one user message for a chat model).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.core.buffer import Batch, Field, Ragged
from agents.core.spaces import decode_text
from agents.policies.generation import STOP_REASONS, Response
from agents.policies.language import LanguagePolicy
from agents.policies.sampling import Sampling


class TextActor:
    """Acts with `policy` as `sampling` says, within a token budget that `renew` refills.

    token_budget: tokens generated between two calls of `renew`; 0 sets no limit.
    """

    def __init__(self, policy: LanguagePolicy, sampling: Sampling, *, token_budget: int = 0) -> None:
        self.policy, self.sampling, self.token_budget = policy, sampling, token_budget
        self.parked: dict[int, Response] = {}  # by environment
        self.used = 0

    @staticmethod
    def schema() -> dict[str, Field]:
        """The fields of `act`. `action` is the response's tokens, its stop token included."""
        return {
            "action": Field((), torch.int64, ragged=True),
            "token_log_prob": Field((), torch.float32, ragged=True),
            "token_version": Field((), torch.int64, ragged=True),
            "stop_reason": Field((), torch.int64),  # index into STOP_REASONS
        }

    @property
    def exhausted(self) -> bool:
        """Whether the budget is used up."""
        return self.token_budget > 0 and self.used >= self.token_budget

    def renew(self) -> None:
        """A new budget."""
        self.used = 0

    def act(
        self, obs: Ragged, episode_start: np.ndarray, generator: torch.Generator, version: int
    ) -> dict[str, Ragged | Tensor | np.ndarray]:
        """The fields of `schema` for N environments, and `idle` [N]: whose response is still being written."""
        prompts = self.policy.prompt_tokens(decode_text(obs))
        for i in np.flatnonzero(episode_start).tolist():
            self.parked.pop(i, None)  # what it answers is gone
        order = sorted(range(len(prompts)), key=lambda i: i not in self.parked)  # parked ones are finished first
        requests = [self.parked.get(i, prompts[i]) for i in order]
        before = sum(len(response.tokens) for response in self.parked.values())
        budget = None if self.token_budget == 0 else self.token_budget - self.used
        found = self.policy.generate(requests, self.sampling, generator=generator, version=version, budget=budget)
        self.used += sum(len(response.tokens) for response in found) - before
        responses = dict(zip(order, found, strict=True))
        self.parked = {i: response for i, response in responses.items() if not response.finished}
        ordered = [responses[i] for i in range(len(prompts))]
        return {
            "action": Ragged.of([r.tokens for r in ordered], torch.int64),
            "token_log_prob": Ragged.of([r.log_probs for r in ordered], torch.float32),
            "token_version": Ragged.of([r.versions for r in ordered], torch.int64),
            "stop_reason": torch.tensor([STOP_REASONS.index(r.stop_reason) for r in ordered]),
            "idle": np.array([not r.finished for r in ordered]),
        }

    def choose(self, obs: Ragged, deterministic: bool, generator: torch.Generator) -> Ragged:
        """Responses for evaluation, the most probable token at every place where `deterministic`."""
        temperature = 0.0 if deterministic else self.sampling.temperature
        sampling = Sampling(**{**vars(self.sampling), "temperature": temperature})
        prompts = self.policy.prompt_tokens(decode_text(obs))
        return Ragged.of([r.tokens for r in self.policy.generate(prompts, sampling, generator=generator)], torch.int64)

    def to_env(self, action: Ragged) -> list[str]:
        return self.policy.decode(action.rows())

    def log_probs(self, steps: Batch) -> Tensor:
        """Of every response token, rows end to end [tokens], under the present weights; with gradients."""
        return self.policy.response_log_probs(
            *self._sequences(steps), temperature=self.sampling.temperature, top_p=self.sampling.top_p
        ).values

    def micro_batches(self, steps: Batch, segment: Tensor, episodes: int) -> list[Tensor]:
        """Indices of the episodes, cut so that one backward pass through whole episodes fits in memory."""
        prompts, responses = self._sequences(steps)
        if len(responses) == episodes:  # of one turn each
            return [torch.tensor(rows) for rows in self.policy.micro_batches(prompts, responses)]
        everything: list[list[Tensor]] = [[] for _ in range(episodes)]
        for i, prompt, response in zip(segment.tolist(), prompts, responses, strict=True):
            everything[i] += [prompt, response]
        whole = [torch.cat(sequence) for sequence in everything]
        return [torch.tensor(rows) for rows in self.policy.micro_batches(whole, [whole[0][:0]] * episodes)]

    def _sequences(self, steps: Batch) -> tuple[list[Tensor], list[Tensor]]:
        """Prompts and responses as tokens."""
        prompts = self.policy.prompt_tokens(decode_text(steps.obs))
        return prompts, [row.cpu() for row in steps["action"].rows()]

    def state_dict(self) -> dict[str, Any]:
        return {"used": self.used, "parked": {i: response.state_dict() for i, response in self.parked.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.used = state["used"]
        self.parked = {i: Response.from_state(response) for i, response in state["parked"].items()}
