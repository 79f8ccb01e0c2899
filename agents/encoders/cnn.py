"""A small convolutional network for images of any size from 8x8 up, with one token for every 8x8 (4x4) pixels.

The stem is that of Mnih et al. 2015, padded so that tokens tile the image; with two residual blocks behind it, the
second dilated, a token sees a square of 116 pixels. On a processor it costs less than the smallest useful transformer.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn
from torch.nn import functional as F

from agents.encoders.features import Grid
from agents.encoders.mlp import orthogonal

WIDTH = 64
POOLED_SIDE = 12  # the pooled feature looks at no finer a grid: its projection would be nearly all of the parameters


def is_image(space: spaces.Space) -> bool:
    """A uint8 Box of three dimensions with at least 8 pixels a side."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and sorted(space.shape)[1] >= 8
    )


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, channels) of [H, W, C] or [C, H, W]: the smallest side is the channels."""
    height, width, channels = shape if int(np.argmin(shape)) == 2 else (shape[1], shape[2], shape[0])
    return height, width, channels


def channels_first(image: Tensor) -> Tensor:
    """[batch, C, H, W], a view, of images [batch, H, W, C] or [batch, C, H, W]."""
    return image.movedim(-1, -3) if int(np.argmin(image.shape[1:])) == 2 else image


class CNN(nn.Module):
    """uint8 images [batch, H, W, C] (or [batch, C, H, W]) to a feature [batch, out_dim] and tokens [batch, P, 64].

    shape: that of the images whose features are asked for; tokens are given for any size.
    """

    role = "image"
    token_dim = WIDTH

    def __init__(self, shape: tuple[int, ...], out_dim: int = 256) -> None:
        super().__init__()
        height, width, channels = image_shape(shape)
        self.shape, self.out_dim = (height, width, channels), out_dim
        if min(height, width) >= 36:
            self.patch = 8
            stem = [nn.Conv2d(channels, 32, 8, 4, 2), nn.Conv2d(32, WIDTH, 4, 2, 1)]
        else:
            self.patch = 4
            stem = [nn.Conv2d(channels, 32, 4, 2, 1), nn.Conv2d(32, WIDTH, 4, 2, 1)]
        for layer in stem:
            orthogonal(layer, 2.0**0.5)
        self.stem = nn.ModuleList(stem)
        self.blocks = nn.ModuleList([_Block(WIDTH, dilation) for dilation in (1, 2)])
        grid = self.grid(height, width)
        self.pooled_grid = (min(grid.rows, POOLED_SIDE), min(grid.columns, POOLED_SIDE))
        self.project = nn.Linear(WIDTH * self.pooled_grid[0] * self.pooled_grid[1], out_dim)
        orthogonal(self.project, 2.0**0.5)

    def grid(self, height: int, width: int) -> Grid:
        return Grid.over(height, width, self.patch)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        image = channels_first(image)
        height, width = image.shape[-2:]
        x = image.float().div_(255.0)
        x = F.pad(x, (0, -width % self.patch, 0, -height % self.patch))
        for layer in self.stem:
            x = F.relu_(layer(x))
        for block in self.blocks:
            x = block(x)
        coarse = x if x.shape[-2:] == self.pooled_grid else F.adaptive_avg_pool2d(x, self.pooled_grid)
        return F.relu_(self.project(coarse.flatten(1))), x.flatten(2).transpose(1, 2)

    def description(self) -> dict[str, Any]:
        """What makes this network again, as plain data."""
        return {"kind": "cnn", "shape": list(self.shape), "out_dim": self.out_dim}


class _Block(nn.Module):
    """x + conv(relu(conv(x))), rectified; the second convolution starts at zero."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        self.second = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation)
        orthogonal(self.first, 2.0**0.5)
        for p in self.second.parameters():
            nn.init.zeros_(p)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu_(self.first(x))))
