"""What a worker process of `pool` runs: one JSON request a line in, two lines out (begun, then the result).

Run as a file, so that a worker imports nothing but what its calls need.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from typing import Any

MEMORY_LIMIT = 4 << 30  # bytes of address space: `Fraction("1e999999999")` must not take the machine down
PREPARE_LIMIT = 150  # seconds; the pool's own limit comes first


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print; what they print must not reach the reply stream
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    except (ImportError, ValueError, OSError):
        pass
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # With the parent gone nobody kills a hanging check: an unhandled alarm ends the process by itself.
        _alarm(PREPARE_LIMIT)
        try:
            module, _, name = request["function"].partition(":")
            check = getattr(importlib.import_module(module), name)(*request["args"])
            _send(replies, {"begun": True})
            _alarm(2 * request["limit"] + 10)
            reply = {"value": check()}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"[:300]}
        _alarm(0)
        _send(replies, reply)


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def _send(stream: Any, message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


if __name__ == "__main__":
    main()
