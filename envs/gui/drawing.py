"""Drawing into a uint8 array [H, W, 3]: filled rectangles, text and small shapes, clipped, a microsecond or two each.

Pillow draws every glyph and shape once, as coverage in 16 levels; from then on they are cached bitmaps that numpy
blends by a table of 16 colours. So what is drawn upon must be of one known colour, which it is on a desktop. Left out:
gradients, transparency, kerning (each character advances by whole pixels, as carets like it).
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = int  # 0xRRGGBB
Rect = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside
Mask = NDArray[np.uint8]  # [h, w], coverage 0 to LEVELS
Face = Literal["aileron", "sans", "bold", "serif", "mono"]

LEVELS = 15
FACES: tuple[Face, ...] = ("aileron", "sans", "bold", "serif", "mono")
# matplotlib carries the DejaVu family; Pillow carries Aileron itself.
_FILES = {
    "sans": "DejaVuSans.ttf",
    "bold": "DejaVuSans-Bold.ttf",
    "serif": "DejaVuSerif.ttf",
    "mono": "DejaVuSansMono.ttf",
}
_KEPT = 4096  # entries of a cache


class Font:
    """A face at a size. `height` is a line's, in pixels. Made once by `font`."""

    def __init__(self, face: Face, size: int) -> None:
        self.face, self.size = face, size
        self._font = _load(face, size)
        ascent, descent = self._font.getmetrics()
        self.height = ascent + descent
        self._glyphs: dict[str, tuple[Mask, int]] = {}  # coverage from one pixel left of the origin, advance
        self._masks: dict[str, Mask] = {}
        self._widths: dict[str, int] = {}

    def width(self, text: str) -> int:
        """Pixels that `text` advances."""
        found = self._widths.get(text)
        if found is None:
            if len(self._widths) >= _KEPT:
                self._widths.clear()
            found = self._widths[text] = sum([self._glyph(character)[1] for character in text])
        return found

    def mask(self, text: str) -> Mask:
        """Coverage of a line of text, [height, width + 2]: one pixel more on each side than it advances."""
        found = self._masks.get(text)
        if found is None:
            found = np.zeros((self.height, self.width(text) + 2), np.uint8)
            x = 0
            for character in text:
                glyph, advance = self._glyph(character)
                part = found[:, x : x + glyph.shape[1]]
                np.maximum(part, glyph[:, : part.shape[1]], out=part)
                x += advance
            if len(self._masks) >= _KEPT:
                self._masks.clear()
            self._masks[text] = found
        return found

    def index_at(self, text: str, x: float) -> int:
        """The gap between characters nearest to `x` pixels from the start of `text`."""
        position = 0.0
        for i, character in enumerate(text):
            advance = self._glyph(character)[1]
            if x < position + advance / 2:
                return i
            position += advance
        return len(text)

    def fit(self, text: str, width: int) -> str:
        """`text`, cut with two dots where it is wider than `width` pixels."""
        if self.width(text) <= width:
            return text
        while text and self.width(text + "..") > width:
            text = text[:-1]
        return text + ".."

    def _glyph(self, character: str) -> tuple[Mask, int]:
        found = self._glyphs.get(character)
        if found is None:
            advance = max(round(self._font.getlength(character)), 1)
            image = Image.new("L", (advance + 2, self.height))
            ImageDraw.Draw(image).text((1, 0), character, font=self._font, fill=255)
            found = self._glyphs[character] = _levels(image), advance
        return found


@functools.cache
def font(face: Face, size: int) -> Font:
    """The font of a face and size in pixels."""
    return Font(face, size)


def _load(face: Face, size: int) -> ImageFont.FreeTypeFont:
    if face != "aileron":
        matplotlib = importlib.util.find_spec("matplotlib")
        if matplotlib is not None and matplotlib.origin is not None:
            path = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf" / _FILES[face]
            if path.is_file():
                return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
    loaded = ImageFont.load_default(size)
    assert isinstance(loaded, ImageFont.FreeTypeFont)
    return loaded


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(0, 0), (1, 0), (1, 1), (0, 1)],
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "diamond": [(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)],
    "cross": [
        *[(0.33, 0), (0.67, 0), (0.67, 0.33), (1, 0.33), (1, 0.67), (0.67, 0.67)],
        *[(0.67, 1), (0.33, 1), (0.33, 0.67), (0, 0.67), (0, 0.33), (0.33, 0.33)],
    ],
    "star": [
        *[(0.5, 0), (0.62, 0.36), (1, 0.38), (0.7, 0.61), (0.81, 1)],
        *[(0.5, 0.77), (0.19, 1), (0.3, 0.61), (0, 0.38), (0.38, 0.36)],
    ],
    "tick": [(0, 0.5), (0.15, 0.35), (0.4, 0.6), (0.85, 0.1), (1, 0.25), (0.4, 0.9)],
    "x": [
        *[(0.15, 0), (0.5, 0.35), (0.85, 0), (1, 0.15), (0.65, 0.5), (1, 0.85)],
        *[(0.85, 1), (0.5, 0.65), (0.15, 1), (0, 0.85), (0.35, 0.5), (0, 0.15)],
    ],
    "down": [(0, 0.2), (1, 0.2), (0.5, 0.8)],
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star")


@functools.lru_cache(_KEPT)
def shape_mask(kind: str, size: int) -> Mask:
    """Coverage of a shape, [size, size]: one of SHAPES, "ring", "tick", "x" or "down" (an arrow)."""
    fine = size * 4
    image = Image.new("L", (fine, fine))
    draw = ImageDraw.Draw(image)
    if kind in ("circle", "ring"):
        draw.ellipse((0, 0, fine - 1, fine - 1), fill=255)
        if kind == "ring":
            draw.ellipse((5, 5, fine - 6, fine - 6), fill=0)
    else:
        draw.polygon([(x * (fine - 1), y * (fine - 1)) for x, y in _OUTLINES[kind]], fill=255)
    return _levels(image.resize((size, size), Image.Resampling.BOX))


def _levels(image: Image.Image) -> Mask:
    return ((np.asarray(image, np.uint16) * LEVELS + 127) // 255).astype(np.uint8)


@functools.lru_cache(_KEPT)
def _row(colour: Colour, width: int) -> NDArray[np.uint8]:
    # A row to copy from: assigning a colour to a rectangle would loop over triples instead of rows.
    return np.frombuffer(colour.to_bytes(3) * width, np.uint8).reshape(width, 3)


_STEPS = np.arange(LEVELS + 1, dtype=np.uint16)[:, None]


@functools.lru_cache(_KEPT)
def _ramp(colour: Colour, back: Colour) -> NDArray[np.uint8]:
    low, high = (np.frombuffer(c.to_bytes(3), np.uint8).astype(np.uint16) for c in (back, colour))
    return ((low * (LEVELS - _STEPS) + high * _STEPS) // LEVELS).astype(np.uint8)


class Canvas:
    """Draws into `pixels`, uint8 [H, W, 3], inside `clip`. Rectangles are (x, y, width, height) in pixels."""

    __slots__ = ("bottom", "left", "pixels", "right", "top", "width")

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self.pixels = pixels
        self.width = pixels.shape[1]
        self.clip = (0, 0, pixels.shape[1], pixels.shape[0])

    @property
    def clip(self) -> Rect:
        """Nothing outside it is touched."""
        return self.left, self.top, self.right, self.bottom

    @clip.setter
    def clip(self, rect: Rect) -> None:
        self.left, self.top, self.right, self.bottom = rect

    def fill(self, x: int, y: int, w: int, h: int, colour: Colour) -> None:
        """A filled rectangle."""
        left = x if x > self.left else self.left
        top = y if y > self.top else self.top
        right = x + w if x + w < self.right else self.right
        bottom = y + h if y + h < self.bottom else self.bottom
        if left < right and top < bottom:
            self.pixels[top:bottom, left:right] = _row(colour, self.width)[: right - left]

    def box(self, x: int, y: int, w: int, h: int, border: Colour, inside: Colour) -> None:
        """A filled rectangle with a border of one pixel."""
        self.fill(x, y, w, h, border)
        self.fill(x + 1, y + 1, w - 2, h - 2, inside)

    def corners(self, x: int, y: int, w: int, h: int, back: Colour) -> None:
        """Rounds the corners of a box off, by a pixel each."""
        self.fill(x, y, 1, 1, back)
        self.fill(x + w - 1, y, 1, 1, back)
        self.fill(x, y + h - 1, 1, 1, back)
        self.fill(x + w - 1, y + h - 1, 1, 1, back)

    def mask(self, x: int, y: int, mask: Mask, colour: Colour, back: Colour) -> None:
        """A shape's coverage in `colour`, on ground that is all `back`."""
        h, w = mask.shape
        left = x if x > self.left else self.left
        top = y if y > self.top else self.top
        right = x + w if x + w < self.right else self.right
        bottom = y + h if y + h < self.bottom else self.bottom
        if left < right and top < bottom:
            if right - left < w or bottom - top < h:
                mask = mask[top - y : bottom - y, left - x : right - x]
            self.pixels[top:bottom, left:right] = _ramp(colour, back).take(mask, axis=0)

    def text(self, x: int, y: int, text: str, font: Font, colour: Colour, back: Colour) -> None:
        """A line of text with its upper left corner at (x, y), on ground that is all `back`."""
        if text:
            self.mask(x - 1, y, font.mask(text), colour, back)
