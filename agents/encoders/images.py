"""Image towers of transformers - ViT, CLIP, SigLIP - for screens of any size, uint8 in.

A tower of our own is built small and from scratch; its table of positions is square, as those classes want it, and is
interpolated to the screen's grid of patches, as that of a checkpoint is. Left out: resizing the screen, which would
take a pointer its pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    ViTConfig,
    ViTModel,
)

from agents.encoders.cnn import channels_first, image_shape
from agents.encoders.features import Grid, Size

# kind -> configuration and model of transformers, and the mean and deviation of a channel in its published checkpoints
IMAGE_MODELS: dict[str, tuple[Any, Any, Sequence[float], Sequence[float]]] = {
    "vit": (ViTConfig, ViTModel, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": (
        CLIPVisionConfig,
        CLIPVisionModel,
        (0.48145466, 0.4578275, 0.40821073),
        (0.26862954, 0.26130258, 0.27577711),
    ),
    "siglip": (SiglipVisionConfig, SiglipVisionModel, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


class ImageTower(nn.Module):
    """uint8 images [batch, H, W, C] (or [batch, C, H, W]) to a feature [batch, out_dim] and patch tokens
    [batch, P, token_dim], by a model of transformers.

    mean, std: of each channel of images in [0, 1], which the model wants as 0 and 1. An image is padded with the mean
    at its lower and right edge to whole patches. The feature is the class token (ViT, CLIP) or the attention pool
    (SigLIP); a ViT goes without the pooler that its class offers, which neither MAE nor timm's checkpoints train.
    """

    role = "image"

    def __init__(self, kind: str, model: Any, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.kind, self.model = kind, model
        self.mean, self.std = list(mean), list(std)
        self.out_dim = self.token_dim = int(model.config.hidden_size)
        self.patch = int(model.config.patch_size)
        scale = 1.0 / (255.0 * torch.tensor(std))
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", (-torch.tensor(mean) / torch.tensor(std))[:, None, None], persistent=False)
        self.scale: Tensor
        self.shift: Tensor

    @classmethod
    def small(cls, kind: str, shape: tuple[int, ...], size: Size) -> ImageTower:
        """From scratch, with as many positions as images of `shape` have patches, or a few more."""
        height, width, channels = image_shape(shape)
        config_type = IMAGE_MODELS[kind][0]
        side = math.ceil(math.sqrt(len(Grid.over(height, width, size.patch))))
        config = config_type(
            hidden_size=size.width,
            intermediate_size=4 * size.width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            image_size=side * size.patch,
            patch_size=size.patch,
            num_channels=channels,
            hidden_act="gelu",
        )
        return cls(kind, _new_model(kind, config), [0.5] * channels, [0.5] * channels)

    @classmethod
    def from_description(cls, description: Mapping[str, Any]) -> ImageTower:
        """The tower that `description` told of, with weights of its own."""
        kind = description["kind"]
        config = IMAGE_MODELS[kind][0].from_dict(description["config"])
        return cls(kind, _new_model(kind, config), description["mean"], description["std"])

    def description(self) -> dict[str, Any]:
        """What makes this tower again, weights aside, as plain data."""
        return {"kind": self.kind, "config": plain_config(self.model), "mean": self.mean, "std": self.std}

    @property
    def channels(self) -> int:
        return int(self.model.config.num_channels)

    def grid(self, height: int, width: int) -> Grid:
        return Grid.over(height, width, self.patch)

    def pixels(self, image: Tensor) -> Tensor:
        """What the model takes: [batch, C, H, W] in float32, normalised and padded to whole patches with zeros."""
        image = channels_first(image)
        height, width = image.shape[-2:]
        pixels = torch.empty(image.shape, dtype=torch.float32, device=image.device)  # channels first in memory too
        torch.mul(image, self.scale, out=pixels).add_(self.shift)
        return F.pad(pixels, (0, -width % self.patch, 0, -height % self.patch))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        out = self.model(self.pixels(image), interpolate_pos_encoding=True)
        tokens = out.last_hidden_state
        if self.kind == "siglip":
            return (tokens.mean(1) if out.pooler_output is None else out.pooler_output), tokens
        if self.kind == "clip":  # whose model normalises the pooled token only
            tokens = self.model.post_layernorm(tokens)
        return tokens[:, 0], tokens[:, 1:]


def plain_config(model: Any) -> dict[str, Any]:
    """A transformers configuration as plain data, without the labels of a classifier that is not there."""
    return {key: value for key, value in model.config.to_dict().items() if key not in ("id2label", "label2id")}


def _new_model(kind: str, config: Any) -> Any:
    return ViTModel(config, add_pooling_layer=False) if kind == "vit" else IMAGE_MODELS[kind][1](config)
