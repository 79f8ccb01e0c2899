"""Errors that speak to the user; everything else that a user can cause is a plain `ValueError`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


class CheckpointError(ValueError):
    """A file cannot be loaded: truncated, foreign, from a newer version, or made for other spaces."""


class EnvironmentFailure(RuntimeError):
    """An environment raised, or handed out numbers that are not finite."""


class Diverged(RuntimeError):
    """The agent's own numbers are no longer finite: its networks, or a gradient."""


def guarded(when: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What an environment's method returns; whatever it raises is an EnvironmentFailure that tells when."""
    try:
        return call(*args, **kwargs)
    except (Exception, SystemExit) as error:
        raise EnvironmentFailure(f"an environment crashed {when}: {type(error).__name__}: {error}") from error


def check_settings(
    config: Any,
    name: str,
    *,
    positive: Sequence[str] = (),
    from_zero: Sequence[str] = (),
    share: Sequence[str] = (),
    one_of: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Raise ValueError for a field of an algorithm's settings that is out of its range, or not a number.

    positive: fields above 0; from_zero: 0 or above; share: from 0 to 1; one_of: the accepted words. None passes: unset.
    """
    ranges: tuple[tuple[Sequence[str], Callable[[Any], bool], str], ...] = (
        (positive, lambda value: value > 0, "must be positive"),
        (from_zero, lambda value: value >= 0, "must be 0 or above"),
        (share, lambda value: 0 <= value <= 1, "must lie between 0 and 1"),
    )
    for fields, holds, rule in ranges:
        for field in fields:
            value = getattr(config, field)
            if value is not None and not holds(value):
                raise ValueError(f"{name}: {field} {rule}; got {value}")
    for field, accepted in (one_of or {}).items():
        if getattr(config, field) not in accepted:
            raise ValueError(f"{name}: {field} is one of {', '.join(accepted)}; got {getattr(config, field)!r}")


def nearest(name: str, names: Iterable[str]) -> str:
    """' Did you mean a or b?', or '' where nothing is close."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""
