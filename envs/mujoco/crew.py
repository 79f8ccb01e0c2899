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

WORTHWHILE = 0.8  # of one thread's time: a round that takes more is not worth other programs' cores
PERIOD = 1000  # rounds between two trials
TRIAL = 10  # rounds of a trial


class Crew:
    """`threads - 1` waiting threads and the caller, which together exhaust an iterator.

    The threads start with the first round. They are daemons and end with `close()`, with the last
    reference to the crew, or with the interpreter. After a fork the child starts its own.
    """

    def __init__(self, work: Callable[[Iterator[Any]], None], threads: int) -> None:
        self._work = work
        self.threads = threads
        self._round: _Round | None = None
        self._finalizer: weakref.finalize | None = None
        _crews.add(self)

    def run(self, jobs: list[Any], *, alone: bool = False) -> None:
        """Call `work` in every thread, or in this one `alone`, on one shared iterator over `jobs`; return when all jobs
        are done.

        Raises:
            BaseException: whatever `work` raised, here or in another thread.
        """
        todo = iter(jobs)  # next() on a list's iterator is atomic: no job is handed out twice
        if alone or self.threads == 1:
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
        shared = self._round = _Round(self.threads - 1)
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


class Pace:
    """Tells by the clock which rounds of a crew to share: all of them, as long as that is faster than one thread alone.

    Waking threads costs some 10 us, so that short rounds are better not shared. And where other programs or a
    hypervisor's other guests keep the cores busy, a round waits for its last thread longer than it saves; so the other
    way is tried again from time to time.
    """

    def __init__(self) -> None:
        self.shared = False
        self._trying = False
        self._left = TRIAL  # rounds until it tries the other way, or decides
        self._seconds = [0.0, 0.0]  # alone, shared
        self._rounds = [0, 0]

    def took(self, seconds: float) -> None:
        """Say how long the round took; `shared` is then what the next one shall be."""
        self._seconds[self.shared] += seconds
        self._rounds[self.shared] += 1
        self._left -= 1
        if self._left:
            return
        if self._trying:
            alone, shared = (s / n for s, n in zip(self._seconds, self._rounds, strict=True))
            self.shared = shared < WORTHWHILE * alone
            self._seconds, self._rounds = [0.0, 0.0], [0, 0]
        else:
            self.shared = not self.shared
        self._trying = not self._trying
        self._left = TRIAL if self._trying else PERIOD


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
