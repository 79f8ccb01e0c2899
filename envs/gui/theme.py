"""How a screen looks: colours and font, drawn at random so that no policy can rely on them."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from random import Random

from envs.gui.drawing import FACES, Colour, Font, font


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of a desktop's parts; `accent` marks selection, focus and progress."""

    desktop: Colour
    desktop_text: Colour
    window: Colour
    border: Colour
    title: Colour
    title_text: Colour
    text: Colour
    button: Colour
    button_text: Colour
    hover: Colour  # a button under the pointer
    field: Colour
    field_text: Colour
    accent: Colour
    accent_text: Colour
    rounded: bool
    font: Font


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """A colour from hue (in turns), saturation and value."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return int(r * 255 + 0.5) << 16 | int(g * 255 + 0.5) << 8 | int(b * 255 + 0.5)


def luminance(colour: Colour) -> float:
    """Perceived brightness, 0 to 1 (Rec. 601)."""
    return ((colour >> 16) * 0.299 + (colour >> 8 & 255) * 0.587 + (colour & 255) * 0.114) / 255


def shade(colour: Colour, amount: float) -> Colour:
    """`colour` moved towards white (amount > 0) or black (amount < 0)."""
    goal, share = (255, amount) if amount > 0 else (0, -amount)
    r, g, b = (int(c + (goal - c) * share) for c in (colour >> 16, colour >> 8 & 255, colour & 255))
    return r << 16 | g << 8 | b


def contrasting(colour: Colour) -> Colour:
    """Black or white, whichever reads better on `colour`."""
    return 0x000000 if luminance(colour) > 0.55 else 0xFFFFFF


def random_theme(rng: Random) -> Theme:
    """A theme in which every text can be read."""
    r = rng.random
    hue, other = r(), r()
    dark = r() < 0.25
    if dark:
        desktop, window = hsv(hue, 0.4 * r(), 0.1 + 0.2 * r()), hsv(hue, 0.2 * r(), 0.18 + 0.12 * r())
        text, field = hsv(hue, 0.1 * r(), 0.85 + 0.15 * r()), hsv(hue, 0.2 * r(), 0.1 * r())
        button = hsv(other, 0.4 * r(), 0.35 + 0.15 * r())
    else:
        desktop, window = hsv(hue, 0.6 * r(), 0.55 + 0.4 * r()), hsv(hue, 0.06 * r(), 0.9 + 0.1 * r())
        text, field = hsv(hue, 0.6 * r(), 0.25 * r()), 0xFFFFFF
        button = hsv(other, 0.5 * r(), 0.75 + 0.2 * r())
    accent = hsv(other + 0.3 * r(), 0.5 + 0.5 * r(), 0.5 + 0.3 * r())
    title = accent if r() < 0.5 else shade(window, 0.15 if dark else -0.15)
    return Theme(
        desktop=desktop,
        desktop_text=contrasting(desktop),
        window=window,
        border=shade(window, 0.35 if dark else -0.45),
        title=title,
        title_text=contrasting(title),
        text=text,
        button=button,
        button_text=contrasting(button),
        hover=shade(button, 0.2 if luminance(button) < 0.6 else -0.12),
        field=field,
        field_text=contrasting(field),
        accent=accent,
        accent_text=contrasting(accent),
        rounded=r() < 0.5,
        font=font(FACES[int(r() * len(FACES))], 9 + int(r() * 3)),
    )
