"""The buffer: a schema (name -> shape, dtype) allocates [T, N, ...] storage that is read in three ways.

`rollout()` gives everything since the last `clear()`, time-major; `sample()` draws uniform transitions;
`episodes()` gives finished episodes as rows with a segment number. Storage is a ring over time in contiguous torch
memory with zero-copy numpy views. A row that a live episode still needs is never overwritten: the ring grows instead.

Left out: prioritised replay, and storing only one of `next_obs[t]` and `obs[t + 1]`, which differ at every boundary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Field:
    """One named column: a value of `shape` for each step and environment.

    A `ragged` field has one more, leading dimension whose length differs from row to row (tokens, UTF-8 bytes).
    """

    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    ragged: bool = False


@dataclass
class Ragged:
    """Rows of differing length: `values` [sum of lengths, ...] holds them end to end, `lengths` [rows] says where."""

    values: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, rows: Sequence[Tensor], dtype: torch.dtype) -> Ragged:
        lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
        return cls(torch.cat(list(rows)) if rows else torch.zeros(0, dtype=dtype), lengths)

    def rows(self) -> list[Tensor]:
        return list(self.values.split(self.lengths.tolist()))

    def take(self, index: Tensor) -> Ragged:
        starts = self.lengths.cumsum(0) - self.lengths
        lengths = self.lengths[index]
        return Ragged(self.values[_spans(starts[index], lengths)], lengths)

    def to(self, device: torch.device) -> Ragged:
        return Ragged(self.values.to(device), self.lengths.to(device))

    def __len__(self) -> int:
        return len(self.lengths)


def tree(named: Mapping[str, Any], prefix: str) -> Any:
    """What is stored under `prefix`: its one leaf, or `{path below the prefix: leaf}`."""
    if prefix in named:
        return named[prefix]
    below = prefix + "."
    return {name[len(below) :]: value for name, value in named.items() if name.startswith(below)}


class Batch(dict[str, Any]):
    """Named columns of equal leading shape; `obs` and `next_obs` are the observation trees."""

    @property
    def obs(self) -> Any:
        return tree(self, "obs")

    @property
    def next_obs(self) -> Any:
        return tree(self, "next_obs")

    def merged(self) -> Batch:
        """[T, N, ...] as [T * N, ...]."""
        return Batch({k: v if isinstance(v, Ragged) else v.flatten(0, 1) for k, v in self.items()})

    def flat(self, prefix: str = "") -> Batch:
        """`merged` without the rows marked invalid (an environment's own reset steps).

        prefix: of the columns wanted.
        """
        wanted = Batch({k: v for k, v in self.items() if k.startswith(prefix)}) if prefix else self
        merged = wanted.merged()
        if "valid" not in self or bool(self["valid"].all()):
            return merged
        return merged.take(self["valid"].flatten().nonzero().squeeze(1))

    def take(self, index: Tensor) -> Batch:
        """The rows `index` [M] of a batch with one leading dimension."""
        return Batch({k: v.take(index) if isinstance(v, Ragged) else v[index] for k, v in self.items()})

    def with_obs(self, obs: Any) -> Batch:
        """The same with another observation tree, of the same leaves."""
        named = {f"obs.{name}": leaf for name, leaf in obs.items()} if isinstance(obs, Mapping) else {"obs": obs}
        return Batch({**self, **named})

    def numpy(self) -> Batch:
        """The columns as NumPy arrays, where they lie."""
        return Batch({k: v.numpy() for k, v in self.items()})

    def to(self, device: torch.device) -> Batch:
        """On `device`; storage is on the CPU, where nothing is copied."""
        return Batch(self) if device.type == "cpu" else Batch({k: v.to(device) for k, v in self.items()})


@dataclass
class Episodes:
    """Finished episodes, their steps laid end to end in time order.

    steps: Batch [S, ...]; segment: [S], the episode (0..E-1) of each step, so that a sum over an episode is
    `zeros(E).index_add(0, segment, x)`; episode_id, group_id, length (steps) and ret (undiscounted): [E].
    """

    steps: Batch
    segment: Tensor
    episode_id: Tensor
    group_id: Tensor
    length: Tensor
    ret: Tensor

    def __len__(self) -> int:
        return len(self.length)

    def take(self, index: Tensor) -> Episodes:
        """The episodes `index` [M], in that order."""
        length = self.length[index]
        steps = self.steps.take(_spans((self.length.cumsum(0) - self.length)[index], length))
        segment = torch.repeat_interleave(torch.arange(len(index)), length)
        return Episodes(steps, segment, self.episode_id[index], self.group_id[index], length, self.ret[index])


class Buffer:
    """Ring of `capacity` rows for `num_envs` environments.

    A row is written with `put(name, values)` for each field and closed with `advance()`. Fields that nobody puts keep
    what the row held before. Rows are numbered from 0 for ever; row r lies at position r % capacity.

    With an `episode_id` field (int64; -1 on rows that belong to no episode) and `group_id`, rows of episodes that are
    unfinished or not yet `forget`-ted are kept however long that takes.

    Raises ValueError for an empty capacity or a sample from a buffer without transitions.
    """

    def __init__(self, schema: Mapping[str, Field], capacity: int, num_envs: int, *, seed: int = 0) -> None:
        if capacity < 1 or num_envs < 1:
            raise ValueError(f"a buffer needs capacity >= 1 and num_envs >= 1; got {capacity} and {num_envs}")
        self.schema = dict(schema)
        self.capacity, self.num_envs = capacity, num_envs
        self.rows = 0  # written so far, for ever
        self.start = 0  # first row of the current rollout
        self.rng = np.random.default_rng(seed)
        self.tracks_episodes = "episode_id" in self.schema
        self._needed_from = np.zeros(num_envs, np.int64)  # first row that each environment's live episodes need
        self._allocate(capacity)

    def _allocate(self, capacity: int) -> None:
        self.capacity = capacity
        self.data: dict[str, Tensor] = {}
        self.arenas: dict[str, Arena] = {}
        for name, field in self.schema.items():
            if field.ragged:
                self.arenas[name] = Arena(field, capacity, self.num_envs)
            else:
                # numpy's zeros take memory only where they are written to; torch's take it all at once
                blank = np.zeros(
                    (capacity, self.num_envs, *field.shape), torch.zeros(0, dtype=field.dtype).numpy().dtype
                )
                self.data[name] = torch.from_numpy(blank)
        self.numpy = {name: value.numpy() for name, value in self.data.items()}
        if self.tracks_episodes:
            self.numpy["episode_id"].fill(-1)  # a row that was never written is no episode's

    def __len__(self) -> int:
        """Rows held."""
        return min(self.rows, self.capacity)

    @property
    def position(self) -> int:
        """Where in storage the open row lies."""
        return self.rows % self.capacity

    # --- writing -----------------------------------------------------------------------------------------------

    def put(self, name: str, values: Any) -> None:
        """Write one field of the open row: [N, ...], or for a ragged field N arrays."""
        if name in self.numpy:
            self.numpy[name][self.rows % self.capacity] = values
        else:
            self.arenas[name].write(self.position, values)

    def open_row(self, prefix: str) -> Any:
        """The tree under `prefix` as just put in the open row: views, [N, ...]."""
        if prefix in self.data:
            return self.data[prefix][self.rows % self.capacity]
        named: dict[str, Any] = {name: value[self.position] for name, value in self.data.items()}
        named |= {name: arena.read(torch.arange(self.num_envs) + self.position * self.num_envs)
                  for name, arena in self.arenas.items()}  # fmt: skip
        return tree(named, prefix)

    def advance(self) -> None:
        """Close the open row."""
        self.rows += 1
        if self.tracks_episodes and self.rows - int(self._needed_from.min()) >= self.capacity:
            self._grow()

    def clear(self) -> None:
        """Start a new rollout at the next row. Stored rows stay for `sample` and `episodes` until overwritten."""
        self.start = self.rows

    def forget(self, episode_ids: Tensor) -> None:
        """Let go of finished episodes: `episodes()` gives them no more and their rows may be overwritten."""
        column = self.data["episode_id"]
        column[torch.isin(column, episode_ids)] = -1
        if self.rows:
            self._update_needed()

    def _update_needed(self) -> None:
        first = max(0, self.rows - self.capacity)
        ids = self.numpy["episode_id"][np.arange(first, self.rows) % self.capacity]
        live = ids >= 0
        self._needed_from = np.where(live.any(0), first + live.argmax(0), self.rows)

    def _grow(self) -> None:
        self._update_needed()
        if self.rows - int(self._needed_from.min()) < self.capacity:
            return
        old_data, old_arenas, old_capacity = self.data, self.arenas, self.capacity
        kept = np.arange(max(0, self.rows - old_capacity), self.rows)
        self._allocate(2 * old_capacity)
        source, target = torch.from_numpy(kept % old_capacity), torch.from_numpy(kept % self.capacity)
        for name, value in self.data.items():
            value[target] = old_data[name][source]
        for name, arena in self.arenas.items():
            for i, j in zip(source.tolist(), target.tolist(), strict=True):
                index = torch.arange(self.num_envs) + i * self.num_envs
                arena.write(j, [row.numpy() for row in old_arenas[name].read(index).rows()])

    # --- reading -----------------------------------------------------------------------------------------------

    def rollout(self) -> Batch:
        """Rows since the last `clear()`, [T, N, ...] (ragged fields: T * N rows); views where they lie in one piece.

        Raises ValueError when the ring has already overwritten some of them.
        """
        count = self.rows - self.start
        if count > self.capacity:
            raise ValueError(f"the rollout has {count} rows but the buffer holds {self.capacity}")
        begin = self.start % self.capacity
        batch = Batch()
        if begin + count <= self.capacity:
            batch.update({name: value[begin : begin + count] for name, value in self.data.items()})
        else:
            index = torch.arange(self.start, self.rows) % self.capacity
            batch.update({name: value[index] for name, value in self.data.items()})
        if self.arenas:
            rows = torch.arange(self.start, self.rows) % self.capacity
            flat = (rows[:, None] * self.num_envs + torch.arange(self.num_envs)).flatten()
            batch.update({name: arena.read(flat) for name, arena in self.arenas.items()})
        return batch

    def sample(self, batch_size: int, names: Sequence[str] | None = None) -> Batch:
        """`batch_size` uniform draws (with replacement) from all stored transitions, [batch, ...]."""
        stored = len(self) * self.num_envs
        if stored == 0:
            raise ValueError("cannot sample from an empty buffer")
        index = torch.from_numpy(self.rng.integers(0, stored, size=batch_size))
        if "valid" in self.data:
            valid = self.data["valid"].view(-1)
            if not bool(valid.any()):
                raise ValueError("cannot sample: every stored row is an environment's own reset step")
            while not bool(valid[index].all()):  # the environments' own reset steps are no transitions
                redraw = (valid[index] == 0).nonzero().squeeze(1)
                index[redraw] = torch.from_numpy(self.rng.integers(0, stored, size=len(redraw)))
        return self._gather(index, names)

    def episodes(self, names: Sequence[str] | None = None) -> Episodes:
        """Every finished episode that has not been forgotten, oldest first, each from its first step to its last.

        names: the columns to read; `reward`, `episode_id` and `group_id` must be among them.
        """
        rows = torch.arange(max(0, self.rows - self.capacity), self.rows) % self.capacity
        ids = self.data["episode_id"][rows]  # [T, N]
        done = (self.data["terminated"][rows] + self.data["truncated"][rows]) > 0
        finished = ids[done & (ids >= 0)]
        t, n = torch.isin(ids, finished).nonzero(as_tuple=True)
        order = torch.argsort(ids[t, n], stable=True)  # time order is kept within an episode
        steps = self._gather(rows[t[order]] * self.num_envs + n[order], names)
        episode_id, segment, length = torch.unique_consecutive(
            steps["episode_id"], return_inverse=True, return_counts=True
        )
        first = length.cumsum(0) - length
        ret = torch.zeros(len(length), dtype=torch.float64).index_add(0, segment, steps["reward"].double())
        return Episodes(steps, segment, episode_id, steps["group_id"][first], length, ret.float())

    def _gather(self, index: Tensor, names: Sequence[str] | None = None) -> Batch:
        batch = Batch()
        for name in self.schema if names is None else names:
            if name in self.data:
                batch[name] = self.data[name].flatten(0, 1).index_select(0, index)
            else:
                batch[name] = self.arenas[name].read(index)
        return batch

    # --- checkpoint --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything stored (only rows in use), the ring's position and the sampling generator."""
        count = len(self)
        return {
            "capacity": self.capacity,
            "rows": self.rows,
            "start": self.start,
            "rng": self.rng.bit_generator.state,
            "needed_from": self._needed_from,
            "data": {name: value[:count] for name, value in self.data.items()},
            "arenas": {name: arena.state_dict(count) for name, arena in self.arenas.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`. Raises ValueError when the schema or the number of environments differs."""
        for name, value in state["data"].items():
            if name not in self.data or self.data[name].shape[1:] != value.shape[1:]:
                raise ValueError(f"the stored buffer's field {name!r} {list(value.shape[1:])} does not fit this one")
        if state["capacity"] != self.capacity:
            self._allocate(state["capacity"])
        self.rows, self.start = state["rows"], state["start"]
        self.rng.bit_generator.state = state["rng"]
        self._needed_from = np.array(state["needed_from"])
        for name, value in state["data"].items():
            self.data[name][: len(value)] = value
        for name, stored in state["arenas"].items():
            self.arenas[name].load_state_dict(stored)


class Arena:
    """Storage of one ragged field: values end to end in one growing tensor, and where each (row, env) lies in it."""

    def __init__(self, field: Field, capacity: int, num_envs: int) -> None:
        self.num_envs = num_envs
        self.values = torch.zeros((1024, *field.shape), dtype=field.dtype)
        self.starts = torch.zeros(capacity * num_envs, dtype=torch.int64)
        self.lengths = torch.zeros(capacity * num_envs, dtype=torch.int64)
        self.end = 0

    def write(self, position: int, rows: Sequence[Any]) -> None:
        """Replace row `position` by N arrays."""
        arrays = [np.asarray(row) for row in rows]
        lengths = np.array([len(row) for row in arrays], np.int64)
        at = slice(position * self.num_envs, (position + 1) * self.num_envs)
        self.lengths[at] = 0
        total = int(lengths.sum())
        if self.end + total > len(self.values):
            self._compact(total)
        if total:
            self.values.numpy()[self.end : self.end + total] = np.concatenate(arrays)
        self.starts[at] = torch.from_numpy(self.end + lengths.cumsum() - lengths)
        self.lengths[at] = torch.from_numpy(lengths)
        self.end += total

    def read(self, index: Tensor) -> Ragged:
        """The rows at flat (position * N + env) indices."""
        lengths = self.lengths[index]
        return Ragged(self.values[_spans(self.starts[index], lengths)], lengths)

    def _compact(self, room: int) -> None:
        live = self.read(torch.arange(len(self.lengths)))
        used = len(live.values)
        size = max(len(self.values), 2 * (used + room))
        self.values = torch.zeros((size, *live.values.shape[1:]), dtype=live.values.dtype)
        self.values[:used] = live.values
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.end = used

    def state_dict(self, rows: int) -> dict[str, Tensor]:
        live = self.read(torch.arange(rows * self.num_envs))
        return {"values": live.values, "lengths": live.lengths}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.lengths.zero_()
        self.lengths[: len(state["lengths"])] = state["lengths"]
        self.starts = self.lengths.cumsum(0) - self.lengths
        self.end = len(state["values"])
        shape = (max(1024, 2 * self.end), *self.values.shape[1:])
        self.values = torch.zeros(shape, dtype=self.values.dtype)
        self.values[: self.end] = state["values"]


def _spans(starts: Tensor, lengths: Tensor) -> Tensor:
    """Indices start, start + 1, ..., start + length - 1 of every span, end to end."""
    first = lengths.cumsum(0) - lengths
    index = torch.arange(int(lengths.sum()), device=lengths.device)
    return index + torch.repeat_interleave(starts - first, lengths)
