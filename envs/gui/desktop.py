"""The screen as a whole: pointer, keyboard focus, clipboard, windows on top of one another, and drawing what changed.

Only rectangles that changed are drawn again, into the caller's array, so that a step costs microseconds. Left out:
time (nothing moves by itself, no carets blink), so that a screen is a pure function of what was done to it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envs.gui.actions import Action, pixel
from envs.gui.containers import ScrollArea, Window
from envs.gui.drawing import Canvas
from envs.gui.lists import Popup
from envs.gui.movables import Icon
from envs.gui.text_field import TextField
from envs.gui.theme import Theme
from envs.gui.widgets import Callback, Widget


class Desktop:
    """A screen that draws itself into `pixels`, uint8 [H, W, 3].

    `layers` are the widgets on the desktop, the topmost last. A task ends the episode by `end`; `outcome` is then
    whether it succeeded.
    """

    def __init__(self, pixels: NDArray[np.uint8], theme: Theme) -> None:
        self.canvas, self.theme = Canvas(pixels), theme
        self.x = self.y = 0
        self.h, self.w = pixels.shape[:2]
        self.layers: list[Widget] = []
        self.popup: Popup | None = None
        self.focus: Widget | None = None
        self.hover: Widget | None = None
        self.pointer = (self.w // 2, self.h // 2)
        self.clipboard = ""
        self.outcome: bool | None = None
        self._damaged: dict[tuple[int, int, int, int], None] = {(0, 0, self.w, self.h): None}

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.w, self.h

    def add(self, *widgets: Widget) -> None:
        """Puts widgets on top."""
        for widget in widgets:
            self.layers.append(widget)
            widget.attach(self)
            self.damage(widget.x, widget.y, widget.w, widget.h)

    def remove(self, widget: Widget) -> None:
        """Takes a widget off the desktop."""
        if widget in self.layers:
            self.layers.remove(widget)
            self.damage(widget.x, widget.y, widget.w, widget.h)
            if self.focus is not None and _within(self.focus, widget):
                self.focus = None

    def end(self, success: bool) -> None:
        """Ends the episode; the first word counts."""
        if self.outcome is None:
            self.outcome = success

    # What is where

    def at(self, x: int, y: int) -> Widget | None:
        """The topmost widget at a pixel that can be used; None for the bare desktop and what a dialog bars."""
        if self.popup is not None and self.popup.holds(x, y):
            return self.popup
        dialog = self.dialog
        for layer in reversed(self.layers):
            found = layer.at(x, y)
            if found is not None:
                return found if dialog is None or layer is dialog else None
        return None

    @property
    def dialog(self) -> Window | None:
        """The dialog that must be answered first."""
        for layer in reversed(self.layers):
            if isinstance(layer, Window) and layer.modal:
                return layer
        return None

    def reach(self, widget: Widget) -> tuple[int, int] | None:
        """A pixel that belongs to a widget and to nothing above it, near its middle; None where it is out of sight."""
        x, y = widget.centre
        if 0 <= x < self.w and 0 <= y < self.h and self.at(x, y) is widget:
            return x, y
        spots = [
            (widget.x + (2 * column + 1) * widget.w // 12, widget.y + (2 * row + 1) * widget.h // 8)
            for column in range(6)
            for row in range(4)
        ]
        spots.sort(key=lambda spot: abs(spot[0] - x) + abs(spot[1] - y))
        for spot in spots:
            if 0 <= spot[0] < self.w and 0 <= spot[1] < self.h and self.at(*spot) is widget:
                return spot
        return None

    # What is done

    def do(self, action: Action) -> None:
        """Carries out an action. `finished` is for the task to judge; `wait` and `call_user` do nothing."""
        pointer, popup = self.pointer, self.popup
        match action.type:
            case "click" | "left_double" | "right_single" | "long_press":
                assert action.point is not None
                x, y = pixel(action.point, self.size)
                target = self._press(x, y)
                if target is not None and target.enabled:
                    event = {"click": target.click, "left_double": target.double}.get(action.type, target.menu)
                    event(x, y)
            case "drag":
                assert action.start is not None
                assert action.end is not None
                start, end = pixel(action.start, self.size), pixel(action.end, self.size)
                target = self._press(*start)
                self.pointer = end
                if target is not None and target.enabled:
                    target.drag(*start, *end)
            case "scroll":
                assert action.point is not None
                assert action.direction is not None
                self.pointer = pixel(action.point, self.size)
                target = self.at(*self.pointer)
                while target is not None and not target.wheel(action.direction):
                    target = target.parent
            case "hotkey":
                assert action.keys is not None
                self._key(action.keys)
            case "type":
                assert action.text is not None
                self._type(action.text)
            case "press_back":
                self._key("esc")
            case "press_home":
                self.close_popup()
                self.set_focus(None)
            case "open_app":
                for layer in self.layers:
                    if isinstance(layer, Icon) and layer.text == action.text and self.dialog is None:
                        layer.double(*layer.centre)
                        break
        self.point()
        if self.hover is popup is not None and self.pointer != pointer:
            popup.mark(popup.index_at(self.pointer[1]))

    def _press(self, x: int, y: int) -> Widget | None:
        # Brings the pointer to a pixel and presses; gives the widget that gets the event.
        self.pointer = (x, y)
        if self.popup is not None:
            if self.popup.holds(x, y):
                return self.popup
            self.close_popup()
            return None
        target = self.at(x, y)
        if target is None:
            self.set_focus(None)
            return None
        self._raise(target)
        self.set_focus(target if target.focusable and target.enabled else None)
        return target

    def _raise(self, widget: Widget) -> None:
        while widget.parent is not None:
            widget = widget.parent
        if isinstance(widget, Window) and self.layers[-1] is not widget:
            self.layers.remove(widget)
            self.layers.append(widget)
            self.damage(widget.x, widget.y, widget.w, widget.h)

    def _key(self, keys: str) -> None:
        if self.popup is not None:
            self.popup.key(keys)
        elif keys in ("tab", "shift tab"):
            self._tab(1 if keys == "tab" else -1)
        elif self.focus is None or not self.focus.key(keys):
            if self.dialog is not None and self.dialog.key(keys):
                return
            # As in a browser, keys that the focus does not want scroll what it stands on.
            direction = {"up": "up", "pageup": "up", "down": "down", "pagedown": "down"}.get(keys)
            widget = self.focus or self.at(*self.pointer)
            while direction is not None and widget is not None and not widget.wheel(direction):
                widget = widget.parent

    def _type(self, text: str) -> None:
        for i, line in enumerate(text.split("\n")):
            if i:
                self._key("enter")
            if not line or self.focus is None or self.popup is not None:
                continue
            if not self.focus.insert(line) and line.isspace():
                self.focus.key("space")

    def _tab(self, step: int) -> None:
        roots: Sequence[Widget] = [self.dialog] if self.dialog is not None else self.layers
        found = [widget for root in roots for widget in _focusable(root)]
        if not found:
            return
        at = found.index(self.focus) + step if self.focus in found else (0 if step > 0 else -1)
        target = found[at % len(found)]
        self.set_focus(target)
        if isinstance(target, TextField):
            target.select_all()
        area = target.parent
        while area is not None and not isinstance(area, ScrollArea):
            area = area.parent
        if area is not None:
            area.reveal(target)

    def set_focus(self, widget: Widget | None) -> None:
        """Gives the keyboard to a widget, or to none."""
        before, self.focus = self.focus, widget
        if before is not widget:
            for changed in (before, widget):
                if changed is not None:
                    changed.changed()

    def point(self) -> None:
        """Notes what is under the pointer, after things may have moved."""
        hover = self.at(*self.pointer)
        before, self.hover = self.hover, hover
        if before is not hover:
            for changed in (before, hover):
                if changed is not None and changed.reacts:
                    changed.changed()

    # Menus

    def open_popup(self, popup: Popup, x: int, y: int, above: int | None = None) -> None:
        """Opens a menu at (x, y), moved to fit the screen; where there is no room below, its end comes to `above`."""
        self.close_popup()
        if y + popup.h > self.h and above is not None and above >= popup.h:
            y = above - popup.h
        popup.place(max(min(x, self.w - popup.w), 0), max(min(y, self.h - popup.h), 0))
        popup.attach(self)
        self.popup = popup
        popup.changed()

    def open_menu(self, x: int, y: int, items: Sequence[tuple[str, Callback]]) -> None:
        """Opens a context menu of (text, what it does)."""
        self.open_popup(Popup(self.theme, [text for text, _ in items], lambda row: items[row][1]()), x, y, above=y)

    def close_popup(self) -> None:
        """Closes the menu that is open, if one is."""
        if self.popup is not None:
            self.popup.changed()
            self.popup = None

    # Drawing

    def damage(self, x: int, y: int, w: int, h: int) -> None:
        """A rectangle to draw again."""
        self._damaged[x, y, w, h] = None

    def draw(self) -> None:
        """Brings `pixels` up to date."""
        canvas = self.canvas
        for x, y, w, h in self._damaged:
            canvas.clip = clip = (max(x, 0), max(y, 0), min(x + w, self.w), min(y + h, self.h))
            if clip[0] >= clip[2] or clip[1] >= clip[3]:
                continue
            canvas.fill(x, y, w, h, self.theme.desktop)
            for layer in self.layers:
                layer.paint(canvas)
            if self.popup is not None:
                self.popup.paint(canvas)
        self._damaged.clear()


def _within(widget: Widget | None, ancestor: Widget) -> bool:
    while widget is not None:
        if widget is ancestor:
            return True
        widget = widget.parent
    return False


def _focusable(widget: Widget) -> list[Widget]:
    if not widget.visible or not widget.enabled:
        return []
    found = [widget] if widget.focusable else []
    for child in widget.children:
        found += _focusable(child)
    return found
