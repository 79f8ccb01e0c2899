"""Gymnasium spaces as tensors: which buffer fields a space needs, and an observation as rows of them.

An observation is a tree. Its leaves are named by their path, joined with dots: the leaves of
`Dict(screenshot=Box, instruction=Text)` under the prefix `obs` are `obs.screenshot` and `obs.instruction`; a plain
Box has the one leaf `obs`. Text is stored as its UTF-8 bytes in a ragged field, so that nothing here needs a tokenizer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from agents.core.buffer import Field, Ragged, tree

# In a text it stands before every message of a conversation but the first, which are in turn the other side's and the
# policy's: ASCII's record separator. Without it a text is one message.
TURN = "\x1e"

# What a policy sees: one tensor [batch, ...], or a flat mapping from leaf path to one.
Observation = Tensor | Ragged | Mapping[str, Tensor | Ragged]


def leaves(space: spaces.Space, prefix: str = "") -> dict[str, spaces.Space]:
    """The leaf spaces by path; a space that is no Dict or Tuple is its own leaf, named `prefix`."""
    if isinstance(space, spaces.Dict):
        children: list[tuple[str, spaces.Space]] = [(str(key), child) for key, child in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        children = [(str(i), child) for i, child in enumerate(space.spaces)]
    else:
        return {prefix: space}
    found: dict[str, spaces.Space] = {}
    for key, child in children:
        found |= leaves(child, f"{prefix}.{key}" if prefix else key)
    return found


def field_of(space: spaces.Space) -> Field:
    """How one leaf is stored. Raises ValueError for a space that has no tensor form."""
    match space:
        case spaces.Box():
            return Field(space.shape, _storage_dtype(space.dtype))
        case spaces.Discrete():
            return Field((), torch.int64)
        case spaces.MultiDiscrete() | spaces.MultiBinary():
            return Field(tuple(space.shape), torch.int64)
        case spaces.Text():
            return Field((), torch.uint8, ragged=True)
    raise ValueError(
        f"observations and actions must be Box, Discrete, MultiDiscrete, MultiBinary, Text, or a Dict or Tuple of "
        f"these; got {space}"
    )


def fields_of(space: spaces.Space, prefix: str) -> dict[str, Field]:
    """The buffer fields of a space, by leaf path."""
    return {name: field_of(leaf) for name, leaf in leaves(space, prefix).items()}


def flatten(space: spaces.Space, batch: Any, prefix: str) -> dict[str, Any]:
    """A vector environment's batch as `{leaf path: [N, ...] array, or N strings}`; nothing is copied."""
    if isinstance(space, spaces.Dict):
        pairs = [(str(key), child, batch[key]) for key, child in space.spaces.items()]
    elif isinstance(space, spaces.Tuple):
        pairs = [(str(i), child, batch[i]) for i, child in enumerate(space.spaces)]
    else:
        return {prefix: batch}
    found: dict[str, Any] = {}
    for key, child, value in pairs:
        found |= flatten(child, value, f"{prefix}.{key}" if prefix else key)
    return found


def encode_text(texts: list[str] | tuple[str, ...]) -> list[np.ndarray]:
    """Strings as UTF-8 bytes, one uint8 array a string."""
    return [np.frombuffer(text.encode("utf-8"), dtype=np.uint8) for text in texts]


def decode_text(rows: Ragged) -> list[str]:
    """The strings that `encode_text` stored."""
    return [bytes(row.numpy()).decode("utf-8") for row in rows.to(torch.device("cpu")).rows()]


def observation_tensors(space: spaces.Space, batch: Any, device: torch.device) -> Observation:
    """A batch of raw observations (leading dimension N) as the tensors a policy takes."""
    named: dict[str, Any] = {}
    for name, value in flatten(space, batch, "obs").items():
        leaf = field_of(leaves(space, "obs")[name])
        if leaf.ragged:
            named[name] = Ragged.of([torch.from_numpy(row.copy()) for row in encode_text(value)], leaf.dtype)
        else:
            named[name] = torch.as_tensor(np.asarray(value), device=device).to(leaf.dtype)
    return tree(named, "obs")


def _storage_dtype(dtype: Any) -> torch.dtype:
    if np.issubdtype(dtype, np.floating):
        return torch.float32
    return torch.uint8 if np.dtype(dtype) in (np.dtype(np.uint8), np.dtype(bool)) else torch.int64


def describe(space: spaces.Space) -> dict[str, Any]:
    """A space as plain data (numbers, strings, arrays), for a checkpoint."""
    match space:
        case spaces.Box():
            return {"type": "Box", "low": space.low, "high": space.high, "dtype": np.dtype(space.dtype).name}
        case spaces.Discrete():
            return {
                "type": "Discrete",
                "n": int(space.n),
                "start": int(space.start),
                "dtype": np.dtype(space.dtype).name,
            }
        case spaces.MultiDiscrete():
            start = np.asarray(space.start, np.int64)
            nvec = space.nvec.astype(np.int64)
            return {"type": "MultiDiscrete", "nvec": nvec, "start": start, "dtype": np.dtype(space.dtype).name}
        case spaces.MultiBinary():
            return {"type": "MultiBinary", "shape": list(space.shape)}
        case spaces.Text():
            charset = "".join(sorted(space.character_set))
            return {"type": "Text", "max": space.max_length, "min": space.min_length, "charset": charset}
        case spaces.Dict():
            return {"type": "Dict", "spaces": {key: describe(child) for key, child in space.spaces.items()}}
        case spaces.Tuple():
            return {"type": "Tuple", "spaces": [describe(child) for child in space.spaces]}
        case spaces.OneOf():
            return {"type": "OneOf", "spaces": [describe(child) for child in space.spaces]}
    raise ValueError(f"cannot store a description of the space {space}")


def rebuild(description: Mapping[str, Any]) -> spaces.Space:
    """The space that `describe` described."""
    d = description
    match d["type"]:
        case "Box":
            return spaces.Box(np.asarray(d["low"]), np.asarray(d["high"]), dtype=np.dtype(d["dtype"]).type)
        case "Discrete":
            return spaces.Discrete(d["n"], start=d["start"], **_other_dtype(d))
        case "MultiDiscrete":
            return spaces.MultiDiscrete(np.asarray(d["nvec"]), start=np.asarray(d["start"]), **_other_dtype(d))
        case "MultiBinary":
            return spaces.MultiBinary(d["shape"] if len(d["shape"]) > 1 else d["shape"][0])
        case "Text":
            return spaces.Text(d["max"], min_length=d["min"], charset=d["charset"])
        case "Dict":
            # An OrderedDict, because Gymnasium sorts the keys of a plain one and features come in the space's order.
            return spaces.Dict(OrderedDict((key, rebuild(child)) for key, child in d["spaces"].items()))
        case "Tuple":
            return spaces.Tuple([rebuild(child) for child in d["spaces"]])
        case "OneOf":
            return spaces.OneOf([rebuild(child) for child in d["spaces"]])
    raise ValueError(f"unknown space type {d['type']!r}")


def _other_dtype(description: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers' type where it is not the usual one, for which not every version of Gymnasium has an argument."""
    name = description.get("dtype", "int64")
    return {} if name == "int64" else {"dtype": np.dtype(name).type}


def same(a: spaces.Space, b: spaces.Space) -> bool:
    """Whether an agent made for one space can act in the other: equal up to the numbers' type."""
    da, db = describe(a), describe(b)
    if da["type"] != db["type"]:
        return False
    if da["type"] == "Dict":
        assert isinstance(a, spaces.Dict)
        assert isinstance(b, spaces.Dict)
        return a.spaces.keys() == b.spaces.keys() and all(same(a[key], b[key]) for key in a.spaces)
    if da["type"] in ("Tuple", "OneOf"):
        assert isinstance(a, spaces.Tuple | spaces.OneOf)
        assert isinstance(b, spaces.Tuple | spaces.OneOf)
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.spaces, b.spaces, strict=True))
    if da["type"] == "Box":
        return a.shape == b.shape and np.array_equal(da["low"], db["low"]) and np.array_equal(da["high"], db["high"])
    return all(np.array_equal(da[key], db[key]) for key in da if key != "dtype")


def is_single(space: spaces.Space, observation: Any) -> bool:
    """Whether `observation` is one of the space rather than a batch.

    Raises ValueError where it is neither.
    """
    found = set()
    given = flatten(space, observation, "obs")
    for path, leaf in leaves(space, "obs").items():
        if isinstance(leaf, spaces.Text):
            found.add(isinstance(given[path], str))
            continue
        shape, wanted = np.shape(given[path]), tuple(leaf.shape or ())
        if wanted not in (shape, shape[1:]):
            what = "the observation" if path == "obs" else f"the observation's {path.removeprefix('obs.')!r}"
            batch = f"({', '.join(['n', *map(str, wanted)])})"
            raise ValueError(f"{what} has shape {shape}; this agent sees {wanted}, or a batch of {batch}")
        found.add(shape == wanted)
    if len(found) > 1:
        raise ValueError("some parts of the observation are one environment's, others a batch")
    return found.pop()


def stack_one(space: spaces.Space, observation: Any) -> Any:
    """A batch of one."""
    if isinstance(space, spaces.Dict):
        return {key: stack_one(child, observation[key]) for key, child in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stack_one(child, observation[i]) for i, child in enumerate(space.spaces))
    return (observation,) if isinstance(space, spaces.Text) else np.asarray(observation)[None]
