"""Typed actions (`spaces.OneOf` of `spaces.Dict`) as flat vectors that a critic can be differentiated in.

As in parameterised action spaces (Hausknecht & Stone 2016, arXiv:1511.04143) a vector holds a type and the arguments
of every type side by side, each of which a deterministic policy gives at once:

    the type                             one-hot
    Box(0, 1, (2,)), a point             two numbers in [-1, 1]
    Discrete                             one-hot
    Text                                 where in the instruction it starts, one-hot; where it ends, one-hot; and, where
                                         it may have one, whether a newline follows, one-hot

What an action is made of are its type and that type's arguments; the others are 0 wherever actions are stored.
Box(0, 1, (2,)) alone is a union of one type, whose only argument is the point.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from agents.policies.tagged import Layout, find, takes_newline

POSITIONS = 256  # bytes of an instruction that text may be copied from, the end included


@dataclass(frozen=True)
class Block:
    """Neighbouring columns: one choice, or one point.

    owner: the type whose argument it belongs to, -1 for the type itself; part: "type", "point", "value", "start",
    "end" or "newline".
    """

    start: int
    size: int
    owner: int
    argument: str
    part: str

    @property
    def columns(self) -> slice:
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class Relaxed:
    """Columns of a vector. types: the names of each type's arguments; arguments: name -> its space.

    relevant: bool [types, dim], what an action of each type is made of; continuous: bool [dim], the points.
    """

    types: tuple[tuple[str, ...], ...]
    arguments: dict[str, spaces.Space]
    blocks: tuple[Block, ...]
    relevant: Tensor
    continuous: Tensor
    alone: bool  # the space is the point itself, not a union

    @classmethod
    def of(cls, space: spaces.Space) -> Relaxed:
        """Raises ValueError for other spaces than those above."""
        alone = is_point(space)
        layout = Layout.of(spaces.OneOf([spaces.Dict(point=space)]) if alone else space)
        blocks = [Block(0, len(layout.types), -1, "", "type")]
        for owner, names in enumerate(layout.types):
            for name in names:
                for part, size in _parts(layout.arguments[name]):
                    blocks.append(Block(blocks[-1].start + blocks[-1].size, size, owner, name, part))
        dim = blocks[-1].start + blocks[-1].size
        relevant = torch.zeros((len(layout.types), dim), dtype=torch.bool)
        continuous = torch.zeros(dim, dtype=torch.bool)
        for block in blocks:
            relevant[block.owner if block.owner >= 0 else slice(None), block.columns] = True
            continuous[block.columns] = block.part == "point"
        return cls(layout.types, layout.arguments, tuple(blocks), relevant, continuous, alone)

    @property
    def dim(self) -> int:
        return len(self.continuous)

    @property
    def choices(self) -> Iterator[Block]:
        """The blocks that are one-hot."""
        return (block for block in self.blocks if block.part != "point")

    def one_hot(self, scores: Tensor) -> Tensor:
        """The best choice of every block of scores [batch, dim], points within their bounds."""
        action = scores.clamp(-1.0, 1.0)
        for block in self.choices:
            action[:, block.columns] = F.one_hot(scores[:, block.columns].argmax(-1), block.size).to(scores.dtype)
        return action

    def masked(self, action: Tensor) -> Tensor:
        """Vectors [batch, dim] without the arguments of types that were not chosen."""
        return action * self.relevant.to(action.device)[action[:, self.blocks[0].columns].argmax(-1)]

    def to_env(self, action: Tensor, instructions: Sequence[bytes]) -> Any:
        """Vectors [batch, dim] as elements of the union, or float32 points [batch, 2] where the space is a point."""
        rows = action.cpu().numpy()
        kinds = rows[:, self.blocks[0].columns].argmax(-1)
        if self.alone:
            return _point(rows[:, self.blocks[1].columns])
        made: list[dict[str, Any]] = [{} for _ in rows]
        starts = ends = np.zeros(len(rows), np.int64)
        for block in self.blocks[1:]:
            space, values = self.arguments[block.argument], rows[:, block.columns]
            chosen = values.argmax(-1)
            for i in np.flatnonzero(kinds == block.owner).tolist():
                if isinstance(space, spaces.Discrete):
                    made[i][block.argument] = np.int64(chosen[i] + space.start)
                elif block.part == "point":
                    made[i][block.argument] = _point(values[i])
                elif block.part == "end":
                    text = instructions[i][starts[i] : chosen[i]].decode("utf-8", "ignore")
                    allowed = "".join(c for c in text if c in space.character_set)  # type: ignore[attr-defined]
                    made[i][block.argument] = allowed[: space.max_length - takes_newline(space)]  # type: ignore
                elif block.part == "newline":
                    made[i][block.argument] += "\n" * int(chosen[i])
            starts, ends = (chosen, ends) if block.part == "start" else (starts, chosen)
        return [(np.int64(kind), arguments) for kind, arguments in zip(kinds, made, strict=True)]

    def from_env(self, actions: Sequence[Any], instructions: Sequence[bytes]) -> Tensor:
        """Elements of the space as vectors [batch, dim]. Raises ValueError for a text that its instruction lacks."""
        rows = np.zeros((len(actions), self.dim), np.float32)
        for row, action, said in zip(rows, actions, instructions, strict=True):
            kind, values = (0, {"point": action}) if self.alone else action
            row[kind] = 1.0
            for block in self.blocks[1:]:
                if block.owner == kind:
                    row[block.columns] = self._column(block, values[block.argument], said)
        return torch.from_numpy(rows)

    def _column(self, block: Block, value: Any, said: bytes) -> np.ndarray:
        space = self.arguments[block.argument]
        if block.part == "point":
            return np.clip(2.0 * np.asarray(value, np.float32) - 1.0, -1.0, 1.0)
        if isinstance(space, spaces.Discrete):
            return np.eye(block.size, dtype=np.float32)[int(value) - int(space.start)]
        assert isinstance(space, spaces.Text)
        submits = takes_newline(space) and value.endswith("\n")
        wanted = (value[:-1] if submits else value).encode()
        start = find(wanted, said)
        if start is None or start + len(wanted) >= POSITIONS:
            raise ValueError(
                f"typed text is copied from the first {POSITIONS - 1} bytes of the instruction; {value!r} is not in "
                f"{said.decode('utf-8', 'replace')!r}"
            )
        index = {"start": start, "end": start + len(wanted), "newline": int(submits)}[block.part]
        return np.eye(block.size, dtype=np.float32)[index]


def is_point(space: spaces.Space) -> bool:
    """Whether a space is that of the points of a screen, as fractions of it."""
    return (
        isinstance(space, spaces.Box) and space.shape == (2,) and bool((space.low == 0).all() & (space.high == 1).all())
    )


def _point(values: np.ndarray) -> np.ndarray:
    return ((values + 1.0) / 2.0).clip(0.0, 1.0).astype(np.float32)


def _parts(argument: spaces.Space) -> list[tuple[str, int]]:
    """The blocks of an argument, and their sizes."""
    match argument:
        case spaces.Discrete():
            return [("value", int(argument.n))]
        case spaces.Text():
            span = [("start", POSITIONS), ("end", POSITIONS)]
            return [*span, ("newline", 2)] if takes_newline(argument) else span
    return [("point", 2)]
