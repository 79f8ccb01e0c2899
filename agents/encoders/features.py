"""What encoders hand out: a pooled feature, and tokens with their place on the screen or in the text."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Size:
    """Size of a transformer built from scratch: 0.9 million parameters for images by default, 0.5 million for text."""

    patch: int = 16
    """Pixels a side of a patch."""
    width: int = 128
    heads: int = 4
    depth: int = 4
    text_depth: int = 2


@dataclass(frozen=True)
class Grid:
    """Where an image's patch tokens lie: token i covers the square of `patch` pixels a side whose upper left corner is
    at row patch * (i // columns), column patch * (i % columns). Squares of the last row and column may reach beyond
    the image, which is `height` by `width` pixels."""

    rows: int
    columns: int
    patch: int
    height: int
    width: int

    @classmethod
    def over(cls, height: int, width: int, patch: int) -> Grid:
        return cls(-(-height // patch), -(-width // patch), patch, height, width)

    def __len__(self) -> int:
        return self.rows * self.columns


@dataclass
class TextTokens:
    """Token features of N texts.

    values: [batch, tokens, dim]; mask: [batch, tokens], whether there is a token (each text has at least its end);
    spans: [batch, tokens, 2], the UTF-8 bytes [start, end) of the text that a token stands for, empty for marks such
    as the end. Texts are aligned at their beginning, so a token's index does not depend on the rest of the batch.
    """

    values: Tensor
    mask: Tensor
    spans: Tensor


@dataclass
class Features:
    """An encoder's view of N observations; `patches` and `text` are named by the observation's leaf paths.

    pooled: [batch, out_dim], every leaf's feature in the space's order; patches: an image's tokens
    [batch, rows * columns, dim]; text: a text's.
    """

    pooled: Tensor
    patches: dict[str, Tensor]
    text: dict[str, TextTokens]
