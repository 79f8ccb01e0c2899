"""Worker processes for verifiers that may hang, eat memory or crash: each call has a time limit that is
enforced from outside, by killing the process, and so holds on any thread and inside any C code.

A call names a trusted function of this code base by `module:function`; text from a model only ever travels as
a JSON argument, and the reply as JSON. Workers start on first use, and a killed one is replaced when next
needed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PREPARE_LIMIT = 120.0  # seconds for imports and for building a dataset, before the verifier's own limit starts
_WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True, slots=True)
class Call:
    """`function` ("module:name") takes the JSON-able `args` and returns the check, a function of nothing."""

    function: str
    args: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`value` is the check's JSON-able result if `status` is "ok", else a description of what went wrong."""

    status: Literal["ok", "timeout", "error"]
    value: Any = None


class WorkerPool:
    """Up to `size` workers. Thread-safe; each batch of calls has the workers to itself."""

    def __init__(self, size: int = 2) -> None:
        self.size = size
        self._idle: list[_Worker] = []
        self._lock = threading.Lock()
        self._owner = os.getpid()

    def run(self, calls: Sequence[Call], limit: float) -> list[Outcome]:
        """Outcomes in the order of `calls`, each check given `limit` seconds."""
        with self._lock:
            if self._owner != os.getpid():  # after a fork the parent's workers are not ours to talk to
                self._idle, self._owner = [], os.getpid()
            return self._run(calls, limit)

    def _run(self, calls: Sequence[Call], limit: float) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        waiting = list(reversed(range(len(calls))))
        busy: dict[_Worker, int] = {}
        with selectors.DefaultSelector() as selector:
            try:
                while waiting or busy:
                    while waiting and len(busy) < self.size:
                        worker = self._idle.pop() if self._idle else _Worker()
                        index = waiting.pop()
                        busy[worker] = index
                        worker.send(calls[index], limit)
                        selector.register(worker.output, selectors.EVENT_READ, worker)
                    soonest = min(worker.deadline for worker in busy)
                    ready = selector.select(max(0.0, soonest - time.monotonic()))
                    for key, _ in ready:
                        key.data.receive(limit)
                    for worker in list(busy):
                        if worker.outcome is None and time.monotonic() >= worker.deadline:
                            worker.outcome = Outcome("timeout")
                            worker.alive = False
                        if worker.outcome is not None:
                            outcomes[busy.pop(worker)] = worker.outcome
                            selector.unregister(worker.output)
                            if worker.alive:
                                self._idle.append(worker)
                            else:
                                worker.kill()
            finally:  # an interrupt leaves no worker with an unread reply
                for worker in busy:
                    worker.kill()
        return [outcomes[i] for i in range(len(calls))]

    def close(self) -> None:
        """End all workers; a later `run` starts new ones."""
        with self._lock:
            if self._owner == os.getpid():
                for worker in self._idle:
                    worker.kill()
            self._idle = []


class _Worker:
    def __init__(self) -> None:
        paths = [os.path.abspath(entry) for entry in sys.path]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the run, which then decides what to do with its workers
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.input = self.process.stdin
        self.output = self.process.stdout
        self.alive = True
        self.outcome: Outcome | None = None
        self.deadline = 0.0
        self.buffer = b""

    def send(self, call: Call, limit: float) -> None:
        self.outcome = None
        self.deadline = time.monotonic() + PREPARE_LIMIT
        message = json.dumps({"function": call.function, "args": call.args, "limit": limit})
        try:
            self.input.write(message.encode() + b"\n")
            self.input.flush()
        except OSError:
            self.fail()

    def receive(self, limit: float) -> None:
        """Read what has come: {"begun": true} starts the check's own clock, the next line is its result."""
        data = os.read(self.output.fileno(), 1 << 16)
        if not data:
            self.fail()
            return
        self.buffer += data
        while b"\n" in self.buffer:
            line, self.buffer = self.buffer.split(b"\n", 1)
            message = json.loads(line)
            if "begun" in message:
                self.deadline = time.monotonic() + limit
            elif "error" in message:
                self.outcome = Outcome("error", message["error"])
            else:
                self.outcome = Outcome("ok", message["value"])

    def fail(self) -> None:
        self.alive = False
        self.outcome = Outcome("error", "the worker process ended")

    def kill(self) -> None:
        self.alive = False
        self.process.kill()
        self.process.wait()
        self.output.close()
        with contextlib.suppress(OSError):  # a request may still be in the buffer of a dead process
            self.input.close()


_shared: WorkerPool | None = None
_shared_lock = threading.Lock()


def shared_pool() -> WorkerPool:
    """The pool of this process, shared by all environments: verifiers are short, processes are not cheap."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = WorkerPool()
            atexit.register(_shared.close)
        return _shared
