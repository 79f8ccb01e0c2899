"""Towers for fine print: a screen is read where there is anything to read, and text byte by byte.

Four fifths of a screen's tiles of 8 by 8 pixels are of a single colour, which says all. The others are looked at
closely: a window around each goes through convolutions as *ink*, how far a pixel is from the window's background, in
which a letter looks alike in every colour. Reading thus costs a fifth of what the same convolutions cost everywhere.
A convolution along the lines of tiles puts words together; four tiles make a patch, for all that follows goes over all
of the screen, and is bound by memory rather than by products.

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

WIDTH, GLYPH = 96, 64  # features of a patch, and of a tile
TILE, HALO = 8, 3  # pixels: of a tile, four of which are a patch, and of what is seen around it
WINDOW = TILE + 2 * HALO
BYTE = 64  # features of a byte
END, PAD = 256, 257  # beyond the 256 bytes


class ScreenReader(nn.Module):
    """uint8 images [batch, H, W, C] (or [batch, C, H, W]) to a feature [batch, out_dim] and tokens [batch, P, 96].

    shape: of the images, of which the number of channels counts; tokens are given for any size.

    What reads goes pixel by pixel at first, and is standardised by the batch: told which of 51 words a patch shows, it
    knows 12% after 6,000 screens, where strides of 2 or no batch statistics leave it at 4%. Whoever trains it says by
    `train()` when statistics are learned; it starts out in evaluation mode.
    """

    role = "image"
    token_dim = WIDTH
    out_dim = 2 * WIDTH
    patch = 2 * TILE

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = image_shape(shape)
        self.channels = channels = self.shape[2]
        self.edges = nn.Conv2d(2, 16, 3)
        self.strokes, self.strokes_norm = nn.Conv2d(16, 32, 3), nn.BatchNorm2d(32)
        self.letters, self.letters_norm = nn.Conv2d(32, 64, 3), nn.BatchNorm2d(64)
        self.read, self.read_norm = nn.Linear(64 * 3 * 3, GLYPH), nn.BatchNorm1d(GLYPH)
        self.tint = nn.Linear(2 * channels, GLYPH)
        self.colour = nn.Linear(4 * channels, WIDTH)
        self.tiles = nn.Linear(4 * GLYPH, WIDTH)
        self.words = nn.Conv2d(GLYPH, GLYPH, (1, 7), padding=(0, 3))
        self.around = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        for layer in (self.edges, self.strokes, self.letters, self.read, self.words, self.around):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.eval()

    def grid(self, height: int, width: int) -> Grid:
        return Grid.over(height, width, self.patch)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patches(image)  # [batch, rows, columns, 96]
        x = tokens.permute(0, 3, 1, 2)  # channels last in memory
        x = x + F.relu(self.around(x))
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cat((tokens.mean(1), tokens.amax(1)), -1).float(), tokens

    def patches(self, image: Tensor) -> Tensor:
        """What each patch shows by itself, [batch, rows, columns, 96]."""
        if image_shape(tuple(image.shape[1:])) != tuple(image.shape[1:]):
            image = image.movedim(1, -1)
        grid = self.grid(image.shape[1], image.shape[2])
        image = _framed(image, grid)
        corner, busy = _flat(image[:, HALO:-HALO, HALO:-HALO].contiguous())
        windows = image.unfold(1, WINDOW, TILE).unfold(2, WINDOW, TILE)[busy]  # [busy, C, 14, 14]
        looks = self.look(windows)
        tiles = looks.new_zeros((*busy.shape, GLYPH)).index_put((busy,), looks).permute(0, 3, 1, 2)
        tiles = (tiles + F.relu(self.words(tiles))).permute(0, 2, 3, 1)
        colours = corner.to(looks.dtype).mul_(2.0 / 255.0).sub_(1.0)
        return F.relu(self.colour(_fours(colours)) + self.tiles(_fours(tiles)))

    def look(self, windows: Tensor) -> Tensor:
        """Features of windows [M, C, 14, 14], [M, 64]."""
        x = windows.to(_precision(windows)).mul_(1.0 / 255.0)
        light, colourful = x.mean(1), x.amax(1) - x.amin(1)  # [M, 14, 14]
        low, high = light.amin((1, 2), keepdim=True), light.amax((1, 2), keepdim=True)
        ground = torch.where(light.mean((1, 2), keepdim=True) * 2 > low + high, high, low)  # the more frequent one
        ink = light.sub_(ground).abs_().div_((high - low).add_(0.05))
        inked = (x.flatten(2) @ ink.flatten(1)[..., None]).squeeze(-1) / ink.sum((1, 2))[:, None].add_(0.01)
        colours = torch.cat((x.mean((2, 3)), inked), -1).mul_(2.0).sub_(1.0)
        y = torch.stack((ink, colourful), -1).sub_(0.25).permute(0, 3, 1, 2)  # channels last in memory
        y = F.max_pool2d(self.strokes(F.relu_(self.edges(y))), 2)  # [M, 32, 5, 5]
        y = F.relu_(self.letters_norm(self.letters(F.relu_(self.strokes_norm(y)))))  # [M, 64, 3, 3]
        return F.relu(self.read_norm(self.read(y.permute(0, 2, 3, 1).flatten(1)) + self.tint(colours)))

    def description(self) -> dict[str, Any]:
        """What makes this network again, as plain data."""
        return {"kind": "reader", "shape": list(self.shape)}


class ByteReader(nn.Module):
    """Texts (ragged rows of UTF-8 bytes) to a feature [batch, out_dim] and tokens: a byte is seen with 21 before it and
    21 behind it."""

    role = "text"
    token_dim = BYTE
    out_dim = 2 * BYTE

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(PAD + 1, BYTE, padding_idx=PAD)
        self.layers = nn.ModuleList(
            [nn.Conv1d(BYTE, BYTE, kernel, padding=kernel // 2 * dilation, dilation=dilation)
             for kernel, dilation in ((5, 1), (5, 1), (3, 3), (3, 6), (3, 8))]
        )  # fmt: skip
        self.norm = nn.LayerNorm(BYTE)

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


def _framed(image: Tensor, grid: Grid) -> Tensor:
    """Images [batch, H, W, C] filled up to whole patches, and a frame around them: the outermost pixels go on."""
    batch, height, width, channels = image.shape
    bottom, right = HALO + height, HALO + width
    shape = (batch, grid.rows * grid.patch + 2 * HALO, grid.columns * grid.patch + 2 * HALO, channels)
    framed = image.new_empty(shape)
    framed[:, HALO:bottom, HALO:right] = image
    framed[:, :HALO, HALO:right], framed[:, bottom:, HALO:right] = image[:, :1], image[:, -1:]
    framed[:, :, :HALO], framed[:, :, right:] = framed[:, :, HALO : HALO + 1], framed[:, :, right - 1 : right]
    return framed


def _flat(image: Tensor) -> tuple[Tensor, Tensor]:
    """The upper left pixel of each tile, [batch, rows, columns, C], and whether another one differs from it."""
    batch, height, width, channels = image.shape
    lines = image.reshape(batch, height // TILE, TILE, width // TILE, TILE * channels)
    words = lines.view(torch.int64)  # eight bytes at once
    top = lines[:, :, 0]
    uneven = (words[:, :, 1:] != words[:, :, :1]).any(2).any(-1)
    return top[..., :channels], uneven | (top[..., channels:] != top[..., :-channels]).any(-1)


def _fours(tiles: Tensor) -> Tensor:
    """Tiles [batch, 2 rows, 2 columns, n] as patches [batch, rows, columns, 4 n]."""
    return tiles.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).transpose(2, 3).flatten(3)


def _precision(x: Tensor) -> torch.dtype:
    """What pixels are best computed in."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32


def padded(text: Ragged) -> tuple[Tensor, Tensor]:
    """Bytes, an END behind each text and PAD behind that, int64 [batch, longest + 1]; the texts' lengths [batch]."""
    lengths = text.lengths.to(text.values.device)
    at = torch.arange(int(lengths.max()) + 1, device=lengths.device)
    ids = torch.where(at < lengths[:, None], 0, torch.where(at == lengths[:, None], END, PAD))
    ids[at < lengths[:, None]] = text.values.long()
    return ids, lengths
