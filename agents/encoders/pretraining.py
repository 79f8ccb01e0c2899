"""Pretraining losses: masked autoencoding (MAE), and contrast of images with texts (CLIP, SigLIP).

    MAE     He et al. 2022: mean squared error on the masked patches' pixels, each patch to mean 0, deviation 1
    CLIP    Radford et al. 2021: symmetric InfoNCE, logits exp(t) x'y, t from log(1/0.07), kept in [0, log 100]
    SigLIP  Zhai et al. 2023: -1/n sum_ij log sigmoid(z_ij (exp(t) x_i'y_j + b)), z = 1 on the diagonal and -1 elsewhere

Functions first; behind them the modules that are trained. Left out: gathering a contrastive batch from several
machines.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.encoders.encoder import Encoder
from agents.encoders.features import Grid

MASKED = 0.75
CLIP_SCALE, CLIP_MAX = math.log(1 / 0.07), math.log(100.0)
SIGLIP_SCALE, SIGLIP_BIAS = math.log(10.0), -10.0


def random_mask(batch: int, patches: int, generator: torch.Generator, masked: float = MASKED) -> Tensor:
    """Which patches are hidden, bool [batch, patches]: the same number, floor(masked * patches), in each row."""
    noise = torch.rand(batch, patches, generator=generator, device=generator.device)
    rank = noise.argsort(1).argsort(1)
    return rank < int(masked * patches)


def patchify(pixels: Tensor, patch: int) -> Tensor:
    """Images [batch, C, H, W] as patches [batch, P, patch * patch * C], row by row, each pixel's channels together."""
    batch, channels, height, width = pixels.shape
    x = pixels.view(batch, channels, height // patch, patch, width // patch, patch)
    return x.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, patch * patch * channels)


def unpatchify(patches: Tensor, rows: int, columns: int, patch: int) -> Tensor:
    """The inverse of `patchify`."""
    x = patches.view(len(patches), rows, columns, patch, patch, -1)
    return x.permute(0, 5, 1, 3, 2, 4).reshape(len(patches), -1, rows * patch, columns * patch)


def patch_moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch's numbers, [batch, P, 1]; the deviation is kept from zero as in MAE's code."""
    return patches.mean(-1, keepdim=True), (patches.var(-1, keepdim=True) + 1e-6).sqrt()


def mae_loss(prediction: Tensor, patches: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error, [], over the patches under `mask` [batch, P] between what is predicted of them and their
    normalised pixels; prediction, patches: [batch, P, numbers of a patch]."""
    mean, deviation = patch_moments(patches)
    error = (prediction - (patches - mean) / deviation).square().mean(-1)
    return (error * mask).sum() / mask.sum()


def clip_loss(image: Tensor, text: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE, [], of unit vectors [n, dim] of which row i of both belong together; log_scale: []."""
    logits = log_scale.clamp(0.0, CLIP_MAX).exp() * image @ text.t()
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def siglip_loss(image: Tensor, text: Tensor, log_scale: Tensor, bias: Tensor) -> Tensor:
    """The sigmoid loss, [], of unit vectors [n, dim] of which row i of both belong together; log_scale, bias: []."""
    logits = log_scale.exp() * image @ text.t() + bias
    sign = 2 * torch.eye(len(logits), device=logits.device) - 1
    return -F.logsigmoid(sign * logits).sum() / len(logits)


def retrieval_accuracy(queries: Tensor, keys: Tensor) -> float:
    """Share of the queries [n, dim] for which no key [n, dim] is as near (by inner product) as the one of its row."""
    scores = queries @ keys.t()
    own = scores.diagonal()[:, None]
    rivals = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), -torch.inf)
    return float((rivals < own).all(1).float().mean())


class MaskedAutoencoder(nn.Module):
    """MAE of a ViT tower: its layers see the visible patches only, a small decoder paints the rest.

    Deviation: positions are the ViT's own learned ones, not sines, so that what comes out is a plain ViT.
    Raises ValueError for any other tower.
    """

    def __init__(self, encoder: Encoder, image: str, *, width: int = 96, depth: int = 2, heads: int = 4) -> None:
        super().__init__()
        tower: Any = encoder.tower(image)
        if getattr(tower, "kind", None) != "vit":
            raise ValueError(
                "MAE leaves patches out of what the encoder sees, which only a ViT can do: --encoder vit, a pretrained "
                "ViT, or one of the contrastive objectives"
            )
        self.tower, self.grid = tower, encoder.grids[image]
        numbers = self.grid.patch**2 * tower.channels
        self.enter = nn.Linear(tower.token_dim, width)
        self.unknown = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1 + len(self.grid), width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.leave = nn.Linear(width, numbers)

    def forward(self, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, [], and predictions of all patches' normalised pixels, [batch, P, numbers of a patch].

        image: uint8, as the tower takes it; mask: bool [batch, P], the same number of patches hidden in each row.
        """
        pixels = self.tower.pixels(image)
        prediction = self.decode(self.encode(pixels, mask), mask)
        return mae_loss(prediction, patchify(pixels, self.grid.patch), mask), prediction

    def encode(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """Hidden states of the class token and the visible patches, [batch, 1 + visible, dim]."""
        model = self.tower.model
        embeddings = model.embeddings
        patches = embeddings.patch_embeddings(pixels)
        first = embeddings.cls_token.expand(len(patches), -1, -1)
        tokens = torch.cat((first, patches), 1)
        tokens = tokens + embeddings.interpolate_pos_encoding(tokens, *pixels.shape[-2:])
        visible = tokens[:, 1:][~mask].view(len(tokens), -1, tokens.shape[-1])
        hidden = torch.cat((tokens[:, :1], visible), 1)
        for layer in model.layers:
            hidden = layer(hidden)
        return model.layernorm(hidden)

    def decode(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Predictions for all patches, [batch, P, numbers of a patch], from what `encode` gives."""
        known = self.enter(hidden)
        patches = self.unknown.expand(*mask.shape, -1).masked_scatter(~mask[..., None], known[:, 1:])
        tokens = torch.cat((known[:, :1], patches), 1) + self.positions
        return self.leave(self.layers(tokens)[:, 1:])

    @torch.no_grad()
    def pictures(self, image: Tensor, mask: Tensor) -> Tensor:
        """Each image, what was visible of it (the rest grey), and its reconstruction, side by side:
        uint8 [batch, C, H, 3 W]. Predictions are given their patch's own mean and deviation back."""
        grid: Grid = self.grid
        patches = patchify(self.tower.pixels(image), grid.patch)
        _, prediction = self(image, mask)
        mean, deviation = patch_moments(patches)
        hidden = mask[..., None]
        shown = (patches, patches * ~hidden, torch.where(hidden, prediction * deviation + mean, patches))
        whole = torch.cat([unpatchify(x, grid.rows, grid.columns, grid.patch) for x in shown])
        painted = ((whole - self.tower.shift) / self.tower.scale).round().clamp(0, 255).to(torch.uint8)
        return torch.cat(painted[..., : grid.height, : grid.width].split(len(image)), -1)


class Contrastive(nn.Module):
    """An encoder's image and text towers, projected to unit vectors of one space, with the objective's own scale.

    objective: "clip" or "siglip". Deviation: SigLIP too projects both linearly (without bias), since towers of any two
    kinds may meet here.
    """

    def __init__(self, encoder: Encoder, image: str, text: str, objective: Literal["clip", "siglip"]) -> None:
        super().__init__()
        self.objective = objective
        self.image, self.text = encoder.tower(image), encoder.tower(text)
        image_tower: Any = self.image
        text_tower: Any = self.text
        width = min(image_tower.out_dim, text_tower.out_dim)
        self.image_projection = nn.Linear(image_tower.out_dim, width, bias=False)
        self.text_projection = nn.Linear(text_tower.out_dim, width, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(CLIP_SCALE if objective == "clip" else SIGLIP_SCALE))
        if objective == "siglip":
            self.bias = nn.Parameter(torch.tensor(SIGLIP_BIAS))

    def embed(self, image: Tensor, text: Any) -> tuple[Tensor, Tensor]:
        """Unit vectors of images and texts, both [n, width]."""
        return (
            F.normalize(self.image_projection(self.image(image)[0]), dim=-1),
            F.normalize(self.text_projection(self.text(text)[0]), dim=-1),
        )

    def forward(self, image: Tensor, text: Any) -> Tensor:
        """The loss, [], of images and texts of which row i of both belong together."""
        return self.loss(*self.embed(image, text))

    def loss(self, image: Tensor, text: Tensor) -> Tensor:
        """The objective on unit vectors [n, width]."""
        if self.objective == "clip":
            return clip_loss(image, text, self.log_scale)
        return siglip_loss(image, text, self.log_scale, self.bias)

    @torch.no_grad()
    def clamp(self) -> None:
        """After an optimiser's step: keep CLIP's scale where a gradient can still move it."""
        if self.objective == "clip":
            self.log_scale.clamp_(0.0, CLIP_MAX)
