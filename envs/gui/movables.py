"""What is taken by the pointer and moved: shapes, and icons on the desktop."""

from __future__ import annotations

from collections.abc import Sequence

from envs.gui.drawing import Canvas, Colour, shape_mask
from envs.gui.theme import Theme, shade
from envs.gui.widgets import Callback, Widget, nothing


class Shape(Widget):
    """A coloured shape. `pressed` is called by a click; `dropped` after it was dragged, where it may be."""

    def __init__(
        self, theme: Theme, kind: str, size: int, colour: Colour, pressed: Callback = nothing, movable: bool = False
    ) -> None:
        super().__init__(theme, size, size)
        self.kind, self.colour, self.pressed, self.movable = kind, colour, pressed, movable
        self.dropped: Callback = nothing

    def draw(self, canvas: Canvas) -> None:
        if self.kind == "square":
            canvas.fill(self.x, self.y, self.w, self.h, self.colour)
        else:
            canvas.mask(self.x, self.y, shape_mask(self.kind, self.w), self.colour, self.back)

    def click(self, x: int, y: int) -> None:
        self.pressed()

    def drag(self, x0: int, y0: int, x1: int, y1: int) -> None:
        if not self.movable:
            super().drag(x0, y0, x1, y1)
            return
        slide(self, x1 - x0, y1 - y0)
        self.dropped()


def slide(widget: Widget, dx: int, dy: int) -> None:
    """Moves a widget by what a drag moved, no further than the edges of what it stands on."""
    ground = widget.parent or widget.screen
    assert ground is not None
    widget.changed()
    x = min(max(widget.x + dx, ground.x), ground.x + ground.w - widget.w)
    y = min(max(widget.y + dy, ground.y), ground.y + ground.h - widget.h)
    widget.place(max(x, ground.x), max(y, ground.y))
    widget.changed()


class Icon(Widget):
    """A picture with its name beneath, on the desktop: a click selects it, a double click opens it."""

    reacts = True
    PICTURE = 20

    def __init__(self, theme: Theme, kind: str, text: str, opened: Callback = nothing) -> None:
        super().__init__(theme, max(theme.font.width(text) + 4, self.PICTURE + 4), self.PICTURE + theme.font.height + 3)
        self.kind, self.text, self.opened = kind, text, opened
        self.selected = False
        self.items: Sequence[tuple[str, Callback]] = ()  # of its context menu
        self.back = theme.desktop
        self.siblings: list[Icon] = [self]

    def draw(self, canvas: Canvas) -> None:
        theme = self.theme
        back, colour = (theme.accent, theme.accent_text) if self.selected else (self.back, theme.desktop_text)
        canvas.fill(self.x, self.y, self.w, self.h, back)
        if self.hovered and not self.selected:
            canvas.box(self.x, self.y, self.w, self.h, colour, back)
        draw_picture(canvas, self.kind, self.x + (self.w - self.PICTURE) // 2, self.y + 1, theme.title, back)
        x = self.x + (self.w - theme.font.width(self.text)) // 2
        canvas.text(x, self.y + self.PICTURE + 1, self.text, theme.font, colour, back)

    def click(self, x: int, y: int) -> None:
        for icon in self.siblings:
            if icon.selected is not (icon is self):
                icon.selected = icon is self
                icon.changed()

    def double(self, x: int, y: int) -> None:
        self.click(x, y)
        self.opened()

    def menu(self, x: int, y: int) -> None:
        self.click(x, y)
        if self.items and self.screen is not None:
            self.screen.open_menu(x, y, self.items)

    def drag(self, x0: int, y0: int, x1: int, y1: int) -> None:
        self.click(x0, y0)
        slide(self, x1 - x0, y1 - y0)


PICTURES = ("folder", "file", "mail", "disk", "clock", "globe")


def draw_picture(canvas: Canvas, kind: str, x: int, y: int, colour: Colour, back: Colour) -> None:
    """One of PICTURES, 20 pixels wide and high."""
    dark, light = shade(colour, -0.5), shade(colour, 0.7)
    match kind:
        case "folder":
            canvas.box(x + 1, y + 3, 8, 5, dark, colour)
            canvas.box(x + 1, y + 6, 18, 12, dark, colour)
        case "file":
            canvas.box(x + 4, y + 1, 13, 18, dark, light)
            for row in range(4, 16, 3):
                canvas.fill(x + 6, y + row, 9, 1, dark)
        case "mail":
            canvas.box(x + 1, y + 4, 18, 13, dark, light)
            canvas.mask(x + 4, y + 3, shape_mask("down", 12), colour, light)
        case "disk":
            canvas.box(x + 2, y + 2, 16, 16, dark, colour)
            canvas.fill(x + 5, y + 3, 10, 6, light)
            canvas.fill(x + 6, y + 12, 8, 5, dark)
        case "clock":
            canvas.mask(x + 1, y + 1, shape_mask("circle", 18), dark, back)
            canvas.mask(x + 2, y + 2, shape_mask("circle", 16), light, dark)
            canvas.fill(x + 9, y + 4, 2, 7, dark)
            canvas.fill(x + 9, y + 9, 6, 2, dark)
        case _:
            canvas.mask(x + 1, y + 1, shape_mask("circle", 18), colour, back)
            canvas.fill(x + 9, y + 2, 2, 16, dark)
            canvas.fill(x + 2, y + 9, 16, 2, dark)
