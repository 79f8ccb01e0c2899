"""Towers for fine print: a screen's patches are read where there is anything to read, and text byte by byte.

Four fifths of a screen are patches of a single colour, which one linear map of the colour tells in full. The others are
looked at closely: a window around each goes through convolutions, beside its colours with a channel of *ink*, how far a
pixel is from the window's background, in which a letter looks alike in every colour. Reading thus costs a quarter of
what the same convolutions cost everywhere. Convolutions over the grid of patches then put words together.

Left out: any pretraining of its own, and positions, which whoever points has to add.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agents.core.buffer import Ragged
from agents.encoders.cnn import image_shape
from agents.encoders.features import Grid, TextTokens

WIDTH = 64
PATCH, HALO = 8, 3  # pixels: of a patch, and of what is seen around it
WINDOW = PATCH + 2 * HALO
END, PAD = 256, 257  # beyond the 256 bytes


class ScreenReader(nn.Module):
    """uint8 images [batch, H, W, C] (or [batch, C, H, W]) to a feature [batch, out_dim] and tokens [batch, P, 64].

    shape: of the images, of which the number of channels counts; tokens are given for any size.
    """

    role = "image"
    token_dim = WIDTH
    out_dim = 2 * WIDTH
    patch = PATCH

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = image_shape(shape)
        self.channels = channels = self.shape[2]
        self.colour = nn.Linear(channels, WIDTH)
        self.strokes = nn.Conv2d(channels + 1, 16, 4, 2)
        self.letters = nn.Conv2d(16, 48, 3)
        self.read = nn.Linear(48 * 4 * 4, WIDTH)
        self.words = nn.Conv2d(WIDTH, WIDTH, (1, 7), padding=(0, 3))
        self.around = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        for layer in (self.strokes, self.letters, self.read, self.words, self.around):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def grid(self, height: int, width: int) -> Grid:
        return Grid.over(height, width, PATCH)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(image)  # [batch, rows, columns, 64]
        x = tokens.permute(0, 3, 1, 2)  # channels last in memory
        x = x + F.relu(self.words(x))
        x = x + F.relu(self.around(x))
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cat((tokens.mean(1), tokens.amax(1)), -1), tokens

    def patches(self, image: Tensor) -> Tensor:
        """What each patch shows by itself, [batch, rows, columns, 64]."""
        if image_shape(tuple(image.shape[1:])) != tuple(image.shape[1:]):
            image = image.movedim(1, -1)
        grid = self.grid(image.shape[1], image.shape[2])
        down, across = (
            torch.arange(-HALO, count * PATCH + HALO, device=image.device).clamp_(0, size - 1)
            for count, size in ((grid.rows, grid.height), (grid.columns, grid.width))
        )
        image = image[:, down][:, :, across]  # the outermost pixels go on
        inner = image[:, HALO:-HALO, HALO:-HALO].unflatten(2, (grid.columns, PATCH)).unflatten(1, (grid.rows, PATCH))
        low, high = inner.amin((2, 4)), inner.amax((2, 4))  # [batch, rows, columns, C]
        tokens = self.colour(low.float().add_(high).mul_(1.0 / 255.0).sub_(1.0))
        busy = (low != high).any(-1)
        windows = image.unfold(1, WINDOW, PATCH).unfold(2, WINDOW, PATCH)[busy]  # [busy, C, 14, 14]
        return tokens.index_put((busy,), self.look(windows), accumulate=True)

    def look(self, windows: Tensor) -> Tensor:
        """Features of windows [M, C, 14, 14], [M, 64]."""
        x = windows.float().mul_(1.0 / 255.0)
        light = x.mean(1, keepdim=True)
        low, high = light.amin((2, 3), keepdim=True), light.amax((2, 3), keepdim=True)
        ground = torch.where(light.mean((2, 3), keepdim=True) * 2 > low + high, high, low)  # the more frequent one
        ink = (light - ground).abs_().div_((high - low).add_(0.05))
        x = torch.cat((x.sub_(0.5), ink), 1)
        x = F.relu_(self.letters(F.relu_(self.strokes(x))))
        return F.relu_(self.read(x.flatten(1)))

    def description(self) -> dict[str, Any]:
        """What makes this network again, as plain data."""
        return {"kind": "reader", "shape": list(self.shape)}


class ByteReader(nn.Module):
    """Texts (ragged rows of UTF-8 bytes) to a feature [batch, out_dim] and tokens: a byte is seen with 21 before it and
    21 behind it."""

    role = "text"
    token_dim = WIDTH
    out_dim = 2 * WIDTH

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(PAD + 1, WIDTH, padding_idx=PAD)
        self.layers = nn.ModuleList(
            [nn.Conv1d(WIDTH, WIDTH, kernel, padding=kernel // 2 * dilation, dilation=dilation)
             for kernel, dilation in ((5, 1), (5, 1), (3, 3), (3, 6), (3, 8))]
        )  # fmt: skip
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, text: Ragged) -> tuple[Tensor, TextTokens]:
        ids, lengths = padded(text)
        at = torch.arange(ids.shape[1], device=ids.device)
        mask = at <= lengths[:, None]
        x = self.embed(ids).transpose(1, 2)
        for layer in self.layers:
            x = x + F.relu(layer(x)) * mask[:, None]
        tokens = self.norm(x.transpose(1, 2)) * mask[..., None]
        mean = tokens.sum(1) / mask.sum(1, keepdim=True)
        most = tokens.masked_fill(~mask[..., None], -1e9).amax(1)
        start, stop = at.minimum(lengths[:, None]), (at + 1).minimum(lengths[:, None])
        return torch.cat((mean, most), -1), TextTokens(tokens, mask, torch.stack((start, stop), -1))

    def description(self) -> dict[str, Any]:
        """What makes this network again, as plain data."""
        return {"kind": "reader"}


def padded(text: Ragged) -> tuple[Tensor, Tensor]:
    """Bytes, an END behind each text and PAD behind that, int64 [batch, longest + 1]; the texts' lengths [batch]."""
    lengths = text.lengths.to(text.values.device)
    at = torch.arange(int(lengths.max()) + 1, device=lengths.device)
    ids = torch.where(at < lengths[:, None], 0, torch.where(at == lengths[:, None], END, PAD))
    ids[at < lengths[:, None]] = text.values.long()
    return ids, lengths
