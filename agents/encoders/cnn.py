"""A small convolutional network for images of any size from 8x8 up (Mnih et al. 2015 from 36x36 up)."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agents.encoders.mlp import orthogonal


def is_image(space: spaces.Space) -> bool:
    """A uint8 Box of three dimensions with at least 8 pixels a side."""
    return (
        isinstance(space, spaces.Box)
        and space.dtype == np.uint8
        and len(space.shape) == 3
        and sorted(space.shape)[1] >= 8
    )


class CNN(nn.Module):
    """uint8 images [batch, H, W, C] (or [batch, C, H, W]: the smallest side is the channels) to [batch, out_dim]."""

    def __init__(self, shape: tuple[int, ...], out_dim: int = 256) -> None:
        super().__init__()
        self.channels_last = int(np.argmin(shape)) == 2
        height, width, channels = shape if self.channels_last else (shape[1], shape[2], shape[0])
        if min(height, width) >= 36:
            layers = [nn.Conv2d(channels, 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)]
        else:
            layers = [
                nn.Conv2d(channels, 32, 3, 2, 1),
                nn.Conv2d(32, 64, 3, 2, 1),
                nn.Conv2d(64, 64, 3, 1, 1),
            ]
        for layer in layers:
            orthogonal(layer, 2.0**0.5)
        self.body = nn.Sequential(*[module for layer in layers for module in (layer, nn.ReLU())], nn.Flatten())
        with torch.no_grad():
            flat = self.body(torch.zeros(1, channels, height, width)).shape[1]
        project = nn.Linear(flat, out_dim)
        orthogonal(project, 2.0**0.5)
        self.project = nn.Sequential(project, nn.ReLU())
        self.out_dim = out_dim

    def forward(self, image: Tensor) -> Tensor:
        if self.channels_last:
            image = image.movedim(-1, -3)
        return self.project(self.body(image.float().div(255.0)))
