"""Text towers of transformers - CLIP's (causal) and SigLIP's (bidirectional) - for text stored as UTF-8 bytes.

A tower from scratch reads bytes: 256 tokens and an end, so that nothing has to be learned to spell, and token i is byte
i of the text. A checkpoint brings its own tokenizer (`tokenizers` reads it from JSON; nothing is unpickled).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, SiglipTextConfig, SiglipTextModel

from agents.core.buffer import Ragged
from agents.encoders.features import Size, TextTokens
from agents.encoders.images import plain_config

TEXT_MODELS: dict[str, tuple[Any, Any]] = {
    "clip": (CLIPTextConfig, CLIPTextModel),
    "siglip": (SiglipTextConfig, SiglipTextModel),
}
END, PAD = 256, 257  # beyond the 256 bytes
CONTEXT = 256  # tokens of a tower from scratch, the end included; longer texts are cut


class TextTower(nn.Module):
    """Texts (ragged rows of UTF-8 bytes) to a feature [batch, out_dim] and tokens, by a model of transformers.

    Equal texts of a batch, such as the instruction of every step of an episode, go through the model once.
    """

    role = "text"

    def __init__(self, kind: str, model: Any, tokenizer: Tokenizer | None = None) -> None:
        super().__init__()
        self.kind, self.model, self.tokenizer = kind, model, tokenizer
        self.token_dim = int(model.config.hidden_size)
        self.out_dim = int(model.config.projection_size) if kind == "siglip" else self.token_dim
        self.context = int(model.config.max_position_embeddings)

    @classmethod
    def small(cls, kind: str, size: Size) -> TextTower:
        """From scratch, reading bytes."""
        config_type, model_type = TEXT_MODELS[kind]
        config = config_type(
            vocab_size=PAD + 1,
            hidden_size=size.width,
            intermediate_size=4 * size.width,
            num_hidden_layers=size.text_depth,
            num_attention_heads=size.heads,
            max_position_embeddings=CONTEXT,
            hidden_act="gelu",
            bos_token_id=None,
            eos_token_id=END,
            pad_token_id=PAD,
            **({"projection_size": size.width} if kind == "siglip" else {}),
        )
        return cls(kind, model_type(config))

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> TextTower:
        """The tower that `description` told of, with weights of its own."""
        config_type, model_type = TEXT_MODELS[description["kind"]]
        stored = description["tokenizer"]
        tokenizer = None if stored is None else Tokenizer.from_str(stored)
        return cls(description["kind"], model_type(config_type.from_dict(description["config"])), tokenizer)

    def description(self) -> dict[str, Any]:
        """What makes this tower again, weights aside, as plain data."""
        tokenizer = None if self.tokenizer is None else self.tokenizer.to_str()
        return {"kind": self.kind, "config": plain_config(self.model), "tokenizer": tokenizer}

    def forward(self, text: Ragged) -> tuple[Tensor, TextTokens]:
        rows, inverse = _distinct(text.to(self.model.device))
        ids, mask, spans = self._bytes(rows) if self.tokenizer is None else self._tokens(rows)
        if self.tokenizer is None and self.kind == "siglip":
            # The model itself pools the last position, of which only texts of full length have made something.
            hidden = self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            pooled = self.model.head(hidden[torch.arange(len(ids), device=ids.device), mask.sum(1) - 1])
        else:
            out = self.model(input_ids=ids)  # what stands behind CLIP's end cannot be seen; SigLIP knows its padding
            hidden, pooled = out.last_hidden_state, out.pooler_output
        return pooled[inverse], TextTokens(hidden[inverse], mask[inverse], spans[inverse])

    def _bytes(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Token ids, mask and spans of byte rows [batch, longest], -1 behind their ends."""
        rows = rows[:, : self.context - 1]
        lengths = (rows >= 0).sum(1, keepdim=True)
        at = torch.arange(rows.shape[1] + 1, device=rows.device).expand(len(rows), -1)
        ids = torch.nn.functional.pad(rows, (0, 1), value=-1)
        ids = torch.where(at < lengths, ids, torch.where(at == lengths, END, PAD))
        return ids, at <= lengths, torch.stack((at.minimum(lengths), (at + 1).minimum(lengths)), -1)

    def _tokens(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same by the checkpoint's tokenizer."""
        assert self.tokenizer is not None
        texts = [bytes(row[row >= 0].tolist()).decode("utf-8", "replace") for row in rows.cpu()]
        padding = {"length": self.context} if self.kind == "siglip" else {}
        pad = int(self.model.config.pad_token_id or 0)
        self.tokenizer.enable_truncation(self.context)
        self.tokenizer.enable_padding(pad_id=pad, pad_token=self.tokenizer.id_to_token(pad) or "", **padding)
        found = self.tokenizer.encode_batch(texts)
        byte_at = [[0, *torch.tensor([len(c.encode()) for c in text]).cumsum(0).tolist()] for text in texts]
        spans = [[[at[a], at[b]] for a, b in one.offsets] for one, at in zip(found, byte_at, strict=True)]
        device = rows.device
        return (
            torch.tensor([one.ids for one in found], device=device),
            torch.tensor([one.attention_mask for one in found], device=device) > 0,
            torch.tensor(spans, device=device),
        )


def _distinct(text: Ragged) -> tuple[Tensor, Tensor]:
    """The distinct rows of `text` as [distinct, longest], -1 behind their ends, and which of them each row is."""
    longest = max(1, int(text.lengths.max()))
    inside = torch.arange(longest, device=text.lengths.device) < text.lengths[:, None]
    rows = torch.full(inside.shape, -1, dtype=torch.int64, device=text.values.device)
    rows[inside] = text.values.long()
    distinct, inverse = torch.unique(rows, dim=0, return_inverse=True)
    return distinct, inverse
