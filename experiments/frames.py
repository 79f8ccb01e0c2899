"""Moments of an episode on a screen as pictures: pointer and action drawn in, the words around them, a heat map beside.

One picture shows what the policy saw and what it did there: the pointer where the action took it, a ring around a click
(two around a double click, a square around a click of the right button), an arrow along a drag or in the direction in
which a scroll shows more. The instruction stands above, the action's text below. On the right, where the policy tells,
the screen in grey under the probabilities of where it could have pointed. An episode's last picture shows what came of
it.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from envs.gui.actions import MOBILE, ActionError, parse
from envs.gui.viewer import with_pointer

Pixels = NDArray[np.uint8]

LEAST_WIDTH = 320  # pixels: smaller screens are enlarged by a whole number
SECONDS, LAST_SECONDS = 1.0, 2.0  # that a step is shown, and the end of an episode
_FONT, _LINE = 12, 15  # pixels
_ABOVE, _BELOW = 3, 3  # lines of text
_MARK, _HALO, _ARROW = (255, 0, 200), (255, 255, 255), 44


@dataclass(frozen=True)
class Moment:
    """One screen of an episode and what was done there.

    screenshot: uint8 [H, W, 3]; action: its text, "" where there was none; note: what else there is to say; heat:
    float [H, W], the probability of pointing at each pixel's patch, None where the policy tells none.
    """

    screenshot: Pixels
    instruction: str
    action: str
    note: str
    pointer: tuple[int, int] | None = None
    heat: NDArray[np.float32] | None = None
    last: bool = False


def draw(moment: Moment, *, heat: bool) -> Pixels:
    """The picture, uint8 [height, width, 3] with even sides; heat: with room for a heat map, whether there is one."""
    height, width = moment.screenshot.shape[:2]
    scale = max(1, -(-LEAST_WIDTH // width))
    shown = moment.screenshot if moment.pointer is None else with_pointer(moment.screenshot, moment.pointer)
    screens = [_mark(_enlarged(shown, scale), moment.action, (width, height))]
    if heat:
        screens.append(_enlarged(heated(moment.screenshot, moment.heat), scale))
    above, below = _ABOVE * _LINE + 6, _BELOW * _LINE + 6
    right, down = len(screens) * (scale * width + 4) - 4, above + scale * height + below
    picture = Image.new("RGB", (right + right % 2, down + down % 2), "white")
    for i, screen in enumerate(screens):
        picture.paste(screen, (i * (scale * width + 4), above))
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(_FONT)
    letters = max(int(right / font.getlength("n")), 10)
    pen.text((4, 2), _wrapped(moment.instruction, letters, _ABOVE), fill="black", font=font, spacing=_LINE - _FONT)
    done = "\n".join(filter(None, (moment.action.replace("\n", "\\n"), moment.note)))
    lines = _wrapped(done, letters, _BELOW)
    pen.text((4, above + scale * height + 2), lines, fill="black", font=font, spacing=_LINE - _FONT)
    return np.asarray(picture)


def heated(screenshot: Pixels, heat: NDArray[np.float32] | None) -> Pixels:
    """The screen in grey, uint8 [H, W, 3], under `heat` [H, W] from red to yellow, brightest where it is greatest."""
    grey = screenshot.mean(-1, keepdims=True) * 0.6
    if heat is None or not heat.max() > 0:
        return grey.repeat(3, -1).astype(np.uint8)
    share = np.sqrt(heat / heat.max())[..., None]  # the root lets the second likeliest be seen
    colour = np.concatenate((np.full_like(share, 255), 255 * share, np.zeros_like(share)), -1)
    return (grey * (1 - 0.85 * share) + colour * 0.85 * share).astype(np.uint8)


def sheet(moments: Sequence[Moment], across: int = 4) -> Pixels:
    """Their pictures side by side, `across` in a row."""
    pictures = [draw(moment, heat=moment.heat is not None) for moment in moments]
    height, width = (max(picture.shape[axis] for picture in pictures) for axis in (0, 1))
    across = min(across, len(pictures))
    whole = np.full((-(-len(pictures) // across) * height, across * width, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, across)
        whole[row * height :, column * width :][: picture.shape[0], : picture.shape[1]] = picture
    return whole


def gif(moments: Sequence[Moment]) -> bytes:
    """The moments one after another, as an animated GIF that repeats."""
    # A palette of each picture's own by the quickest method: a quarter of the time of Pillow's default, half its size.
    first, *others = (
        Image.fromarray(picture).quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        for picture in _pictures(moments)
    )
    durations = [int(1000 * (LAST_SECONDS if moment.last else SECONDS)) for moment in moments]
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    return file.getvalue()


def film(moments: Sequence[Moment], rate: int = 2) -> list[Pixels]:
    """Frames for a video of `rate` a second."""
    return [
        picture
        for moment, picture in zip(moments, _pictures(moments), strict=True)
        for _ in range(round(rate * (LAST_SECONDS if moment.last else SECONDS)))
    ]


def _pictures(moments: Sequence[Moment]) -> list[Pixels]:
    heat = any(moment.heat is not None for moment in moments)
    return [draw(moment, heat=heat) for moment in moments]


def _enlarged(pixels: Pixels, scale: int) -> Image.Image:
    image = Image.fromarray(pixels)
    return image.resize((scale * image.width, scale * image.height), Image.Resampling.NEAREST)


def _mark(image: Image.Image, action: str, size: tuple[int, int]) -> Image.Image:
    """Draw where on `image`, an enlarged screen of `size`, an action in UI-TARS's text points, if it does."""
    try:
        done = parse(action, size, types=MOBILE)
    except ActionError:
        return image
    pen = ImageDraw.Draw(image)
    if done.start is not None and done.end is not None:
        start, end = ((x * image.width, y * image.height) for x, y in (done.start, done.end))
        _ring(pen, start, 6)
        _arrow(pen, start, end)
    if done.point is None:
        return image
    x, y = done.point[0] * image.width, done.point[1] * image.height
    if done.direction is not None:
        across, down = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}[done.direction]
        _arrow(pen, (x, y), (x + across * _ARROW, y + down * _ARROW))
        return image
    _ring(pen, (x, y), 8)
    if done.type == "left_double":
        _ring(pen, (x, y), 13)
    if done.type == "right_single":
        pen.rectangle((x - 12, y - 12, x + 12, y + 12), outline=_MARK, width=2)
    return image


def _ring(pen: ImageDraw.ImageDraw, at: tuple[float, float], radius: int) -> None:
    for more, colour, width in ((1, _HALO, 4), (0, _MARK, 2)):
        r = radius + more
        pen.ellipse((at[0] - r, at[1] - r, at[0] + r, at[1] + r), outline=colour, width=width)


def _arrow(pen: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float]) -> None:
    angle = math.atan2(end[1] - start[1], end[0] - start[0])
    head = [(end[0] - 10 * math.cos(angle + side), end[1] - 10 * math.sin(angle + side)) for side in (0.5, -0.5)]
    for colour, width in ((_HALO, 5), (_MARK, 2)):
        pen.line((start, end), fill=colour, width=width)
    pen.polygon([end, *head], fill=_MARK, outline=_HALO)


def _wrapped(text: str, letters: int, lines: int) -> str:
    """`text` in at most so many lines of so many letters, cut with dots."""
    rows = [row for line in text.splitlines() for row in textwrap.wrap(line, letters) or [""]]
    if len(rows) > lines:
        rows = [*rows[: lines - 1], rows[lines - 1][: letters - 1] + "…"]
    return "\n".join(rows)
