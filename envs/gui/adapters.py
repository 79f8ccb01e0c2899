"""The four forms in which a screen takes its actions, from the tagged union down to a grid of cells to click.

Each adapter has a `space`, reads an element of it as an `Action` (`decode`, which raises ActionError with the reason
for anything that is none) and writes an `Action` as an element (`encode`, for demonstrations).
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
from gymnasium import spaces

from envs.gui.actions import (
    Action,
    ActionError,
    Coordinates,
    action_space,
    format_action,
    from_space,
    parse,
    to_space,
)
from envs.reasoning.text import TextSpace

Actions = Literal["typed", "text", "grid", "point"]
CELL = 10  # pixels, the side of a cell of the grid at the default size


class Adapter(Protocol):
    """Between one form of action and `Action`."""

    @property
    def space(self) -> spaces.Space[Any]:
        """What it takes."""

    def decode(self, value: Any) -> Action:
        """The action meant; raises ActionError."""

    def encode(self, action: Action) -> Any:
        """The element of `space` that comes nearest; raises ActionError where none comes near."""


def make_adapter(
    actions: Actions,
    size: tuple[int, int],
    types: tuple[str, ...],
    grid: tuple[int, int] | None = None,
    coordinates: Coordinates = "relative",
) -> Adapter:
    """The adapter of a name for a screen of `size` (width, height).

    Args:
        actions: "typed": `action_space(types)`; "text": UI-TARS's text; "grid": Discrete, the cell to click, row by
            row; "point": Box(0, 1, (2,)), the point to click.
        size: (width, height) of the screen.
        types: the actions that exist, for "typed" and "text".
        grid: (columns, rows); default: cells of 10 by 10 pixels.
        coordinates: which "text" counts in.

    Raises:
        ValueError: an unknown name or a grid without cells.
    """
    match actions:
        case "typed":
            return _Typed(types)
        case "text":
            if coordinates not in ("relative", "absolute"):
                raise ValueError(f'coordinates is {coordinates!r}; it must be "relative" or "absolute".')
            return _Text(size, types, coordinates)
        case "grid":
            columns, rows = grid or (max(size[0] // CELL, 1), max(size[1] // CELL, 1))
            if columns < 1 or rows < 1:
                raise ValueError(f"grid is {grid}; it takes (columns, rows), each at least 1.")
            return _Grid(columns, rows)
        case "point":
            return _Point()
    raise ValueError(f'actions is {actions!r}; it must be "typed", "text", "grid" or "point".')


class _Typed:
    def __init__(self, types: tuple[str, ...]) -> None:
        self.types = types
        self.space = action_space(types)

    def decode(self, value: Any) -> Action:
        return from_space(value, self.types)

    def encode(self, action: Action) -> Any:
        return to_space(action, self.types)


class _Text:
    def __init__(self, size: tuple[int, int], types: tuple[str, ...], coordinates: Coordinates) -> None:
        self.size, self.types, self.coordinates = size, types, coordinates
        self.space = TextSpace(4096)

    def decode(self, value: Any) -> Action:
        if not isinstance(value, str):
            raise ActionError(f"an action in text form is a str, not {type(value).__name__}")
        return parse(value, self.size, self.coordinates, self.types)

    def encode(self, action: Action) -> str:
        """In the format of UI-TARS's responses; the thought, of which an oracle has none, names the kind of action."""
        thought = action.type.replace("_", " ").capitalize() + "."
        return format_action(action, self.size, self.coordinates, thought=thought)


class _Grid:
    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.space = spaces.Discrete(columns * rows)

    def decode(self, value: Any) -> Action:
        try:
            cell = int(value)
        except (TypeError, ValueError, OverflowError):
            raise ActionError(f"{value!r:.40} is not the number of a cell") from None
        if not 0 <= cell < self.columns * self.rows:
            raise ActionError(f"there is no cell {cell}; there are 0 to {self.columns * self.rows - 1}")
        row, column = divmod(cell, self.columns)
        return Action("click", point=((column + 0.5) / self.columns, (row + 0.5) / self.rows))

    def encode(self, action: Action) -> np.int64:
        x, y = _clicked(action, "grid")
        column, row = min(int(x * self.columns), self.columns - 1), min(int(y * self.rows), self.rows - 1)
        return np.int64(row * self.columns + column)


class _Point:
    def __init__(self) -> None:
        self.space = spaces.Box(0.0, 1.0, (2,), np.float32)

    def decode(self, value: Any) -> Action:
        try:
            x, y = map(float, value)
        except (TypeError, ValueError):
            raise ActionError(f"{value!r:.40} is not a point (x, y)") from None
        return Action("click", point=(x, y))

    def encode(self, action: Action) -> Any:
        return np.array(_clicked(action, "point"), dtype=np.float32)


def _clicked(action: Action, actions: str) -> tuple[float, float]:
    if action.type != "click" or action.point is None:
        raise ActionError(f'{action.type} is more than a click, which is all that actions="{actions}" can do')
    return action.point
