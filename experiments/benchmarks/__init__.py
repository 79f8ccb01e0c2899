"""The benchmarks that `python -m experiments.bench` knows: one module of this package per name.

A benchmark's module defines

- its sides: plain functions (`ours`, `peer_...`) that take keyword settings, do the work, time it with
  `time.perf_counter` and return a `Measurement`. They import torch, the peer and our own packages inside the
  function, so that each side's memory is what that side alone needs;
- `benchmark(options) -> Benchmark`: which sides to measure with which settings, and which ratios to report.

Adding one is adding its module and its name to `BENCHMARKS`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

BENCHMARKS: tuple[str, ...] = ("stepping", "trpo", "a2c", "ddpg", "encoders", "generation", "kimi", "screens")


@dataclass(frozen=True)
class Options:
    """What the command line may change about a benchmark; None leaves the benchmark's own choice."""

    env: str = "HalfCheetah-v4"
    steps: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Measurement:
    """What a side returns: its `rate` in the benchmark's unit, and everything needed to repeat it."""

    rate: float
    settings: dict[str, Any]
    """Every setting in force, read back from the objects measured rather than from what was asked for."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Other numbers worth printing, such as a checksum of the work done."""


@dataclass(frozen=True)
class Side:
    """One row of a benchmark: a module-level function and its keyword arguments (JSON values)."""

    name: str
    function: Callable[..., Measurement]
    arguments: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    """Threads of torch and of the BLAS under numpy, in the side's process."""


@dataclass(frozen=True)
class Ratio:
    """Rate of the side named `over` divided by that of `under`, within the same round."""

    over: str
    under: str
    target: float | None = None
    """At least this much, or at most this much if `at_most`; None for a ratio that is only informative."""
    at_most: bool = False
    memory: bool = True
    """Compare peak memory too (target: no more than the peer's). Off where the two do different work."""


@dataclass(frozen=True)
class Benchmark:
    """Sides in the order in which each round runs them, and the ratios to report, most important first."""

    title: str
    unit: str
    sides: list[Side]
    ratios: list[Ratio]
    requires: dict[str, str] = field(default_factory=dict)
    """Importable module -> how to install it, for peers that are optional dependencies."""


def usable_cores() -> int:
    """Cores that this process may use, which can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
