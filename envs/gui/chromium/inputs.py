"""What the mouse and the keyboard do in an action, as commands of Chromium's DevTools protocol.

Pure functions: pixels and keys in, `(method, parameters)` out, in the order in which they happen.
"""

from __future__ import annotations

from typing import Any

from envs.gui.actions import Action, pixel

Command = tuple[str, dict[str, Any]]

DRAG_STEPS = 6  # moves on the way: pages take fewer than two for a click
_CTRL, _SHIFT = 2, 8
_MODIFIERS = {"ctrl": ("Control", 17, _CTRL), "shift": ("Shift", 16, _SHIFT)}
# Names as in KeyboardEvent.key, and Windows' virtual key codes, which pages know as `keyCode`.
_NAMED: dict[str, tuple[str, int, str]] = {
    "enter": ("Enter", 13, "\r"),
    "tab": ("Tab", 9, ""),
    "esc": ("Escape", 27, ""),
    "space": (" ", 32, " "),
    "backspace": ("Backspace", 8, ""),
    "delete": ("Delete", 46, ""),
    "left": ("ArrowLeft", 37, ""),
    "right": ("ArrowRight", 39, ""),
    "up": ("ArrowUp", 38, ""),
    "down": ("ArrowDown", 40, ""),
    "home": ("Home", 36, ""),
    "end": ("End", 35, ""),
    "pageup": ("PageUp", 33, ""),
    "pagedown": ("PageDown", 34, ""),
}
_PLAIN, _SHIFTED = "`-=[]\\;',./1234567890", '~_+{}|:"<>?!@#$%^&*()'
_CODES = (192, 189, 187, 219, 221, 220, 186, 222, 188, 190, 191, *(ord(digit) for digit in "1234567890"))
_SYMBOLS = {
    character: (code, modifiers)
    for characters, modifiers in ((_PLAIN, 0), (_SHIFTED, _SHIFT))
    for character, code in zip(characters, _CODES, strict=True)
}


def commands(action: Action, size: tuple[int, int]) -> list[Command]:
    """What carries out an action on a screen of `size` (width, height); nothing for `wait`, `finished` and such."""
    match action.type:
        case "click":
            return _click(_place(action, size))
        case "left_double":
            return _click(_place(action, size)) + _click(_place(action, size), count=2)
        case "right_single":
            return _click(_place(action, size), button="right")
        case "drag":
            assert action.start is not None
            assert action.end is not None
            (x0, y0), (x1, y1) = pixel(action.start, size), pixel(action.end, size)
            steps = [i / DRAG_STEPS for i in range(1, DRAG_STEPS + 1)]
            way = [_mouse("mouseMoved", (x0 + (x1 - x0) * t, y0 + (y1 - y0) * t), "left", 1) for t in steps]
            return [*_press((x0, y0)), *way, _mouse("mouseReleased", (x1, y1), "left")]
        case "scroll":
            x, y = _place(action, size)
            # A quarter of the screen: some 50 pixels on MiniWoB's.
            by = {"up": (0, -1), "down": (0, 1), "left": (-1, 0), "right": (1, 0)}[action.direction or "down"]
            wheel = {"deltaX": by[0] * round(size[1] / 4), "deltaY": by[1] * round(size[1] / 4)}
            turn = {"type": "mouseWheel", "x": x, "y": y, **wheel}
            return [_mouse("mouseMoved", (x, y)), ("Input.dispatchMouseEvent", turn)]
        case "type":
            return [command for character in action.text or "" for command in _character(character)]
        case "hotkey":
            return _hotkey(action.keys or "")
    return []


def pointer_after(action: Action, size: tuple[int, int], before: tuple[int, int]) -> tuple[int, int]:
    """The pixel at which the pointer is after an action."""
    point = action.end or action.point
    return before if point is None else pixel(point, size)


def move(x: int, y: int) -> Command:
    """The pointer goes to a pixel of the window."""
    return _mouse("mouseMoved", (x, y))


def _place(action: Action, size: tuple[int, int]) -> tuple[int, int]:
    assert action.point is not None
    return pixel(action.point, size)


def _mouse(kind: str, at: tuple[float, float], button: str = "none", held: int = 0, count: int = 1) -> Command:
    event: dict[str, Any] = {"type": kind, "x": at[0], "y": at[1], "button": button, "buttons": held}
    if kind != "mouseMoved":
        event["clickCount"] = count
    return "Input.dispatchMouseEvent", event


def _press(at: tuple[float, float], button: str = "left", count: int = 1) -> list[Command]:
    held = {"left": 1, "right": 2}[button]
    return [_mouse("mouseMoved", at), _mouse("mousePressed", at, button, held, count)]


def _click(at: tuple[int, int], button: str = "left", count: int = 1) -> list[Command]:
    return [*_press(at, button, count), _mouse("mouseReleased", at, button, 0, count)]


def _key(key: str, code: int, modifiers: int = 0, text: str = "") -> list[Command]:
    event: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
    down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
    return [("Input.dispatchKeyEvent", {**down, **event}), ("Input.dispatchKeyEvent", {"type": "keyUp", **event})]


def _character(character: str) -> list[Command]:
    if character == "\n":
        return _key(*_NAMED["enter"][:2], text="\r")
    if character in _SYMBOLS:
        code, modifiers = _SYMBOLS[character]
    else:
        code, modifiers = ord(character.upper()), _SHIFT if character.isupper() else 0
    return _key(character, code, modifiers, character)


def _hotkey(keys: str) -> list[Command]:
    *held, last = keys.split(" ")
    modifiers = sum(_MODIFIERS[name][2] for name in held)
    key, code, text = _NAMED.get(last) or (last, ord(last.upper()), "")
    done = _key(key, code, modifiers, text)
    for name in reversed(held):
        down, up = _key(*_MODIFIERS[name])
        done = [down, *done, up]
    return done
