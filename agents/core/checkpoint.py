"""Checkpoints: one safetensors file; its metadata holds the rest of the state as JSON. No pickle, no code.

A state is a tree of dicts, lists, numbers, strings, None, tensors and numpy arrays. One file can be replaced in one
step: it is written beside its target, synced to disk and renamed, so a crash or a full disk leaves the old one whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from agents.core.errors import CheckpointError

FORMAT, VERSION = "rl-suite", 2
SUFFIX = ".safetensors"


def save(path: str | os.PathLike[str], state: Mapping[str, Any]) -> Path:
    """Write `state` to `path` (with ".safetensors" where it has no suffix) and return where it lies.

    Raises TypeError for a value that is neither plain data nor a tensor, OSError where the disk refuses (what was
    there before is untouched).
    """
    target = Path(path)
    if not target.suffix:
        target = target.with_name(target.name + SUFFIX)
    target.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    tree = _split(state, "", tensors)
    # One entry, because safetensors writes several in any order: equal states give equal bytes.
    metadata = {FORMAT: json.dumps({"version": VERSION, "state": tree})}
    handle, aside = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    os.close(handle)
    try:
        save_file(tensors, aside, metadata)
        os.chmod(aside, 0o666 & ~_umask())  # mkstemp and safetensors make private files
        with open(aside, "rb") as written:
            os.fsync(written.fileno())
        os.replace(aside, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(aside)
        if isinstance(error, SafetensorError):  # safetensors wraps the operating system's errors
            raise OSError(f"could not write {target}: {error}") from error
        raise
    _sync_directory(target.parent)
    return target


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The state that `save` wrote; tensors on the CPU.

    Raises FileNotFoundError, or CheckpointError for a file that is truncated, foreign or from another version.
    """
    source = resolve(path)
    try:
        with safe_open(source, framework="pt") as file:
            metadata = file.metadata() or {}
            if FORMAT not in metadata:
                raise CheckpointError(f"{source} is a safetensors file, but not a checkpoint of this library.")
            stored = json.loads(metadata[FORMAT])
            if stored["version"] > VERSION:
                raise CheckpointError(
                    f"{source} was written by a newer version (format {stored['version']}, this one reads "
                    f"{VERSION}): update the library to load it."
                )
            if stored["version"] < VERSION:
                raise CheckpointError(
                    f"{source} was written by an earlier version (format {stored['version']}, this one reads "
                    f"{VERSION}), which laid out otherwise what its optimisers remember."
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return _join(stored["state"], tensors)
    except CheckpointError:
        raise
    except SafetensorError as error:
        raise CheckpointError(f"{source} is no checkpoint, or a truncated one ({error}).") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{source} is a damaged checkpoint ({type(error).__name__}: {error}).") from None


def resolve(path: str | os.PathLike[str]) -> Path:
    """The file meant by `path`, with or without its suffix. Raises FileNotFoundError."""
    given = Path(path)
    with_suffix = given.with_name(given.name + SUFFIX)
    for candidate in (given, with_suffix) if given.suffix else (with_suffix, given):  # first the one `save` writes
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"there is no checkpoint at {given}")


def _split(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Plain data with every tensor replaced by its name; the tensors go into `tensors`."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case np.integer() | np.floating() | np.bool_():
            return value.item()
        case Tensor() | np.ndarray():
            array = torch.from_numpy(np.array(value, order="C")) if isinstance(value, np.ndarray) else value
            while name in tensors:  # {"a/b": x, "a": {"b": y}}
                name += "'"
            tensors[name] = array.detach().cpu().contiguous().clone()
            return {"$": "numpy" if isinstance(value, np.ndarray) else "torch", "at": name}
        case Mapping() if all(isinstance(key, str) and key != "$" for key in value):
            return {key: _split(child, f"{name}/{key}" if name else key, tensors) for key, child in value.items()}
        case Mapping():
            items = [[key, _split(child, f"{name}/{key}", tensors)] for key, child in value.items()]
            return {"$": "items", "items": items}
        case tuple():
            return {
                "$": "tuple",
                "items": [_split(child, f"{name}/{i}", tensors) for i, child in enumerate(value)],
            }
        case list():
            return [_split(child, f"{name}/{i}", tensors) for i, child in enumerate(value)]
    raise TypeError(f"a checkpoint holds plain data and tensors; {name} is a {type(value).__name__}")


def _join(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_join(child, tensors) for child in value]
    if not isinstance(value, dict):
        return value
    match value.get("$"):
        case None:
            return {key: _join(child, tensors) for key, child in value.items()}
        case "torch":
            return tensors[value["at"]]
        case "numpy":
            return tensors[value["at"]].numpy()
        case "tuple":
            return tuple(_join(child, tensors) for child in value["items"])
    return {key: _join(child, tensors) for key, child in value["items"]}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_directory(directory: Path) -> None:
    """Make the rename itself durable."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
