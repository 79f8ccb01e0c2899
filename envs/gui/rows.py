"""What the vector environments of screens make of their arguments, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def chosen_rows(mask: NDArray[np.bool_] | None, num_envs: int) -> list[int]:
    """The environments that `options["reset_mask"]` means. Raises ValueError for anything but booleans, some true."""
    if mask is None:
        return list(range(num_envs))
    mask = np.asarray(mask)
    if mask.shape != (num_envs,) or mask.dtype != np.bool_ or not mask.any():
        raise ValueError(f"reset_mask must be {num_envs} booleans, at least one of them true.")
    chosen: list[int] = np.flatnonzero(mask).tolist()
    return chosen


def row_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> Sequence[int | None]:
    """A seed or None for each environment. Raises ValueError for another number of them."""
    if seed is None:
        return [None] * num_envs
    if isinstance(seed, int | np.integer):
        return [int(seed) + i for i in range(num_envs)]
    if len(seed) != num_envs:
        raise ValueError(f"reset() takes one seed, or {num_envs} seeds, not {len(seed)}.")
    return seed


def empty_infos(num_envs: int, present: list[int], **dtypes: Any) -> dict[str, Any]:
    """Arrays of these names and dtypes, None or 0 throughout, with Gymnasium's `_name` masks of who is present."""
    mask = np.zeros(num_envs, dtype=np.bool_)
    mask[present] = True
    infos: dict[str, Any] = {}
    for name, dtype in dtypes.items():
        infos[name] = np.full(num_envs, None) if dtype is object else np.zeros(num_envs, dtype)
        infos[f"_{name}"] = mask.copy()
    return infos
