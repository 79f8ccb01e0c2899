"""Threads that share one list of jobs with the thread that calls them.

The jobs release the interpreter's lock (`mj_step` does), so that threads, which start a round within
microseconds and share memory, are enough; processes would only add copies. Jobs are handed out one by one,
which keeps the cores level when one of them is busy elsewhere.
"""

from __future__ import annotations

import _thread
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any


class Crew:
    """`threads - 1` waiting threads and the caller, which together exhaust an iterator.

    The threads start with the first round. They are daemons and end with `close()`, with the last
    reference to the crew, or with the interpreter. After a fork the child starts its own.
    """

    def __init__(self, work: Callable[[Iterator[Any]], None], threads: int) -> None:
        self._work = work
        self._size = threads - 1
        self._round: _Round | None = None
        self._finalizer: weakref.finalize | None = None
        _crews.add(self)

    def run(self, jobs: list[Any]) -> None:
        """Call `work` in every thread on one shared iterator over `jobs`; return when all jobs are done.

        Raises:
            BaseException: whatever `work` raised, here or in another thread.
        """
        todo = iter(jobs)  # next() on a list's iterator is atomic: no job is handed out twice
        if self._size == 0:
            self._work(todo)
            return
        if self._round is None:
            self._start()
        assert self._round is not None
        shared = self._round
        shared.todo = todo
        for go in shared.go:
            go.release()
        try:
            self._work(todo)
        finally:  # an interrupted round must still end everywhere before the next one starts
            for done in shared.done:
                done.acquire()
        if shared.error is not None:
            error, shared.error = shared.error, None
            raise error

    def close(self) -> None:
        """End the threads; a later `run` starts new ones."""
        if self._finalizer is not None:
            self._finalizer()
        self._round = None

    def _start(self) -> None:
        shared = self._round = _Round(self._size)
        for go, done in zip(shared.go, shared.done, strict=True):
            # A thread holds the round and the work, never the crew: the crew can then be collected.
            threading.Thread(
                target=_serve, args=(self._work, shared, go, done), name="mujoco-step", daemon=True
            ).start()
        self._finalizer = weakref.finalize(self, _dismiss, shared)

    def _forget_threads(self) -> None:
        if self._finalizer is not None:
            self._finalizer.detach()
        self._round = None


class _Round:
    """What the threads of one crew see: their locks, the jobs that are left, the first error."""

    def __init__(self, size: int) -> None:
        self.go = [_locked() for _ in range(size)]
        self.done = [_locked() for _ in range(size)]
        self.todo: Iterator[Any] | None = None  # None while waiting means: end
        self.error: BaseException | None = None


def _locked() -> _thread.LockType:
    lock = _thread.allocate_lock()
    lock.acquire()
    return lock


def _serve(work: Callable[[Iterator[Any]], None], shared: _Round, go: _thread.LockType, done: _thread.LockType) -> None:
    while True:
        go.acquire()
        if shared.todo is None:
            return
        try:
            work(shared.todo)
        except BaseException as error:
            shared.error = error
        done.release()


def _dismiss(shared: _Round) -> None:
    shared.todo = None
    for go in shared.go:
        go.release()


_crews: weakref.WeakSet[Crew] = weakref.WeakSet()


def _after_fork() -> None:
    for crew in _crews:
        crew._forget_threads()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
