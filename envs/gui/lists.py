"""Widgets that offer rows of text: list boxes, drop-downs, and the menus that pop up."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from envs.gui.containers import BAR, ScrollArea
from envs.gui.drawing import Canvas, shape_mask
from envs.gui.theme import Theme
from envs.gui.widgets import Widget, nothing


class ListBox(ScrollArea):
    """Rows of text to scroll through, of which one can be chosen."""

    focusable = True

    def __init__(self, theme: Theme, items: Sequence[str], w: int, h: int) -> None:
        super().__init__(theme, w, h)
        self.items, self.chosen = list(items), -1
        self.row = theme.font.height + 2
        self.hold(self.row * len(items) + 2)

    def row_at(self, index: int) -> int:
        """The row's upper edge on the screen."""
        return self.y + 1 - self.offset + index * self.row

    def draw(self, canvas: Canvas) -> None:
        theme = self.theme
        border = theme.accent if self.focused or self.hovered else theme.border
        canvas.box(self.x, self.y, self.w, self.h, border, theme.field)
        for i, item in enumerate(self.items):
            y = self.row_at(i)
            if y + self.row <= canvas.top or y >= canvas.bottom:
                continue
            back, colour = theme.field, theme.field_text
            if i == self.chosen:
                back, colour = theme.accent, theme.accent_text
                canvas.fill(self.x + 1, y, self.w - 1, self.row, back)
            canvas.text(self.x + 4, y + 1, item, theme.font, colour, back)

    def choose(self, index: int) -> None:
        """Chooses a row and brings it into sight."""
        self.chosen = index
        top = index * self.row
        if top < self.offset:
            self.scroll_to(top)
        elif top + self.row + 2 > self.offset + self.h:
            self.scroll_to(top + self.row + 2 - self.h)
        self.changed()

    def click(self, x: int, y: int) -> None:
        if x >= self.x + self.w - BAR:
            super().click(x, y)
            return
        index = (y - self.y - 1 + self.offset) // self.row
        if 0 <= index < len(self.items):
            self.chosen = index
            self.changed()

    def key(self, keys: str) -> bool:
        last = len(self.items) - 1
        goal = {"up": max(self.chosen - 1, 0), "down": min(self.chosen + 1, last), "home": 0, "end": last}.get(keys)
        if goal is None:
            return False
        self.choose(goal)
        return True


class Popup(Widget):
    """A menu above everything else. `picked` is told the row; a click elsewhere closes it."""

    reacts = True

    def __init__(self, theme: Theme, items: Sequence[str], picked: Callable[[int], None], w: int = 0) -> None:
        self.row = theme.font.height + 3
        natural = max(theme.font.width(item) for item in items) + 10
        super().__init__(theme, max(natural, w), self.row * len(items) + 2)
        self.items, self.picked = list(items), picked
        self.chosen = -1  # the row marked by keys or pointer

    def row_at(self, index: int) -> tuple[int, int]:
        """The middle of a row."""
        return self.x + self.w // 2, self.y + 1 + index * self.row + self.row // 2

    def index_at(self, y: int) -> int:
        """The row at a height."""
        return min(max((y - self.y - 1) // self.row, 0), len(self.items) - 1)

    def draw(self, canvas: Canvas) -> None:
        theme = self.theme
        canvas.box(self.x, self.y, self.w, self.h, theme.border, theme.field)
        for i, item in enumerate(self.items):
            y, back, colour = self.y + 1 + i * self.row, theme.field, theme.field_text
            if i == self.chosen:
                back, colour = theme.accent, theme.accent_text
                canvas.fill(self.x + 1, y, self.w - 2, self.row, back)
            canvas.text(self.x + 5, y + 1, item, theme.font, colour, back)

    def mark(self, index: int) -> None:
        """Marks a row."""
        if index != self.chosen:
            self.chosen = index
            self.changed()

    def click(self, x: int, y: int) -> None:
        self.pick(self.index_at(y))

    def pick(self, index: int) -> None:
        """Closes the menu and tells what was picked."""
        if self.screen is not None:
            self.screen.close_popup()
        self.picked(index)

    def key(self, keys: str) -> bool:
        match keys:
            case "esc" | "tab" | "shift tab":
                if self.screen is not None:
                    self.screen.close_popup()
            case "up" | "down":
                self.mark((self.chosen + (1 if keys == "down" else -1)) % len(self.items))
            case "enter" | "space":
                if self.chosen >= 0:
                    self.pick(self.chosen)
            case _:
                return False
        return True


class DropDown(Widget):
    """Shows what is chosen of several; a click opens the list. `chosen` is -1 at first, where a hint stands."""

    focusable = True
    reacts = True

    def __init__(self, theme: Theme, items: Sequence[str], w: int = 0, hint: str = "Choose") -> None:
        widest = max(theme.font.width(item) for item in (*items, hint))
        super().__init__(theme, max(widest + theme.font.height + 10, w), theme.font.height + 5)
        self.items, self.hint, self.chosen = list(items), hint, -1
        self.picked: Callable[[], None] = nothing

    def draw(self, canvas: Canvas) -> None:
        theme, side = self.theme, self.theme.font.height
        border = theme.accent if self.focused or self.hovered else theme.border
        canvas.box(self.x, self.y, self.w, self.h, border, theme.field)
        text = self.hint if self.chosen < 0 else self.items[self.chosen]
        canvas.text(self.x + 4, self.y + 2, text, theme.font, theme.field_text, theme.field)
        x = self.x + self.w - side - 2
        canvas.fill(x, self.y + 1, side + 1, self.h - 2, theme.button)
        canvas.mask(x + 3, self.y + 5, shape_mask("down", side - 5), theme.button_text, theme.button)

    def choose(self, index: int) -> None:
        """Chooses an item."""
        self.chosen = index
        self.changed()
        self.picked()

    def click(self, x: int, y: int) -> None:
        if self.screen is not None:
            popup = Popup(self.theme, self.items, self.choose, self.w)
            popup.chosen = self.chosen
            self.screen.open_popup(popup, self.x, self.y + self.h, above=self.y)

    def key(self, keys: str) -> bool:
        match keys:
            case "space" | "enter":
                self.click(*self.centre)
            case "up" | "down":
                self.choose(min(max(self.chosen + (1 if keys == "down" else -1), 0), len(self.items) - 1))
            case _:
                return False
        return True
