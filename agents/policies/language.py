"""A language model as a policy: prompts in, responses out, and their log-probabilities with gradients.

Tokens stay tokens from generation to training: text is made once, for the environment, and never tokenised again.
Training passes are bounded in tokens, compute a prompt once for several of its responses where the model allows
(`packing`), and send only the positions that predict a response's tokens through the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from agents.core.buffer import Ragged
from agents.core.spaces import TURN, decode_text
from agents.policies import llama_cache, llama_pass
from agents.policies.backbone import Backbone
from agents.policies.categorical import MultiCategorical
from agents.policies.generation import Response, generate
from agents.policies.head import token_log_probs
from agents.policies.models import Lora, load_language_model
from agents.policies.packing import Pack, lay_out, plan
from agents.policies.sampling import Sampling, log_softmax
from agents.policies.tiny import TinySize

Messages = Sequence[Mapping[str, str]]
MICRO_BATCH_BYTES = 2**31


@dataclass
class TokenScores:
    """Of every response token, with gradients: its log-probability, and of the place where it was drawn the entropy
    and the hidden state [width] (float32) that the logits came from."""

    log_probs: Ragged
    entropies: Ragged | None = None
    hidden: Ragged | None = None


class LanguagePolicy(nn.Module):
    """pi(response | prompt), and the hidden states that a critic can judge.

    model, tokenizer: transformers' own, as `load_language_model` gives them. micro_batch_tokens: the most tokens,
    padding included, of one forward pass in training; None: as many as take about MICRO_BATCH_BYTES, 4096 at most.
    """

    def __init__(self, model: Any, tokenizer: Any, *, micro_batch_tokens: int | None = None) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.backbone = Backbone(model)
        if llama_cache.suits(self.backbone) and torch.get_float32_matmul_precision() == "highest":
            llama_cache.store_by_columns(self.backbone)
        self.micro_batch_tokens = micro_batch_tokens or min(4096, MICRO_BATCH_BYTES // _token_bytes(self.backbone))
        self.stop_tokens = stop_tokens(model, tokenizer)

    @classmethod
    def load(
        cls,
        name: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        lora: Lora | None = None,
        seed: int = 0,
        size: TinySize | None = None,
        micro_batch_tokens: int | None = None,
    ) -> LanguagePolicy:
        """From a name that `load_language_model` takes."""
        model, tokenizer = load_language_model(name, dtype=dtype, device=device, lora=lora, seed=seed, size=size)
        return cls(model, tokenizer, micro_batch_tokens=micro_batch_tokens)

    # --- text ---------------------------------------------------------------------------------------------------

    def prompts(self, obs: Any) -> list[Tensor]:
        """Tokens int64 [p] of observations: the prompts to which responses are written."""
        texts = decode_text(obs)
        return self.prompt_tokens([conversation(text) if self.chats else text.replace(TURN, "") for text in texts])

    @contextmanager
    def reading(self, obs: Any) -> Iterator[list[Tensor]]:
        """`prompts(obs)`, which mean something to `generate` and to all scores as long as the context lasts."""
        yield self.prompts(obs)

    @property
    def eyes(self) -> list[nn.Module]:
        """What sees, and has batch statistics to learn: in a model of text nothing."""
        return []

    @property
    def chats(self) -> bool:
        """Whether the tokenizer has a chat template."""
        return bool(getattr(self.tokenizer, "chat_template", None))

    def prompt_tokens(self, prompts: Sequence[str | Messages]) -> list[Tensor]:
        """Tokens int64 [p] of each prompt: a text, or a conversation as a list of {"role", "content"}.

        With a chat template a text is a conversation of one user message, and the template opens the reply. Without
        one a conversation is its contents end to end, and the prompt is what it says and no more.
        """
        if self.chats:
            talks = [[{"role": "user", "content": p}] if isinstance(p, str) else list(p) for p in prompts]
            texts = [self.tokenizer.apply_chat_template(t, add_generation_prompt=True, tokenize=False) for t in talks]
        else:
            texts = [p if isinstance(p, str) else "".join(message["content"] for message in p) for p in prompts]
        return self._encode(texts)

    def response_tokens(self, texts: Sequence[str]) -> list[Tensor]:
        """Tokens int64 [n] of responses written by someone else (demonstrations), each closed by the stop token."""
        stop = torch.tensor([self.stop_tokens[0]])
        return [torch.cat((tokens, stop)) for tokens in self._encode(texts)]

    def _encode(self, texts: Sequence[str]) -> list[Tensor]:
        if not texts:
            return []
        rows = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [torch.tensor(row, dtype=torch.int64) for row in rows]

    def decode(self, tokens: Sequence[Tensor]) -> list[str]:
        """Responses as text, without special tokens."""
        return self.tokenizer.batch_decode([row.tolist() for row in tokens], skip_special_tokens=True)

    # --- acting -------------------------------------------------------------------------------------------------

    def generate(
        self,
        requests: Sequence[Tensor | Response],
        sampling: Sampling,
        *,
        generator: torch.Generator,
        version: int = 0,
        budget: int | None = None,
    ) -> list[Response]:
        """Responses to prompts (as `prompt_tokens` gives them) and to parked responses: see `generation.generate`."""
        return generate(
            self.backbone,
            requests,
            sampling,
            generator=generator,
            stop_tokens=self.stop_tokens,
            version=version,
            budget=budget,
        )

    # --- scoring ------------------------------------------------------------------------------------------------

    def micro_batches(self, prompts: Sequence[Tensor], responses: Sequence[Tensor]) -> list[list[int]]:
        """Indices of the rows, cut into parts of at most `micro_batch_tokens` tokens; equal prompts share one.

        A training step that goes through them one by one, with a backward pass each, needs memory for one alone. A part
        may be several passes, so that what fits in memory stays one graph, which TRPO goes through many times.
        """
        parts: list[list[int]] = []
        room = 0
        for packs in self._plan(prompts, responses):
            tokens = len(packs) * max(pack.length for pack in packs)
            if not parts or tokens > room:
                parts.append([])
                room = self.micro_batch_tokens
            room -= tokens
            parts[-1] += [i for pack in packs for i in pack.rows]
        return parts

    def _plan(self, prompts: Sequence[Tensor], responses: Sequence[Tensor]) -> list[list[Pack]]:
        backbone, most = self.backbone, self.micro_batch_tokens
        width = None if llama_pass.suits(backbone) else backbone.width
        return plan(prompts, responses, most, width=width, share=backbone.takes_masks)

    def response_log_probs(
        self, prompts: Sequence[Tensor], responses: Sequence[Tensor], *, temperature: float = 1.0, top_p: float = 1.0
    ) -> Ragged:
        """Log-probability of every response token given all before it; under no_grad, those of a reference.

        With the temperature and top_p of the sampling they are what `generate` returned, up to rounding.
        """
        return self.score(prompts, responses, temperature=temperature, top_p=top_p).log_probs

    def score(
        self,
        prompts: Sequence[Tensor],
        responses: Sequence[Tensor],
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        entropies: bool = False,
        states: bool = False,
    ) -> TokenScores:
        """Log-probabilities and, where asked for, entropies and hidden states at the places where tokens were drawn."""
        found: list[tuple[list[int], list[Tensor]]] = []
        weight = self.backbone.head_weight
        for rows, hidden, tokens in self._passes(prompts, responses):
            if weight is not None and top_p == 1 and not entropies:
                out = [token_log_probs(hidden, weight, tokens, temperature=temperature)]
            else:
                log_p = log_softmax(self.backbone.logits(hidden), tokens, temperature=temperature, top_p=top_p)
                out = [log_p.gather(1, tokens[:, None]).squeeze(1)]
            if entropies:
                out.append(-(log_p.exp() * log_p.masked_fill(log_p.isneginf(), 0.0)).sum(-1))
            if states:
                out.append(hidden.float())
            found.append((rows, out))
        lengths = torch.tensor([len(r) for r in responses], dtype=torch.int64)
        columns = [_in_order(found, i, lengths, self.backbone.device) for i in range(1 + entropies + states)]
        return TokenScores(columns[0], columns[1] if entropies else None, columns[-1] if states else None)

    def distribution(
        self, prompts: Sequence[Tensor], responses: Sequence[Tensor], *, temperature: float = 1.0
    ) -> MultiCategorical:
        """The categorical at every response position, rows end to end: logits [tokens, vocabulary].

        For KL divergences and Fisher-vector products, which differentiate twice.
        """
        found: list[tuple[list[int], list[Tensor]]] = []
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):  # the others have one derivative
            for rows, hidden, _ in self._passes(prompts, responses, twice=True):
                found.append((rows, [self.backbone.logits(hidden) / temperature]))
        lengths = torch.tensor([len(r) for r in responses], dtype=torch.int64)
        ragged = _in_order(found, 0, lengths, self.backbone.device)
        return MultiCategorical(ragged.values, (self.backbone.vocabulary,), single=True)

    def hidden(self, prompts: Sequence[Tensor], responses: Sequence[Tensor]) -> Ragged:
        """The hidden state [width] (float32) at every response position: after the prompt and the response before it.

        No logits are computed.
        """
        found = [(rows, [hidden.float()]) for rows, hidden, _ in self._passes(prompts, responses)]
        lengths = torch.tensor([len(r) for r in responses], dtype=torch.int64)
        return _in_order(found, 0, lengths, self.backbone.device)

    def prompt_hidden(self, prompts: Sequence[Tensor]) -> Tensor:
        """The hidden state after each prompt's last token, [batch, width]: where its response begins."""
        return self.hidden(prompts, [torch.zeros(1, dtype=torch.int64)] * len(prompts)).values

    def _passes(
        self, prompts: Sequence[Tensor], responses: Sequence[Tensor], *, twice: bool = False
    ) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Micro-batches: their rows, the hidden states [tokens, width] before each response token, those tokens.

        twice: whether they are to be differentiated twice.
        """
        backbone = self.backbone
        fast = not twice and llama_pass.suits(backbone)
        for packs in self._plan(prompts, responses):
            rows = [i for pack in packs for i in pack.rows]
            if fast:
                hidden = llama_pass.hidden(backbone, llama_pass.lay_out(packs, prompts, responses, backbone))
            else:
                layout = lay_out(packs, prompts, responses, backbone.dtype).to(backbone.device)
                found = backbone.hidden(layout.tokens, mask=layout.mask, positions=layout.positions)
                hidden = found.flatten(0, 1)[layout.index]
            yield rows, hidden, torch.cat([responses[i] for i in rows]).to(backbone.device)


def conversation(text: str) -> str | Messages:
    """A text in which TURN marks the messages as chat messages, the first one the user's; others as they are.

    The line break that sets a message apart from the next is none of its own.
    """
    user, *rest = text.split(TURN)
    if not rest:
        return text
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": part.removesuffix("\n")} for i, part in enumerate((user, *rest))]


def stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Tokens that end a response: the tokenizer's first, then those of the model's generation settings."""
    configured = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    configured = [configured] if isinstance(configured, int) else list(configured or [])
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    found = list(dict.fromkeys(own + configured))
    if not found:
        raise ValueError("this tokenizer names no stop token (eos_token): no response could ever end")
    return found


def _token_bytes(backbone: Backbone) -> int:
    """About what a token of a training pass takes until its backward pass, a response's logits included."""
    config, width = backbone.config, backbone.width
    inner = getattr(config, "intermediate_size", None) or 4 * width
    return backbone.dtype.itemsize * (config.num_hidden_layers * (8 * width + 4 * inner) + 2 * backbone.vocabulary)


def _in_order(
    found: list[tuple[list[int], list[Tensor]]], column: int, lengths: Tensor, device: torch.device
) -> Ragged:
    """Columns of micro-batches, whose rows come in any order, as one Ragged in the rows' own order."""
    pieces: dict[int, Tensor] = {}
    for rows, out in found:
        pieces.update(zip(rows, out[column].split([int(lengths[i]) for i in rows]), strict=True))
    if not pieces:
        return Ragged(torch.zeros(0, device=device), lengths)
    return Ragged(torch.cat([pieces[i] for i in range(len(lengths))]), lengths)
