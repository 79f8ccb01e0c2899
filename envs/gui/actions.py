"""What can be done on a screen: the UI-TARS unified action space as one type, a Gymnasium space, and text.

`Action` is the typed form; `action_space` the tagged union of Gymnasium that policies see; `parse` and
`format_action` read and write UI-TARS's `Thought: ...\\nAction: click(point='<point>x y</point>')` in all the
notations that its models use (arXiv:2501.12326; the prompts and parser of the `ui-tars` package). Text of a model is
only ever scanned by regular expressions, never evaluated.

Left out: several actions in one response (a screen is looked at after each), and `press`/`release` of held keys.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

Point = tuple[float, float]  # x from the left, y from the top, as fractions of the screen
Coordinates = Literal["relative", "absolute"]
Notation = Literal["point", "box", "box_tokens"]

DESKTOP = (
    "click",
    "left_double",
    "right_single",
    "drag",
    "hotkey",
    "type",
    "scroll",
    "wait",
    "finished",
    "call_user",
)
MOBILE = (*DESKTOP, "long_press", "open_app", "press_home", "press_back")
DIRECTIONS = ("up", "down", "left", "right")  # the side of which more is shown
HOTKEYS = (
    *("enter", "tab", "shift tab", "esc", "space", "backspace", "delete"),
    *("left", "right", "up", "down", "home", "end", "pageup", "pagedown"),
    *("shift left", "shift right", "shift home", "shift end"),
    *("ctrl a", "ctrl c", "ctrl x", "ctrl v", "ctrl z"),
)
ARGUMENTS: dict[str, tuple[str, ...]] = {
    "click": ("point",),
    "left_double": ("point",),
    "right_single": ("point",),
    "drag": ("start", "end"),
    "hotkey": ("keys",),
    "type": ("text",),
    "scroll": ("point", "direction"),
    "wait": (),
    "finished": ("text",),
    "call_user": (),
    "long_press": ("point",),
    "open_app": ("text",),
    "press_home": (),
    "press_back": (),
}
TYPEABLE = frozenset(map(chr, range(0x20, 0x7F))) | {"\n"}
MAX_TEXT = 64  # characters of one action

_POINTS = ("point", "start", "end")


class ActionError(ValueError):
    """An action that does not exist or cannot be carried out; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Action:
    """One action: its type and exactly the arguments that `ARGUMENTS` names for it.

    Points are fractions of the screen, `keys` is one of `HOTKEYS`, `direction` one of `DIRECTIONS`, `text` at most
    `MAX_TEXT` characters of `TYPEABLE`; a trailing newline of typed text submits.

    Raises ActionError for anything else.
    """

    type: str
    point: Point | None = None
    start: Point | None = None
    end: Point | None = None
    direction: str | None = None
    keys: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        wanted = ARGUMENTS.get(self.type)
        if wanted is None:
            raise ActionError(f"there is no action {self.type!r}; there are {', '.join(MOBILE)}")
        for name in _NAMES:
            value = getattr(self, name)
            if (value is not None) != (name in wanted):
                raise ActionError(f"{self.type} {'needs' if name in wanted else 'takes no'} {name}")
            if value is not None and name in _POINTS:
                x, y = value
                if not (0.0 <= x <= 1.0 and 0.0 <= y <= 1.0):
                    raise ActionError(f"the point ({x:g}, {y:g}) is not on the screen")
        if self.direction is not None and self.direction not in DIRECTIONS:
            raise ActionError(f"direction is {self.direction!r}; it must be one of {', '.join(DIRECTIONS)}")
        if self.keys is not None and self.keys not in HOTKEYS:
            raise ActionError(f"there is no hotkey {self.keys!r}; there are {', '.join(HOTKEYS)}")
        if self.text is not None:
            if len(self.text) > MAX_TEXT:
                raise ActionError(f"{len(self.text)} characters of text; {MAX_TEXT} are the most")
            if not TYPEABLE.issuperset(self.text):
                strange = next(character for character in self.text if character not in TYPEABLE)
                raise ActionError(f"the keyboard has no {strange!r}")


_NAMES = ("point", "start", "end", "direction", "keys", "text")


def pixel(point: Point, size: tuple[int, int]) -> tuple[int, int]:
    """The pixel (column, row) of a screen of `size` (width, height) that holds `point`."""
    return min(int(point[0] * size[0]), size[0] - 1), min(int(point[1] * size[1]), size[1] - 1)


def action_space(types: tuple[str, ...] = DESKTOP) -> spaces.OneOf:
    """The tagged union: element i is the `Dict` of the arguments of `types[i]`, empty where it has none.

    Points are Box(0, 1, (2,), float32), `direction` and `keys` Discrete indices of `DIRECTIONS` and `HOTKEYS`,
    `text` a Text.
    """
    return spaces.OneOf([spaces.Dict({name: _argument_space(name) for name in ARGUMENTS[kind]}) for kind in types])


def to_space(action: Action, types: tuple[str, ...] = DESKTOP) -> tuple[np.int64, dict[str, Any]]:
    """`action` as an element of `action_space(types)`. Raises ActionError for a type that is not among `types`."""
    values: dict[str, Any] = {}
    for name in ARGUMENTS[action.type]:
        value = getattr(action, name)
        if name in _POINTS:
            value = np.array(value, dtype=np.float32)
        elif name == "direction":
            value = np.int64(DIRECTIONS.index(value))
        elif name == "keys":
            value = np.int64(HOTKEYS.index(value))
        values[name] = value
    return np.int64(_index(action.type, types)), values


def from_space(value: Any, types: tuple[str, ...] = DESKTOP) -> Action:
    """The action that an element of `action_space(types)` stands for. Raises ActionError for anything else."""
    try:
        index, values = value
        kind = types[index] if 0 <= index < len(types) else None
        if kind is None:
            raise ActionError(f"action type {index} is not one of 0 to {len(types) - 1}")
        named: dict[str, Any] = {}
        for name in ARGUMENTS[kind]:
            given = values[name]
            if name in _POINTS:
                x, y = given
                named[name] = (float(x), float(y))
            elif name == "text":
                if not isinstance(given, str):
                    raise TypeError
                named[name] = given
            else:
                names = DIRECTIONS if name == "direction" else HOTKEYS
                if not 0 <= given < len(names):
                    raise ActionError(f"{name} is {given}; it must be one of 0 to {len(names) - 1}")
                named[name] = names[given]
    except (TypeError, KeyError, IndexError, ValueError) as error:
        if isinstance(error, ActionError):
            raise
        raise ActionError(f"{value!r:.80} is not (type index, {{argument: value}})") from None
    return Action(kind, **named)


def smart_resize(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) to which Qwen2.5-VL resizes a screen, which absolute coordinates count in.

    Sides are multiples of 28, their product between 100 * 28^2 and 16384 * 28^2 pixels, the proportions kept as
    nearly as possible (`smart_resize` of qwen-vl-utils).
    """
    factor, least, most = 28, 100 * 28**2, 16384 * 28**2
    width, height = size
    resized_width, resized_height = (max(factor, round(side / factor) * factor) for side in size)
    if resized_width * resized_height > most:
        scale = math.sqrt(width * height / most)
        resized_width, resized_height = (math.floor(side / scale / factor) * factor for side in size)
    elif resized_width * resized_height < least:
        scale = math.sqrt(least / (width * height))
        resized_width, resized_height = (math.ceil(side * scale / factor) * factor for side in size)
    return resized_width, resized_height


# What UI-TARS's prompts call the arguments, the first being the one written.
_PARAMETERS: dict[str, tuple[str, ...]] = {
    "point": ("point", "start_box", "start_point"),
    "start": ("start_point", "start_box"),
    "end": ("end_point", "end_box"),
    "direction": ("direction",),
    "keys": ("key", "hotkey"),
    "text": ("content", "app_name"),
}
_SYNONYMS = {"left_single": "click", "right_click": "right_single", "double_click": "left_double"}
_KEY_SYNONYMS = {
    **{f"arrow{name}": name for name in ("left", "right", "up", "down")},
    **{"return": "enter", "escape": "esc", "control": "ctrl", "del": "delete", "page_up": "pageup"},
    "page_down": "pagedown",
}
_LABEL = re.compile(r"^[ \t]*Action:[ \t]*", re.MULTILINE)
_CALL = re.compile(r"\s*([A-Za-z_]\w*)\s*\(\s*")
_NAME = re.compile(r"([A-Za-z_]\w*)\s*=\s*(['\"])")
# A quote ends a string where the call goes on or ends after it; models leave apostrophes unescaped.
_CLOSING = {
    quote: re.compile(rf"(?<!\\)((?:\\\\)*){quote}\s*(?:(,)\s*(?=[A-Za-z_]\w*\s*=)|(\))\s*$)") for quote in "'\""
}
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_NUMBER = r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)"
_PLACES = [
    re.compile(pattern.replace("#", f"({_NUMBER})"))
    for pattern in (
        r"<point>\s*#[\s,]+#\s*</point>",
        r"(?:<\|box_start\|>)?\s*\(\s*#\s*,\s*#\s*\)\s*(?:<\|box_end\|>)?",
        r"(?:<\|box_start\|>)?\s*\(\s*#\s*,\s*#\s*,\s*#\s*,\s*#\s*\)\s*(?:<\|box_end\|>)?",
        r"\[\s*#\s*,\s*#\s*(?:,\s*#\s*,\s*#\s*)?\]",
        r"<bbox>\s*#[\s,]+#(?:[\s,]+#[\s,]+#)?\s*</bbox>",
    )
]


def parse(
    text: str,
    size: tuple[int, int],
    coordinates: Coordinates = "relative",
    types: tuple[str, ...] = DESKTOP,
) -> Action:
    """The action in a response of a UI-TARS model; a bare call without `Thought:` and `Action:` is accepted too.

    Points may be written `<point>x y</point>`, `(x,y)`, `<|box_start|>(x,y)<|box_end|>`, `[x1, y1, x2, y2]` or
    `<bbox>x1 y1 x2 y2</bbox>`; of a box the centre is meant.

    Args:
        text: the response.
        size: (width, height) of the screen.
        coordinates: "relative": 1000 is the far side; "absolute": pixels of the `smart_resize`d screen.
        types: the actions that exist.

    Raises:
        ActionError: malformed text; the message says in what way.
    """
    label = _LABEL.search(text)
    start = label.end() if label else text.find("Action:") + len("Action:") if "Action:" in text else 0
    call = _CALL.match(text, start)
    if call is None:
        raise ActionError("there is no call such as click(point='<point>x y</point>') after 'Action:'")
    kind = _SYNONYMS.get(call[1], call[1])
    _index(kind, types)
    parameters = _parameters(text, call.end(), kind)
    extent = (1000, 1000) if coordinates == "relative" else smart_resize(size)
    named: dict[str, Any] = {}
    for name in ARGUMENTS[kind]:
        found = [parameters.pop(synonym) for synonym in _PARAMETERS[name] if synonym in parameters]
        if len(found) > 1:
            raise ActionError(f"{kind} has {_PARAMETERS[name][0]} more than once")
        if not found and kind == "finished":
            found = [""]
        if not found:
            raise ActionError(f"{kind} needs {_written(kind, name)}")
        named[name] = _read(name, found[0], extent)
    parameters.pop("time", None)  # of long_press, in UI-TARS's first mobile prompt: there is no clock here
    if parameters:
        raise ActionError(f"{kind} takes no {', '.join(parameters)}")
    return Action(kind, **named)


def format_action(
    action: Action,
    size: tuple[int, int],
    coordinates: Coordinates = "relative",
    notation: Notation = "point",
    thought: str | None = None,
) -> str:
    """UI-TARS's text for an action, which `parse` reads back; points are rounded to whole coordinates.

    Args:
        action: the action.
        size: (width, height) of the screen.
        coordinates: as in `parse`.
        notation: "point": `point='<point>x y</point>'`; "box": `start_box='[x, y, x, y]'`; "box_tokens":
            `start_box='<|box_start|>(x,y)<|box_end|>'`.
        thought: put before the action as `Thought: ...`; None leaves out both labels.
    """
    extent = (1000, 1000) if coordinates == "relative" else smart_resize(size)
    written = []
    for name in ARGUMENTS[action.type]:
        value = getattr(action, name)
        parameter = _written(action.type, name)
        if name in _POINTS:
            x, y = (round(fraction * side) for fraction, side in zip(value, extent, strict=True))
            if notation == "point":
                value = f"<point>{x} {y}</point>"
            else:
                parameter = "end_box" if name == "end" else "start_box"
                value = f"[{x}, {y}, {x}, {y}]" if notation == "box" else f"<|box_start|>({x},{y})<|box_end|>"
        elif name == "text":
            value = value.replace("\\", "\\\\").replace("'", "\\'").replace('"', '\\"').replace("\n", "\\n")
        written.append(f"{parameter}='{value}'")
    call = f"{action.type}({', '.join(written)})"
    return call if thought is None else f"Thought: {' '.join(thought.split())}\nAction: {call}"


def _written(kind: str, name: str) -> str:
    return "app_name" if kind == "open_app" else _PARAMETERS[name][0]


def _parameters(text: str, position: int, kind: str) -> dict[str, str]:
    found: dict[str, str] = {}
    if re.compile(r"\)\s*$").match(text, position):
        return found
    while True:
        name = _NAME.match(text, position)
        if name is None:
            raise ActionError(f"{kind}( must go on with name='value' or ), and nothing may follow its )")
        closing = _CLOSING[name[2]].search(text, name.end())
        if closing is None:
            raise ActionError(f"the value of {name[1]} does not end, or something follows the action")
        if name[1] in found:
            raise ActionError(f"{kind} has {name[1]} more than once")
        # The backslashes before the quote are pairs, and part of the value.
        found[name[1]] = text[name.end() : closing.end(1)]
        position = closing.end()
        if closing[3]:
            return found


def _read(name: str, value: str, extent: tuple[int, int]) -> Any:
    if name == "text":
        return _ESCAPE.sub(lambda match: {"n": "\n", "t": "\t", "r": "\r"}.get(match[1], match[1]), value)
    if name == "direction":
        return value.strip().lower()
    if name == "keys":
        keys = [_KEY_SYNONYMS.get(key, key) for key in re.split(r"[\s+]+", value.strip().lower())]
        return " ".join(sorted(keys, key=lambda key: {"ctrl": 0, "alt": 1, "shift": 2}.get(key, 3)))
    match = next((found for pattern in _PLACES if (found := pattern.fullmatch(value.strip()))), None)
    if match is None:
        raise ActionError(f"{value!r:.60} is no point such as <point>500 500</point> or [x1, y1, x2, y2]")
    numbers = [float(number) for number in match.groups() if number is not None]
    x, y = numbers if len(numbers) == 2 else ((numbers[0] + numbers[2]) / 2, (numbers[1] + numbers[3]) / 2)
    if not (0 <= x <= extent[0] and 0 <= y <= extent[1]):
        raise ActionError(f"the point ({x:g}, {y:g}) is outside 0 to {extent[0]} by 0 to {extent[1]}")
    return x / extent[0], y / extent[1]


def _index(kind: str, types: tuple[str, ...]) -> int:
    if kind not in types:
        raise ActionError(f"there is no action {kind!r:.40}; there are {', '.join(types)}")
    return types.index(kind)


def _argument_space(name: str) -> spaces.Space:
    match name:
        case "direction":
            return spaces.Discrete(len(DIRECTIONS))
        case "keys":
            return spaces.Discrete(len(HOTKEYS))
        case "text":
            return spaces.Text(MAX_TEXT, min_length=0, charset=TYPEABLE)
    return spaces.Box(0.0, 1.0, (2,), np.float32)
