"""A transformers causal language model as two functions: tokens to hidden states, hidden states to logits.

Apart, because the head is the widest matrix of a small model: it must see only positions whose logits are wanted.
Tokens beyond the vocabulary stand for what `pictures` holds, so that whoever lays out or compares prompts need not know
of pictures.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer
from transformers.models.llama.modeling_llama import LlamaForCausalLM, LlamaModel

_LOGIT_SETTINGS = ("logit_scale", "logits_scaling", "final_logit_softcapping")


class Backbone:
    """Two functions over a model's modules, which it shares; adapters (peft) included.

    takes_masks: whether the model's rows may be laid out freely (masks [batch, 1, length, keys] and positions are
    heeded), found by trying; recurrent, sliding-window and ALiBi models say no.
    pictures: embeddings [n, width] that the tokens first_picture, first_picture + 1, ... stand for, or None.

    Raises ValueError for a model whose logits are not its head's on its last hidden states.
    """

    def __init__(self, model: Any) -> None:
        self.model = _language_part(model.get_base_model() if hasattr(model, "get_base_model") else model)
        self.config = self.model.config.get_text_config(decoder=True)
        accepted = inspect.signature(self.model.base_model.forward).parameters
        self.cache_name = "past_key_values" if "past_key_values" in accepted else "cache_params"
        self.positions = "position_ids" in accepted  # recurrent models have none
        self.width: int = self.model.get_output_embeddings().weight.shape[1]
        self.vocabulary: int = self.model.get_output_embeddings().weight.shape[0]
        self.context: int | None = getattr(self.config, "max_position_embeddings", None)
        self.first_picture = max(self.vocabulary, len(self.model.get_input_embeddings().weight))
        self.pictures: Tensor | None = None
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            self._check()
            self.takes_masks = self._try_masks()
        self.model.train(training)

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_output_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        return self.model.get_output_embeddings().weight.device

    def hidden(
        self, tokens: Tensor, *, mask: Tensor | None = None, positions: Tensor | None = None, cache: Any = None
    ) -> Tensor:
        """Last hidden states [batch, length, width] of tokens [batch, length].

        mask: [batch, keys] of 0 and 1, or additive [batch, 1, length, keys]; cache: a transformers cache, extended.
        """
        inputs: dict[str, Any] = {self.cache_name: cache, "use_cache": cache is not None}
        if mask is not None:
            inputs["attention_mask"] = mask
        if self.positions and positions is not None:
            inputs["position_ids"] = positions
        if self.pictures is None:
            return self.model.base_model(tokens, **inputs)[0]
        return self.model.base_model(inputs_embeds=self.embed(tokens), **inputs)[0]

    def embed(self, tokens: Tensor) -> Tensor:
        """Embeddings [..., width] of words and of what `pictures` holds."""
        if self.pictures is None:
            return self.model.get_input_embeddings()(tokens)
        seen = tokens >= self.first_picture
        words = self.model.get_input_embeddings()(tokens.masked_fill(seen, 0))
        return words.masked_scatter(seen[..., None], self.pictures[tokens[seen] - self.first_picture].to(words.dtype))

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., vocabulary] in float32."""
        out = self.model.get_output_embeddings()(hidden)
        if scale := getattr(self.config, "logit_scale", None):
            out = out * scale
        if scaling := getattr(self.config, "logits_scaling", None):
            out = out / scaling
        if cap := getattr(self.config, "final_logit_softcapping", None):
            out = (out / cap).tanh() * cap
        return out.float()

    @property
    def head_weight(self) -> Tensor | None:
        """[vocabulary, width], where `logits` is the product with it and nothing else."""
        head = self.model.get_output_embeddings()
        settings = (getattr(self.config, name, None) for name in _LOGIT_SETTINGS)
        plain = type(head) is nn.Linear and head.bias is None and not (head._forward_hooks or head._forward_pre_hooks)
        return head.weight if plain and not any(settings) else None

    def _check(self) -> None:
        tokens = torch.arange(4, device=self.device)[None] % self.vocabulary
        expected = self.model(tokens, use_cache=False).logits.float()
        found = self.logits(self.hidden(tokens))
        if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"{type(self.model).__name__} computes its logits in a way unknown here: not as its output embeddings "
                "on its last hidden states, scaled or soft-capped as its configuration says"
            )

    def _try_masks(self) -> bool:
        layers = DynamicCache(config=self.config).layers
        if not self.positions or any(type(layer) is not DynamicLayer for layer in layers):
            return False
        tokens = torch.tensor([[0, 1, 2, 3, 2]], device=self.device) % self.vocabulary
        seen = torch.ones(5, 5, dtype=torch.bool, device=self.device).tril()
        seen[3:, 2] = False  # 0 1 2 and 0 1 3 2 in one row
        mask = torch.zeros(1, 1, 5, 5, dtype=self.dtype, device=self.device)
        mask.masked_fill_(~seen, torch.finfo(self.dtype).min)
        positions = torch.tensor([[0, 1, 2, 2, 3]], device=self.device)
        try:
            found = self.hidden(tokens, mask=mask, positions=positions)[:, -1]
        except (RuntimeError, ValueError, TypeError, IndexError):  # whatever a model says that expects other masks
            return False
        alone = self.hidden(tokens[:, [0, 1, 3, 4]])[:, -1]
        return torch.allclose(found, alone, rtol=1e-2, atol=1e-3 * float(alone.abs().max()))


def _language_part(model: Any) -> Any:
    """Of an image-text model on a Llama the causal language model in it, whose modules it shares; others as they are.

    A Llama on its own is decoded faster (`llama_cache`).
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if isinstance(model, LlamaForCausalLM) or type(decoder) is not LlamaModel:
        return model
    with torch.device("meta"):
        part = LlamaForCausalLM(decoder.config)
    part.model, part.lm_head = decoder, model.get_output_embeddings()
    return part.train(model.training)
