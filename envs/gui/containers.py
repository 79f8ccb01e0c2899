"""Widgets that hold others: windows and dialogs, tabs, scroll areas."""

from __future__ import annotations

from collections.abc import Sequence

from envs.gui.drawing import Canvas, shape_mask
from envs.gui.movables import slide
from envs.gui.theme import Theme
from envs.gui.widgets import Callback, Panel, Widget

BAR = 8  # pixels, the width of a scroll bar
_LEAST_THUMB = 10


class Window(Widget):
    """A window with a title, which drags it, and a close button unless `closed` is None.

    Its contents have the `inner` rectangle to themselves. A `modal` one (a dialog) lets nothing else be used.
    """

    def __init__(
        self, theme: Theme, title: str, w: int, h: int, *, closed: Callback | None = None, modal: bool = False
    ) -> None:
        super().__init__(theme, w, h)
        self.closed, self.modal = closed, modal
        self.bar = theme.font.height + 3
        self.title = theme.font.fit(title, w - self.bar - 6)

    @property
    def inner(self) -> tuple[int, int, int, int]:
        """x, y, width and height of the space below the title."""
        return self.x + 1, self.y + self.bar, self.w - 2, self.h - self.bar - 1

    @property
    def close_button(self) -> tuple[int, int, int]:
        """x, y and side of the close button."""
        side = self.bar - 4
        return self.x + self.w - side - 3, self.y + 2, side

    def draw(self, canvas: Canvas) -> None:
        theme = self.theme
        canvas.box(self.x, self.y, self.w, self.h, theme.border, theme.window)
        canvas.fill(self.x + 1, self.y + 1, self.w - 2, self.bar - 1, theme.title)
        canvas.text(self.x + 4, self.y + 2, self.title, theme.font, theme.title_text, theme.title)
        if self.closed is not None:
            x, y, side = self.close_button
            canvas.box(x, y, side, side, theme.title_text, theme.title)
            canvas.mask(x + 2, y + 2, shape_mask("x", side - 4), theme.title_text, theme.title)

    def click(self, x: int, y: int) -> None:
        left, top, side = self.close_button
        if self.closed is not None and left <= x < left + side and top <= y < top + side:
            self.close()
            self.closed()

    def close(self) -> None:
        """Takes it off the screen."""
        if self.screen is not None:
            self.screen.remove(self)

    def drag(self, x0: int, y0: int, x1: int, y1: int) -> None:
        if y0 < self.y + self.bar:
            slide(self, x1 - x0, y1 - y0)

    def key(self, keys: str) -> bool:
        if keys != "esc" or not self.modal or self.closed is None:
            return False
        self.close()
        self.closed()
        return True


class Tabs(Widget):
    """A row of tabs, each with a panel of which the chosen one's is shown."""

    focusable = True

    def __init__(self, theme: Theme, titles: Sequence[str], w: int, h: int) -> None:
        super().__init__(theme, w, h)
        self.titles, self.chosen = list(titles), 0
        self.bar = theme.font.height + 4
        natural = [theme.font.width(title) + 8 for title in titles]
        spare = max((w - sum(natural)) // len(natural), 0)
        self.widths = [width + spare for width in natural]
        self.panels = [Panel(theme, w, h - self.bar, border=theme.border) for _ in titles]
        for i, panel in enumerate(self.panels):
            panel.move(0, self.bar)
            panel.visible = i == 0
        self.add(*self.panels)

    def tab(self, index: int) -> tuple[int, int]:
        """The middle of a tab."""
        return self.x + sum(self.widths[:index]) + self.widths[index] // 2, self.y + self.bar // 2

    def draw(self, canvas: Canvas) -> None:
        theme, x = self.theme, self.x
        for i, (title, width) in enumerate(zip(self.titles, self.widths, strict=True)):
            here = i == self.chosen
            inside, colour = (theme.window, theme.text) if here else (theme.button, theme.button_text)
            border = theme.accent if here and self.focused else theme.border
            top = 0 if here else 2
            canvas.box(x, self.y + top, width, self.bar - top + 1, border, inside)
            left = x + (width - theme.font.width(title)) // 2
            canvas.text(left, self.y + 3, title, theme.font, colour, inside)
            x += width

    def choose(self, index: int) -> None:
        """Shows a tab's panel."""
        self.panels[self.chosen].visible = False
        self.chosen = index
        self.panels[index].visible = True
        self.changed()

    def click(self, x: int, y: int) -> None:
        if y >= self.y + self.bar:
            return
        for i, width in enumerate(self.widths):
            x -= width
            if x < self.x:
                self.choose(i)
                return

    def key(self, keys: str) -> bool:
        step = {"left": -1, "right": 1}.get(keys)
        if step is None:
            return False
        self.choose((self.chosen + step) % len(self.titles))
        return True


class ScrollArea(Widget):
    """A view onto contents higher than itself, with a scroll bar on the right.

    Its children keep true places on the screen, also out of sight: scrolling moves them.
    """

    reacts = True

    def __init__(self, theme: Theme, w: int, h: int) -> None:
        super().__init__(theme, w, h)
        self.offset = 0
        self.content = h  # pixels, the height of the contents

    def hold(self, height: int) -> None:
        """Tells how high the contents are."""
        self.content = max(height, self.h)

    @property
    def thumb(self) -> tuple[int, int]:
        """The thumb's upper edge and height."""
        height = max(self.h * self.h // self.content, _LEAST_THUMB)
        hidden = self.content - self.h
        return self.y + (self.offset * (self.h - height) // hidden if hidden else 0), height

    def scroll_to(self, offset: int) -> bool:
        """Shows the contents from `offset` pixels on; False where nothing moves."""
        offset = min(max(offset, 0), self.content - self.h)
        if offset == self.offset:
            return False
        for child in self.children:
            child.move(0, self.offset - offset)
        self.offset = offset
        self.changed()
        return True

    def reveal(self, widget: Widget) -> None:
        """Scrolls as little as brings a widget of its contents into sight."""
        above, below = self.y + 2 - widget.y, widget.y + widget.h + 2 - self.y - self.h
        if above > 0:
            self.scroll_to(self.offset - above)
        elif below > 0:
            self.scroll_to(self.offset + below)

    def paint(self, canvas: Canvas) -> None:
        clip = canvas.clip
        canvas.clip = (
            max(clip[0], self.x),
            max(clip[1], self.y),
            min(clip[2], self.x + self.w),
            min(clip[3], self.y + self.h),
        )
        if canvas.left < canvas.right and canvas.top < canvas.bottom:
            super().paint(canvas)
            self._draw_bar(canvas)
        canvas.clip = clip

    def draw(self, canvas: Canvas) -> None:
        canvas.box(self.x, self.y, self.w, self.h, self.theme.border, self.back)

    def _draw_bar(self, canvas: Canvas) -> None:
        theme, (top, height), x = self.theme, self.thumb, self.x + self.w - BAR
        canvas.box(x, self.y, BAR, self.h, theme.border, theme.field)
        if self.content > self.h:
            canvas.fill(x + 1, top + 1, BAR - 2, height - 2, theme.accent if self.hovered else theme.border)

    def click(self, x: int, y: int) -> None:
        top, height = self.thumb
        if x >= self.x + self.w - BAR and not top <= y < top + height:
            page = self.h - 8
            self.scroll_to(self.offset + (page if y >= top + height else -page))

    def drag(self, x0: int, y0: int, x1: int, y1: int) -> None:
        height = self.thumb[1]
        if x0 < self.x + self.w - BAR or height >= self.h:
            return
        self.scroll_to(self.offset + round((y1 - y0) * (self.content - self.h) / (self.h - height)))

    def wheel(self, direction: str) -> bool:
        step = {"up": -1, "down": 1}.get(direction, 0) * max(self.h * 2 // 3, 16)
        return self.scroll_to(self.offset + step)
