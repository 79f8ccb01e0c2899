"""What an agent is made from: its settings and its device, checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from agents.core.errors import nearest


def configured(name: str, kind: type, config: Any, fields: Mapping[str, Any]) -> Any:
    """`config`, or the defaults of `kind`, with single fields replaced.

    Raises ValueError for a config of another type or a field that there is not; name: the algorithm's.
    """
    if config is not None and not isinstance(config, kind):
        wanted, given = (f"{cls.__module__}.{cls.__qualname__}" for cls in (kind, type(config)))
        raise ValueError(f"{name} takes a config of type {wanted}; got {given}")
    known = [field.name for field in dataclasses.fields(kind)]
    for field in fields:
        if field not in known:
            raise ValueError(f"{name} has no setting {field!r}.{nearest(field, known)} It has: {', '.join(known)}.")
    made: Any = kind() if config is None else config
    return dataclasses.replace(made, **fields)


def chosen_device(device: str | torch.device) -> torch.device:
    """The device of that name, "auto" being CUDA where there is one. Raises ValueError where it cannot be used."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.zeros(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {str(device)!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return torch.device(device)
