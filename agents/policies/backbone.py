"""A transformers causal language model as two functions: tokens to hidden states, hidden states to logits.

Apart, because the head is the widest matrix of a small model: it must see only positions whose logits are wanted.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor


class Backbone:
    """Two functions over a model's modules, which it shares; adapters (peft) included.

    Raises ValueError for a model whose logits are not its head's on its last hidden states.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.config = self.model.config.get_text_config(decoder=True)
        accepted = inspect.signature(self.model.base_model.forward).parameters
        self.cache_name = "past_key_values" if "past_key_values" in accepted else "cache_params"
        self.positions = "position_ids" in accepted  # recurrent models have none
        self.width: int = self.model.get_output_embeddings().weight.shape[1]
        self.vocabulary: int = self.model.get_output_embeddings().weight.shape[0]
        self.context: int | None = getattr(self.config, "max_position_embeddings", None)
        self._check()

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
        return self.model.base_model(tokens, **inputs)[0]

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

    @torch.no_grad()
    def _check(self) -> None:
        tokens = torch.arange(4, device=self.device)[None] % self.vocabulary
        training = self.model.training
        self.model.eval()
        expected = self.model(tokens, use_cache=False).logits.float()
        found = self.logits(self.hidden(tokens))
        self.model.train(training)
        if expected.shape != found.shape or not torch.allclose(expected, found, rtol=1e-3, atol=1e-3):
            raise ValueError(
                f"{type(self.model).__name__} computes its logits in a way unknown here: not as its output embeddings "
                "on its last hidden states, scaled or soft-capped as its configuration says"
            )
