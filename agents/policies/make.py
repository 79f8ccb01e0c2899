"""Which policy an environment gets: one function from its spaces to a policy, and the settings of all of them."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import torch
from gymnasium import spaces

from agents.core.errors import check_settings
from agents.encoders import EncoderConfig
from agents.policies.pointer import PointerPolicy
from agents.policies.policy import Policy
from agents.policies.stochastic import StochasticPolicy


@dataclass
class PolicyConfig:
    """Settings of the policy."""

    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of policy and critic."""
    activation: str = "tanh"
    """Activation: tanh, relu, elu or gelu."""
    log_std_init: float = 0.0
    """Logarithm of the first standard deviation (Box actions)."""
    encoder: str = "cnn"
    """How images and text are seen: cnn, mlp, reader (for the fine print of screens), vit, clip, siglip, the path of a
    saved encoder or of a pretraining run, or a folder or hub id of a ViT, CLIP or SigLIP that transformers loads."""
    freeze_encoder: bool = False
    """Leave the encoder of images and text as it is."""
    model: str = "tiny"
    """Text: tiny (from scratch), smollm2, a GGUF file, or a path or hub id that transformers loads; on screens tiny, or
    that of an image-text model."""
    lora_rank: int = 0
    """Text: train low-rank adapters of this rank (needs peft) instead of all weights; 0: all weights."""
    max_tokens: int = 64
    """Text: longest response, its stop token included."""
    temperature: float = 1.0
    """Text: temperature of sampling."""
    top_p: float = 1.0
    """Text: sample from the most probable tokens that together reach this probability."""
    repeat_ngram: int = 0
    """Text: end a response in which one sequence of so many tokens keeps coming back; 0: never."""
    micro_batch_tokens: int | None = None
    """Text: most tokens, prompts and padding included, of one forward and backward pass; None: as many as take some
    2 GB, at most 4096."""

    def __post_init__(self) -> None:
        check_settings(
            self, "policy", positive=("micro_batch_tokens", "max_tokens", "temperature"), from_zero=("lora_rank",)
        )
        if not math.isfinite(self.log_std_init):
            raise ValueError(f"policy: log_std_init must be a number; got {self.log_std_init}")

    @property
    def encoder_config(self) -> EncoderConfig:
        return EncoderConfig(self.encoder, self.freeze_encoder)


def make_policy(
    observation_space: spaces.Space,
    action_space: spaces.Space,
    config: PolicyConfig,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    token_budget: int = 0,
) -> Policy:
    """The stochastic policy for these spaces: a language model for Text (with eyes where there is a screenshot), a
    pointer for tagged unions (OneOf), else an encoder and a distribution.

    seed: of a language model made from scratch; other first weights come from torch's global generator. token_budget:
    see `TextPolicy`.

    Raises ValueError for spaces that no policy serves, ModuleNotFoundError, saying what to install, where the model
    needs a package that is missing.
    """
    if isinstance(action_space, spaces.OneOf):
        return PointerPolicy(observation_space, action_space, encoder=config.encoder_config).to(device)
    if not isinstance(action_space, spaces.Text):
        return StochasticPolicy(
            observation_space,
            action_space,
            hidden=config.hidden,
            activation=config.activation,
            log_std_init=config.log_std_init,
            encoder=config.encoder_config,
        ).to(device)
    if importlib.util.find_spec("transformers") is None:
        raise ModuleNotFoundError('Text needs the package transformers: pip install "transformers>=5"')
    # These bring transformers, which control need not wait for.
    from agents.policies.language import LanguagePolicy
    from agents.policies.models import Lora
    from agents.policies.sampling import Sampling
    from agents.policies.text import TextPolicy
    from agents.policies.vision_language import VisionLanguagePolicy

    settings: dict[str, Any] = {
        "device": device,
        "lora": Lora(rank=config.lora_rank) if config.lora_rank else None,
        "seed": seed,
        "micro_batch_tokens": config.micro_batch_tokens,
    }
    if isinstance(observation_space, spaces.Text):
        language = LanguagePolicy.load(config.model, **settings)
    else:
        language = VisionLanguagePolicy.load(config.model, observation_space, **settings)
    sampling = Sampling(
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        repeat_ngram=config.repeat_ngram,
    )
    return TextPolicy(language, sampling, token_budget=token_budget)
