"""Errors that speak to the user; everything else that a user can cause is a plain `ValueError`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
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
    except Exception as error:
        raise EnvironmentFailure(f"an environment crashed {when}: {type(error).__name__}: {error}") from error


def nearest(name: str, names: Iterable[str]) -> str:
    """' Did you mean a or b?', or '' where nothing is close."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(close)}?" if close else ""
