"""Tagged unions of actions (`spaces.OneOf` of `spaces.Dict`) as rows of integers: which choices make an action.

An action is a type and its arguments; each is one choice or several, and a choice is a categorical:

    the type                             one of the union's elements
    Box(0, 1, (2,)), a point             a patch of the screen's grid, then a cell of the patch
    Discrete                             one of its values
    Text                                 where in the instruction it starts and ends, and whether a newline follows

Arguments of the same name share their choices, so that a row has the same columns whatever its type; those that its
type does not have are 0 and count for nothing. Left out: Text that the instruction does not spell out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.encoders import Grid

CELLS = 4  # cells of a patch in a row and in a column


@dataclass(frozen=True)
class Layout:
    """Columns of a stored action. `arguments`: name -> its space; `columns`: name -> its columns, "" being the type's.

    relevant: bool [types, columns], what an action of each type is made of.
    """

    types: tuple[tuple[str, ...], ...]  # the names of each type's arguments
    arguments: dict[str, spaces.Space]
    columns: Mapping[str, tuple[int, ...]]
    relevant: Tensor

    @classmethod
    def of(cls, space: spaces.Space) -> Layout:
        """Raises ValueError for a space that is no union of such arguments."""
        if not isinstance(space, spaces.OneOf) or not all(isinstance(one, spaces.Dict) for one in space.spaces):
            raise ValueError(f"a pointer acts in OneOf of Dict spaces, the arguments of each type; got {space}")
        arguments: dict[str, spaces.Space] = {}
        for one in space.spaces:
            assert isinstance(one, spaces.Dict)
            for name, argument in one.spaces.items():
                if arguments.setdefault(name, argument) != argument:
                    raise ValueError(f"the argument {name!r} is {arguments[name]} here and {argument} there")
        columns: dict[str, tuple[int, ...]] = {"": (0,)}
        count = 1
        for name, argument in arguments.items():
            width = _width(name, argument)
            columns[name] = tuple(range(count, count + width))
            count += width
        types = tuple(tuple(one.spaces) for one in space.spaces if isinstance(one, spaces.Dict))
        relevant = torch.zeros((len(types), count), dtype=torch.bool)
        relevant[:, 0] = True
        for i, names in enumerate(types):
            for name in names:
                relevant[i, list(columns[name])] = True
        return cls(types, arguments, columns, relevant)

    def __len__(self) -> int:
        return self.relevant.shape[1]

    def to_env(self, action: Tensor, grid: Grid | None, instructions: Sequence[bytes]) -> list[tuple[np.int64, Any]]:
        """Rows [batch, columns] as elements of the union; a point is the middle of its cell."""
        rows = action.tolist()
        return [
            (np.int64(row[0]), {name: self._value(name, row, grid, said) for name in self.types[row[0]]})
            for row, said in zip(rows, instructions, strict=True)
        ]

    def from_env(self, actions: Sequence[Any], grid: Grid | None, instructions: Sequence[bytes]) -> Tensor:
        """Elements of the union as rows, points to the precision of cells.

        Raises ValueError for a text that its instruction does not have.
        """
        rows = np.zeros((len(actions), len(self)), np.int64)
        for row, (kind, values), said in zip(rows, actions, instructions, strict=True):
            row[0] = kind
            for name in self.types[kind]:
                row[list(self.columns[name])] = self._choices(name, values[name], grid, said)
        return torch.from_numpy(rows)

    def _value(self, name: str, row: list[int], grid: Grid | None, said: bytes) -> Any:
        argument, (first, *others) = self.arguments[name], self.columns[name]
        match argument:
            case spaces.Discrete():
                return np.int64(row[first] + argument.start)
            case spaces.Text():
                text = said[row[first] : row[others[0]]].decode("utf-8", "ignore")
                return "".join(c for c in text if c in argument.character_set) + "\n" * row[others[1]]
        assert grid is not None
        x, y = cell_centre(grid, row[first], row[others[0]])
        return np.array([min(x / grid.width, 1.0), min(y / grid.height, 1.0)], np.float32)

    def _choices(self, name: str, value: Any, grid: Grid | None, said: bytes) -> Sequence[int]:
        argument = self.arguments[name]
        match argument:
            case spaces.Discrete():
                return [int(value) - int(argument.start)]
            case spaces.Text():
                submits = takes_newline(argument) and value.endswith("\n")
                wanted = (value[:-1] if submits else value).encode()
                start = find(wanted, said)
                if start is None:
                    instruction = said.decode("utf-8", "replace")
                    raise ValueError(f"a pointer types what the instruction says; {value!r} is not in {instruction!r}")
                return [start, start + len(wanted), int(submits)]
        assert grid is not None
        x = min(max(int(value[0] * grid.width), 0), grid.width - 1)
        y = min(max(int(value[1] * grid.height), 0), grid.height - 1)
        (row, down), (column, across) = divmod(y, grid.patch), divmod(x, grid.patch)
        return [
            row * grid.columns + column,
            down * CELLS // grid.patch * CELLS + across * CELLS // grid.patch,
        ]


def cell_centre(grid: Grid, patch: int, cell: int) -> tuple[float, float]:
    """The middle (x, y), in pixels, of a cell of a patch."""
    side = grid.patch / CELLS
    x = patch % grid.columns * grid.patch + (cell % CELLS + 0.5) * side
    y = patch // grid.columns * grid.patch + (cell // CELLS + 0.5) * side
    return x, y


def cells_on_screen(grid: Grid) -> Tensor:
    """Which cells of each patch have their middle on the screen, bool [patches, cells]."""
    centres = [[cell_centre(grid, patch, cell) for cell in range(CELLS**2)] for patch in range(len(grid))]
    xy = torch.tensor(centres)
    return (xy[..., 0] < grid.width) & (xy[..., 1] < grid.height)


def find(wanted: bytes, said: bytes) -> int | None:
    """Where `wanted` stands in `said`, as words of its own where it does so; None where it does not."""
    found = None
    for start in _places(wanted, said):
        before, behind = said[max(start - 1, 0) : start], said[start + len(wanted) :][:1]
        if not (before.isalnum() or behind.isalnum()):
            return start
        found = start if found is None else found
    return found


def takes_newline(text: spaces.Text) -> bool:
    return "\n" in text.character_set


def _places(wanted: bytes, said: bytes) -> Iterator[int]:
    if not wanted:
        yield 0
        return
    start = said.find(wanted)
    while start >= 0:
        yield start
        start = said.find(wanted, start + 1)


def _width(name: str, argument: spaces.Space) -> int:
    match argument:
        case spaces.Discrete():
            return 1
        case spaces.Text():
            return 3
        case spaces.Box() if argument.shape == (2,) and (argument.low == 0).all() and (argument.high == 1).all():
            return 2
    raise ValueError(f"a pointer's arguments are points in Box(0, 1, (2,)), Discrete or Text; {name!r} is {argument}")
