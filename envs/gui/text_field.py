"""A line of text to edit: caret, selection, clipboard, undo, as in any text field."""

from __future__ import annotations

from collections.abc import Callable

from envs.gui.drawing import Canvas
from envs.gui.theme import Theme
from envs.gui.widgets import Widget, nothing

_UNDO = 32  # edits remembered


class TextField(Widget):
    """One line of at most `limit` characters.

    `caret` and `anchor` are gaps between characters; what is between them is selected, and stands between two lines
    instead of on a ground of its own once it is `copied`: a screen shows what was done to it. `submitted` is called by
    enter. A `readonly` field can be selected and copied; a `secret` one shows dots and cannot be copied.
    """

    focusable = True
    reacts = True

    def __init__(
        self,
        theme: Theme,
        w: int,
        text: str = "",
        *,
        submitted: Callable[[], None] = nothing,
        readonly: bool = False,
        secret: bool = False,
        limit: int = 64,
    ) -> None:
        super().__init__(theme, w, theme.font.height + 4)
        self.text, self.submitted, self.readonly, self.secret, self.limit = text, submitted, readonly, secret, limit
        self.caret = self.anchor = len(text)
        self.copied = False  # what is selected
        self.offset = 0  # pixels of the text that are out of sight on the left
        self._undo: list[tuple[str, int]] = []

    @property
    def selection(self) -> tuple[int, int]:
        """The selected gap-to-gap range (from, to); empty where both are equal."""
        return (self.caret, self.anchor) if self.caret < self.anchor else (self.anchor, self.caret)

    @property
    def shown(self) -> str:
        """The text as it is displayed."""
        return "*" * len(self.text) if self.secret else self.text

    def draw(self, canvas: Canvas) -> None:
        theme, font, shown = self.theme, self.theme.font, self.shown
        inside = theme.window if self.readonly else theme.field
        colour = theme.text if self.readonly else theme.field_text
        border = theme.accent if self.focused or self.hovered else theme.border
        canvas.box(self.x, self.y, self.w, self.h, border, inside)
        clip = canvas.clip
        canvas.clip = (
            max(clip[0], self.x + 2),
            max(clip[1], self.y + 1),
            min(clip[2], self.x + self.w - 2),
            min(clip[3], self.y + self.h - 1),
        )
        if canvas.left < canvas.right and canvas.top < canvas.bottom:
            x, y = self.x + 3 - self.offset, self.y + 2
            canvas.text(x, y, shown, font, colour, inside)
            if self.focused:
                first, last = self.selection
                if first < last:
                    start, width = x + font.width(shown[:first]), font.width(shown[first:last])
                    if self.copied:
                        canvas.fill(start, y, width, 1, theme.accent)
                        canvas.fill(start, y + font.height - 1, width, 1, theme.accent)
                    else:
                        canvas.fill(start, y, width, font.height, theme.accent)
                        canvas.text(start, y, shown[first:last], font, theme.accent_text, theme.accent)
                else:
                    canvas.fill(x + font.width(shown[: self.caret]), y, 1, font.height, colour)
        canvas.clip = clip

    def click(self, x: int, y: int) -> None:
        self._go(self._index(x))

    def double(self, x: int, y: int) -> None:
        """Selects the word."""
        at = self._index(x)
        space_before = self.text.rfind(" ", 0, at)
        space_after = self.text.find(" ", at)
        self.anchor = space_before + 1
        self._go(len(self.text) if space_after < 0 else space_after, keep_anchor=True)

    def drag(self, x0: int, y0: int, x1: int, y1: int) -> None:
        """Selects what is between the two."""
        self.anchor = self._index(x0)
        self._go(self._index(x1), keep_anchor=True)

    def select_all(self) -> None:
        """Selects the whole text, as tabbing into the field does."""
        self.anchor = 0
        self._go(len(self.text), keep_anchor=True)

    def insert(self, text: str) -> bool:
        """Types over the selection."""
        if self.readonly:
            return False
        first, last = self.selection
        room = self.limit - len(self.text) + last - first
        self._edit(first, last, text[:room])
        return True

    def key(self, keys: str) -> bool:
        first, last = self.selection
        extend = keys.startswith("shift ")
        match keys:
            case "left" | "shift left":
                self._go(first if first < last and not extend else max(self.caret - 1, 0), keep_anchor=extend)
            case "right" | "shift right":
                end = len(self.text)
                self._go(last if first < last and not extend else min(self.caret + 1, end), keep_anchor=extend)
            case "home" | "up" | "shift home":
                self._go(0, keep_anchor=extend)
            case "end" | "down" | "shift end":
                self._go(len(self.text), keep_anchor=extend)
            case "backspace" | "delete":
                if first == last:
                    first, last = (first - 1, last) if keys == "backspace" else (first, last + 1)
                if not self.readonly and first >= 0 and last <= len(self.text):
                    self._edit(first, last, "")
            case "space":
                self.insert(" ")
            case "enter":
                self.submitted()
            case "ctrl a":
                self.select_all()
            case "ctrl c" | "ctrl x" | "ctrl v" | "ctrl z":
                self._clipboard(keys[-1])
            case _:
                return False
        return True

    def _clipboard(self, key: str) -> None:
        assert self.screen is not None
        first, last = self.selection
        if key == "z":
            if self._undo:
                self.text, caret = self._undo.pop()
                self._go(caret)
        elif key == "v":
            self.insert(self.screen.clipboard)
        elif first < last and not self.secret:
            self.screen.clipboard = self.text[first:last]
            self.copied = True
            self.changed()
            if key == "x" and not self.readonly:
                self._edit(first, last, "")

    def _edit(self, first: int, last: int, text: str) -> None:
        self._undo = [*self._undo[1 - _UNDO :], (self.text, self.caret)]
        self.text = self.text[:first] + text + self.text[last:]
        self._go(first + len(text))

    def _go(self, caret: int, keep_anchor: bool = False) -> None:
        self.caret, self.copied = caret, False
        if not keep_anchor:
            self.anchor = caret
        # The caret stays in sight, and no room is left unused on the right.
        shown, room = self.shown, self.w - 8
        before, whole = self.theme.font.width(shown[:caret]), self.theme.font.width(shown)
        self.offset = max(min(self.offset, before, whole - room), before - room, 0)
        self.changed()

    def _index(self, x: int) -> int:
        return self.theme.font.index_at(self.shown, x - self.x - 3 + self.offset)
