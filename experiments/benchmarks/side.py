"""Runs one side of a benchmark in this process and prints its measurement as one line of JSON.

    python -m experiments.benchmarks.side MODULE:FUNCTION '{"argument": value}'

`experiments.bench` starts this afresh for every side and round, with the thread counts in the environment.
Whatever the side itself prints goes to standard error: standard output carries the JSON line alone.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import resource
import sys
from dataclasses import asdict
from pathlib import Path

from experiments.benchmarks import Measurement


def peak_memory_mb() -> float:
    """Peak resident memory of this process so far, in MiB.

    `ru_maxrss` survives `exec`, so a child starts with the peak of the process that started it. Linux'
    `VmHWM` belongs to this program alone and is preferred where it exists.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)


def main() -> None:
    function, arguments = sys.argv[1:]
    with contextlib.redirect_stdout(sys.stderr):
        module_name, name = function.split(":")
        measurement: Measurement = getattr(importlib.import_module(module_name), name)(**json.loads(arguments))
    print(json.dumps({**asdict(measurement), "peak_mb": peak_memory_mb()}, default=str))


if __name__ == "__main__":
    main()
