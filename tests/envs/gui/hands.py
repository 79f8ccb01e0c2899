"""A screen with widgets on it, and a user in front of it."""

from __future__ import annotations

from random import Random

import numpy as np

from envs.gui.actions import Action
from envs.gui.desktop import Desktop
from envs.gui.theme import random_theme
from envs.gui.widgets import Widget

THEME = random_theme(Random(5))


class Hands:
    """A screen with widgets below one another, and a user in front of it."""

    def __init__(self, *widgets: Widget) -> None:
        self.pixels = np.zeros((210, 160, 3), np.uint8)
        self.screen = Desktop(self.pixels, THEME)
        y = 10
        for widget in widgets:
            widget.place(10, y)
            y += widget.h + 10
        self.screen.add(*widgets)

    def do(self, kind: str, **arguments) -> None:
        self.screen.do(Action(kind, **arguments))

    def point(self, x: int, y: int) -> tuple[float, float]:
        return (x + 0.5) / 160, (y + 0.5) / 210

    def click(self, where: Widget | tuple[int, int], kind: str = "click") -> None:
        spot = where.centre if isinstance(where, Widget) else where
        self.do(kind, point=self.point(*spot))

    def drag(self, start: tuple[int, int], end: tuple[int, int]) -> None:
        self.do("drag", start=self.point(*start), end=self.point(*end))

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.do("hotkey", keys=key)

    def type(self, text: str) -> None:
        self.do("type", text=text)

    def scroll(self, where: Widget, direction: str) -> None:
        self.do("scroll", point=self.point(*where.centre), direction=direction)

    def shot(self) -> np.ndarray:
        self.screen.draw()
        return self.pixels.copy()
