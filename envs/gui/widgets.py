"""What a screen is made of: the widget that all others are, and those that are pressed.

A widget knows its rectangle in pixels of the screen, draws itself, and answers events as a user expects: `click`,
`double`, `menu` (right button), `drag`, `wheel`, `key`, `insert`. It tells its screen which rectangle to draw again
(`changed`) and its task what happened by plain callbacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from envs.gui.drawing import Canvas, Colour, Font, shape_mask
from envs.gui.theme import Theme, contrasting, shade

if TYPE_CHECKING:
    from envs.gui.desktop import Desktop

Callback = Callable[[], None]


def nothing() -> None:
    """The callback of a widget that nobody listens to."""


class Widget:
    """A rectangle with children; x, y of the upper left corner."""

    focusable = False  # takes the keyboard when pressed or reached by tab
    reacts = False  # looks different under the pointer

    def __init__(self, theme: Theme, w: int = 0, h: int = 0) -> None:
        self.theme = theme
        self.x, self.y, self.w, self.h = 0, 0, w, h
        self.visible = self.enabled = True
        self.parent: Widget | None = None
        self.children: list[Widget] = []
        self.screen: Desktop | None = None
        self.back: Colour = theme.window  # the ground it stands on

    def add(self, *widgets: Widget) -> None:
        """Puts widgets, which keep their places on the screen, on top of those already here."""
        for widget in widgets:
            widget.parent = self
            self.children.append(widget)
            if self.screen is not None:
                widget.attach(self.screen)

    def attach(self, screen: Desktop) -> None:
        """Tells it and its children the screen they are on."""
        self.screen = screen
        for child in self.children:
            child.attach(screen)

    def move(self, dx: int, dy: int) -> None:
        """Shifts it and everything on it."""
        self.x += dx
        self.y += dy
        for child in self.children:
            child.move(dx, dy)

    def place(self, x: int, y: int) -> None:
        """Moves its upper left corner to (x, y)."""
        self.move(x - self.x, y - self.y)

    @property
    def centre(self) -> tuple[int, int]:
        """The pixel in its middle."""
        return self.x + self.w // 2, self.y + self.h // 2

    def holds(self, x: int, y: int) -> bool:
        """Whether a pixel is in the rectangle."""
        return self.x <= x < self.x + self.w and self.y <= y < self.y + self.h

    def at(self, x: int, y: int) -> Widget | None:
        """The topmost widget at a pixel."""
        if not self.visible or not self.holds(x, y):
            return None
        for child in reversed(self.children):
            found = child.at(x, y)
            if found is not None:
                return found
        return self

    def changed(self) -> None:
        """To be drawn again."""
        if self.screen is not None:
            self.screen.damage(self.x, self.y, self.w, self.h)

    @property
    def focused(self) -> bool:
        """Whether it has the keyboard."""
        return self.screen is not None and self.screen.focus is self

    @property
    def hovered(self) -> bool:
        """Whether the pointer is on it."""
        return self.screen is not None and self.screen.hover is self

    def paint(self, canvas: Canvas) -> None:
        """Draws it and its children, where the canvas' clip lets it."""
        if (  # the first and last letter of a text may reach a pixel further than it advances
            self.visible
            and self.x - 1 < canvas.right
            and self.y < canvas.bottom
            and self.x + self.w + 1 > canvas.left
            and self.y + self.h > canvas.top
        ):
            self.draw(canvas)
            for child in self.children:
                child.paint(canvas)

    def draw(self, canvas: Canvas) -> None:
        """Draws it without its children."""

    def click(self, x: int, y: int) -> None:
        """The left button was pressed and let go at a pixel of it."""

    def double(self, x: int, y: int) -> None:
        """A double click."""
        self.click(x, y)
        self.click(x, y)

    def menu(self, x: int, y: int) -> None:
        """A click with the right button."""

    def drag(self, x0: int, y0: int, x1: int, y1: int) -> None:
        """The left button was pressed at (x0, y0), a pixel of it, and let go at (x1, y1)."""
        if self.holds(x1, y1):
            self.click(x1, y1)

    def wheel(self, direction: str) -> bool:
        """Scrolls so that more is shown on the side `direction`; False where it does not scroll (further)."""
        return False

    def key(self, keys: str) -> bool:
        """A hotkey while it has the focus; False where it means nothing here."""
        return False

    def insert(self, text: str) -> bool:
        """Characters typed while it has the focus; False where it takes none."""
        return False


class Label(Widget):
    """Text to read; several lines where it holds newlines."""

    def __init__(
        self,
        theme: Theme,
        text: str,
        font: Font | None = None,
        colour: Colour | None = None,
        back: Colour | None = None,
    ) -> None:
        self.text, self.font = text, font or theme.font
        lines = text.split("\n")
        super().__init__(theme, max(self.font.width(line) for line in lines), self.font.height * len(lines))
        self.colour = theme.text if colour is None else colour
        self.back = theme.window if back is None else back

    def draw(self, canvas: Canvas) -> None:
        for i, line in enumerate(self.text.split("\n")):
            canvas.text(self.x, self.y + i * self.font.height, line, self.font, self.colour, self.back)


class Panel(Widget):
    """Ground of one colour for others to stand on; invisible where it has the colour of what it stands on."""

    def __init__(
        self, theme: Theme, w: int, h: int, colour: Colour | None = None, border: Colour | None = None
    ) -> None:
        super().__init__(theme, w, h)
        self.colour = theme.window if colour is None else colour
        self.border = self.colour if border is None else border

    def draw(self, canvas: Canvas) -> None:
        canvas.box(self.x, self.y, self.w, self.h, self.border, self.colour)


class Button(Widget):
    """A push button; `pressed` is called by a click, the space bar or enter."""

    focusable = True
    reacts = True

    def __init__(
        self,
        theme: Theme,
        text: str,
        pressed: Callback = nothing,
        w: int | None = None,
        colour: Colour | None = None,
        font: Font | None = None,
        pad: int = 4,
    ) -> None:
        self.font = font or theme.font
        super().__init__(theme, w or self.font.width(text) + 2 * pad + 4, self.font.height + pad)
        self.text, self.pressed = text, pressed
        self.colour = theme.button if colour is None else colour
        self.text_colour = theme.button_text if colour is None else contrasting(colour)
        self.light = theme.hover if colour is None else shade(colour, -0.15)

    def draw(self, canvas: Canvas) -> None:
        theme = self.theme
        inside = self.light if self.hovered and self.enabled else self.colour
        canvas.box(self.x, self.y, self.w, self.h, theme.accent if self.focused else theme.border, inside)
        if theme.rounded:
            canvas.corners(self.x, self.y, self.w, self.h, self.back)
        x = self.x + (self.w - self.font.width(self.text)) // 2
        colour = self.text_colour if self.enabled else shade(inside, -0.3)
        canvas.text(x, self.y + (self.h - self.font.height) // 2, self.text, self.font, colour, inside)

    def click(self, x: int, y: int) -> None:
        self.pressed()

    def key(self, keys: str) -> bool:
        if keys not in ("space", "enter"):
            return False
        self.pressed()
        return True


class Link(Button):
    """Underlined text that is pressed like a button."""

    def __init__(self, theme: Theme, text: str, pressed: Callback = nothing) -> None:
        super().__init__(theme, text, pressed, w=theme.font.width(text) + 2, pad=1)

    def draw(self, canvas: Canvas) -> None:
        font, colour = self.font, self.theme.text if self.hovered else shade(self.theme.text, 0.3)
        canvas.text(self.x + 1, self.y, self.text, font, colour, self.back)
        canvas.fill(self.x + 1, self.y + self.h - 1, self.w - 2, 1, self.theme.accent if self.focused else colour)


class CheckBox(Widget):
    """A box to tick and its text, which ticks it too."""

    focusable = True
    reacts = True

    def __init__(self, theme: Theme, text: str, checked: bool = False) -> None:
        self.side = theme.font.height - 3
        super().__init__(theme, self.side + 6 + theme.font.width(text), theme.font.height)
        self.text, self.checked = text, checked

    def draw(self, canvas: Canvas) -> None:
        theme, side = self.theme, self.side
        border = theme.accent if self.focused or self.hovered else theme.border
        inside = theme.accent if self.checked else theme.field
        canvas.box(self.x, self.y + 1, side, side, border, inside)
        if self.checked:
            canvas.mask(self.x + 2, self.y + 3, shape_mask("tick", side - 4), theme.accent_text, inside)
        canvas.text(self.x + side + 4, self.y, self.text, theme.font, theme.text, self.back)

    def click(self, x: int, y: int) -> None:
        self.checked = not self.checked
        self.changed()

    def key(self, keys: str) -> bool:
        if keys != "space":
            return False
        self.click(*self.centre)
        return True


class Radio(Widget):
    """One of several options, `group`, of which at most one is chosen."""

    focusable = True
    reacts = True

    def __init__(self, theme: Theme, text: str, group: list[Radio]) -> None:
        self.side = theme.font.height - 3
        super().__init__(theme, self.side + 6 + theme.font.width(text), theme.font.height)
        self.text, self.group, self.chosen = text, group, False
        group.append(self)

    def draw(self, canvas: Canvas) -> None:
        theme, side = self.theme, self.side
        border = theme.accent if self.focused or self.hovered else theme.border
        canvas.mask(self.x, self.y + 1, shape_mask("circle", side), border, self.back)
        canvas.mask(self.x + 1, self.y + 2, shape_mask("circle", side - 2), theme.field, border)
        if self.chosen:
            canvas.mask(self.x + 3, self.y + 4, shape_mask("circle", side - 6), theme.field_text, theme.field)
        canvas.text(self.x + side + 4, self.y, self.text, theme.font, theme.text, self.back)

    def click(self, x: int, y: int) -> None:
        for radio in self.group:
            if radio.chosen is not (radio is self):
                radio.chosen = radio is self
                radio.changed()

    def key(self, keys: str) -> bool:
        step = {"space": 0, "up": -1, "left": -1, "down": 1, "right": 1}.get(keys)
        if step is None or self.screen is None:
            return False
        other = self.group[(self.group.index(self) + step) % len(self.group)]
        other.click(*other.centre)
        self.screen.set_focus(other)
        return True


class Slider(Widget):
    """A horizontal slider of whole numbers, with its value to its right."""

    focusable = True
    reacts = True
    THUMB = 8

    def __init__(self, theme: Theme, low: int, high: int, value: int, w: int) -> None:
        super().__init__(theme, w, max(theme.font.height, 13))
        self.low, self.high, self.value = low, high, value
        self.track = w - 6 - max(theme.font.width(str(low)), theme.font.width(str(high)))

    def thumb(self, value: int) -> int:
        """The column of the thumb's middle at a value."""
        reach = self.track - self.THUMB
        return self.x + self.THUMB // 2 + round((value - self.low) / (self.high - self.low) * reach)

    def draw(self, canvas: Canvas) -> None:
        theme, middle = self.theme, self.y + self.h // 2
        canvas.fill(self.x, self.y, self.w, self.h, self.back)
        canvas.box(self.x, middle - 2, self.track, 4, theme.border, theme.field)
        thumb = self.thumb(self.value)
        canvas.fill(self.x + 1, middle - 1, thumb - self.x - 1, 2, theme.accent)
        border = theme.text if self.focused or self.hovered else theme.border
        canvas.box(thumb - self.THUMB // 2, middle - 6, self.THUMB, 12, border, theme.accent)
        y = self.y + (self.h - theme.font.height) // 2
        canvas.text(self.x + self.track + 4, y, str(self.value), theme.font, theme.text, self.back)

    def set(self, value: int) -> None:
        """Moves the thumb, no further than the ends."""
        self.value = min(max(value, self.low), self.high)
        self.changed()

    def _value_at(self, x: int) -> int:
        reach = self.track - self.THUMB
        return self.low + round((x - self.x - self.THUMB // 2) / reach * (self.high - self.low))

    def click(self, x: int, y: int) -> None:
        if x < self.x + self.track:
            self.set(self._value_at(x))

    def drag(self, x0: int, y0: int, x1: int, y1: int) -> None:
        if x0 < self.x + self.track:
            self.set(self._value_at(x1))

    def key(self, keys: str) -> bool:
        page = max((self.high - self.low) // 5, 1)
        steps = {"left": -1, "down": -1, "right": 1, "up": 1, "pageup": page, "pagedown": -page}
        if keys in steps:
            self.set(self.value + steps[keys])
        elif keys in ("home", "end"):
            self.set(self.low if keys == "home" else self.high)
        else:
            return False
        return True
