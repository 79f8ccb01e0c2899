"""Speed and peak memory against peers, side by side in one run: `python -m experiments.bench NAME`.

The protocol, the same for every benchmark of `experiments.benchmarks`:

- **A process per measurement.** Each side runs in a fresh process, with its own libraries, peak memory and
  thread settings (given through OMP_NUM_THREADS and its kin). What a side needs is built and warmed up there
  before its clock (`time.perf_counter`) starts.
- **Interleaved rounds.** A B A B, not A A B B: whatever else the machine does falls on both sides alike. A
  ratio is taken within a round; the median of the rounds' ratios is reported with the lowest and the highest.
- **Ratios first**, then the absolute rates, then every setting of every side as read back from the objects
  that were measured, then the machine with its load at the start: if it was busy, measure again.
- **Memory** is the peak resident memory of the side's process, libraries included, compared in the same way.

A missed target does not fail the command; a side that fails does (exit code 1). A wrong command line, or a
peer that is not installed, is exit code 2.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.benchmarks import BENCHMARKS, Benchmark, Options, Ratio, Side, usable_cores
from experiments.cli import main, parse

STDERR_TAIL_LINES = 20


class SideFailure(RuntimeError):
    """A side's process ended badly; `stderr_tail` is the end of what it wrote to standard error."""

    def __init__(self, message: str, stderr_tail: str) -> None:
        super().__init__(message)
        self.stderr_tail = stderr_tail


@dataclass
class SideResult:
    """A side and what its rounds gave."""

    name: str
    rates: list[float] = field(default_factory=list)
    peaks_mb: list[float] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class RatioResult:
    """One ratio, `values` being one number a round."""

    what: str
    over: str
    under: str
    values: list[float]
    target: float | None
    at_most: bool

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """The target, and whether the median meets it at the two decimals printed; empty without one."""
        if self.target is None:
            return ""
        shown = round(self.median, 2)
        met = shown <= self.target if self.at_most else shown >= self.target
        return f"target {'<=' if self.at_most else '>='} {self.target:g}x: {'met' if met else 'MISSED'}"


@dataclass
class Result:
    """A finished benchmark, ready to print or to write as JSON."""

    name: str
    title: str
    unit: str
    ratios: list[RatioResult]
    sides: list[SideResult]
    machine: dict[str, Any]


def run_side(side: Side) -> dict[str, Any]:
    """Measure `side` in a fresh process: rate, settings, notes and peak_mb. Raises SideFailure."""
    threads = str(side.threads)
    root = str(Path(__file__).resolve().parents[1])
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")])),
    }
    function = f"{side.function.__module__}:{side.function.__qualname__}"
    command = [sys.executable, "-m", "experiments.benchmarks.side", function, json.dumps(side.arguments)]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if process.returncode != 0:
        lines = process.stderr.splitlines()[-STDERR_TAIL_LINES:]
        reason = f": {lines[-1].strip()}" if lines else "."
        message = f"the side '{side.name}' failed with exit code {process.returncode}{reason}"
        raise SideFailure(message, "\n".join(lines))
    return json.loads(process.stdout)


def measure(name: str, benchmark: Benchmark, rounds: int, run: Callable[[Side], dict[str, Any]] = run_side) -> Result:
    """Run every side once a round, in the given order, and take the ratios within each round."""
    machine = describe_machine()
    sides = {side.name: SideResult(side.name) for side in benchmark.sides}
    for index in range(rounds):
        for side in benchmark.sides:
            measured = run(side)
            result = sides[side.name]
            result.rates.append(measured["rate"])
            result.peaks_mb.append(measured["peak_mb"])
            result.settings = {**measured["settings"], "OMP_NUM_THREADS": side.threads}
            result.notes.append(measured["notes"])
            rate, peak = f"{measured['rate']:,.1f} {benchmark.unit}", f"{measured['peak_mb']:,.0f} MB"
            print(f"round {index + 1}/{rounds}  {side.name}: {rate}, {peak}", file=sys.stderr, flush=True)
    ratios = [entry for ratio in benchmark.ratios for entry in take_ratio(ratio, sides)]
    return Result(name, benchmark.title, benchmark.unit, ratios, list(sides.values()), machine)


def take_ratio(ratio: Ratio, sides: dict[str, SideResult]) -> list[RatioResult]:
    """The ratio of rates and, where the two do the same work, that of peak memory."""
    over, under = sides[ratio.over], sides[ratio.under]
    speed = [a / b for a, b in zip(over.rates, under.rates, strict=True)]
    results = [RatioResult("speed", over.name, under.name, speed, ratio.target, ratio.at_most)]
    if ratio.memory:
        memory = [a / b for a, b in zip(over.peaks_mb, under.peaks_mb, strict=True)]
        results.append(RatioResult("peak memory", over.name, under.name, memory, 1.0, True))
    return results


def describe_machine() -> dict[str, Any]:
    """Processor, cores this process may use, load, date and versions of everything that is measured."""
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = models[0] if models else cpu
    versions = {}
    for package in ("torch", "numpy", "gymnasium", "mujoco", "stable-baselines3", "sb3-contrib", "transformers", "trl"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "processor": cpu,
        "cores": usable_cores(),
        "load average at the start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **versions,
    }


def as_text(result: Result) -> str:
    """The report for a terminal."""
    rounds = len(result.sides[0].rates)
    lines = [
        "",
        f"{result.name}: {result.title}",
        "",
        f"ratios, median of {rounds} rounds (lowest .. highest)",
    ]
    for ratio in result.ratios:
        spread = f"({min(ratio.values):.2f} .. {max(ratio.values):.2f})"
        lines.append(f"  {ratio.median:6.2f}x {spread:18} {ratio.what:12} {ratio.verdict}")
        lines.append(f"          {ratio.over}  /  {ratio.under}")
    width = max(len(side.name) for side in result.sides)
    lines += ["", f"  {'side':{width}}  {result.unit:>12}  {'lowest .. highest':>25}  {'peak MB':>8}"]
    for side in result.sides:
        spread = f"{min(side.rates):,.1f} .. {max(side.rates):,.1f}"
        peak = statistics.median(side.peaks_mb)
        lines.append(f"  {side.name:{width}}  {statistics.median(side.rates):12,.1f}  {spread:>25}  {peak:8,.0f}")
    for side in result.sides:
        lines += ["", f"settings of '{side.name}'"]
        lines += [f"  {key}: {value}" for key, value in side.settings.items()]
        lines += [f"  measured, {key}: {value}" for key, value in side.notes[-1].items()]
    lines += ["", "machine"] + [f"  {key}: {value}" for key, value in result.machine.items()]
    return "\n".join(lines)


def as_markdown(result: Result) -> str:
    """The report as GitHub tables."""
    rounds = len(result.sides[0].rates)
    lines = [f"## {result.name}", "", result.title, ""]
    lines += [f"| ratio, median of {rounds} rounds | lowest .. highest | of | between | target |"]
    lines += ["|---|---|---|---|---|"]
    for ratio in result.ratios:
        spread = f"{min(ratio.values):.2f} .. {max(ratio.values):.2f}"
        between = f"{ratio.over} / {ratio.under}"
        lines.append(f"| {ratio.median:.2f}x | {spread} | {ratio.what} | {between} | {ratio.verdict} |")
    lines += ["", f"| side | {result.unit}, median | lowest .. highest | peak MB |", "|---|---|---|---|"]
    for side in result.sides:
        spread = f"{min(side.rates):,.1f} .. {max(side.rates):,.1f}"
        peak = statistics.median(side.peaks_mb)
        lines.append(f"| {side.name} | {statistics.median(side.rates):,.1f} | {spread} | {peak:,.0f} |")
    for side in result.sides:
        settings = [f"{key}: {value}" for key, value in side.settings.items()]
        settings += [f"measured, {key}: {value}" for key, value in side.notes[-1].items()]
        lines += ["", f"Settings of {side.name}:", "", "```", *settings, "```"]
    lines += [
        "",
        "Machine:",
        "",
        "```",
        *(f"{key}: {value}" for key, value in result.machine.items()),
        "```",
        "",
    ]
    return "\n".join(lines)


def load(name: str, options: Options) -> Benchmark:
    """The benchmark of that name. Raises ValueError for an unknown name and for a peer that is missing."""
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, [*BENCHMARKS, "all"], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else "."
        raise ValueError(f"no benchmark is called '{name}'; there are {', '.join(BENCHMARKS)} and all{hint}")
    benchmark: Benchmark = importlib.import_module(f"experiments.benchmarks.{name}").benchmark(options)
    for module, remedy in benchmark.requires.items():
        if importlib.util.find_spec(module) is None:
            raise ValueError(f"the benchmark '{name}' compares with {module}, which is not installed: {remedy}.")
    return benchmark


@dataclass
class Arguments:
    """What the command line takes."""

    name: Annotated[
        tyro.conf.Positional[str],
        tyro.conf.arg(help=f"{', '.join(BENCHMARKS)}, or all of them one after the other."),
    ]
    rounds: int = 5
    """Times that each side is measured, alternating with the others."""
    steps: int | None = None
    """Environment steps measured per side and round, instead of the benchmark's own number."""
    threads: int | None = None
    """Threads of torch and BLAS in every side, instead of each side's own best."""
    env: str = "HalfCheetah-v4"
    """The Gymnasium MuJoCo task."""
    json: Path | None = None
    """File to write the results to as well."""
    markdown: Path | None = None
    """File to write the report to as well, as tables."""


def bench(arguments: Arguments) -> None:
    """Measure and print. Raises ValueError for impossible arguments and SideFailure."""
    for option in ("rounds", "steps", "threads"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise ValueError(f"--{option} must be at least 1, not {value}.")
    for file in (arguments.json, arguments.markdown):
        if file is not None and not file.resolve().parent.is_dir():
            raise ValueError(f"cannot write '{file}': there is no directory '{file.parent}'.")
    options = Options(env=arguments.env, steps=arguments.steps, threads=arguments.threads)
    names = BENCHMARKS if arguments.name == "all" else (arguments.name,)
    # All are loaded before the first is measured: what the last one lacks shows now, not in half an hour.
    chosen = {name: load(name, options) for name in names}
    results = []
    for name, benchmark in chosen.items():
        results.append(measure(name, benchmark, arguments.rounds))
        print(as_text(results[-1]), flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
        if arguments.markdown is not None:
            arguments.markdown.write_text("\n".join(as_markdown(result) for result in results))


def command(argv: list[str]) -> int:
    """The command line without its handling of errors in general; returns the exit code."""
    prog, description = "python -m experiments.bench", (__doc__ or "").split(":")[0] + "."
    try:
        bench(parse(Arguments, argv, prog=prog, description=description))
    except SideFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        if failure.stderr_tail:
            print(f"the end of its standard error:\n{failure.stderr_tail}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main(command)
