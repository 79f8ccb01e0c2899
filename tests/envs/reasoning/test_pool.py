"""Worker processes: limits that hold off the main thread, and a pool that survives whatever a check does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from envs.reasoning.pool import Call, Outcome, WorkerPool

CHECKS = """
import ctypes, os, sys, time

def double(n): return lambda: 2 * n
def hang(): return hang_forever
def hang_forever():
    while True: pass
def hang_in_c(): return lambda: (10**5_000_000) ** 3 % 7
def fail(): return lambda: 1 / 0
def cannot_prepare(): raise KeyError("no such thing")
def die(): return lambda: os._exit(3)
def chatter(): return lambda: (print("noise"), sys.stdout.flush(), 5)[2]
def eat(): return lambda: len(bytearray(1 << 36))
def pid(): return os.getpid
"""


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    (tmp_path / "pool_checks.py").write_text(CHECKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    made = WorkerPool(size=2)
    yield made
    made.close()


def call(name: str, *args: Any) -> Call:
    return Call(f"pool_checks:{name}", args)


def test_results_come_in_order(pool: WorkerPool) -> None:
    outcomes = pool.run([call("double", n) for n in range(20)], limit=5.0)
    assert outcomes == [Outcome("ok", 2 * n) for n in range(20)]
    assert pool.run([], limit=1.0) == []


@pytest.mark.parametrize("name", ["hang", "hang_in_c"])
def test_time_limit_holds_off_the_main_thread(pool: WorkerPool, name: str) -> None:
    results: list[list[Outcome]] = []
    calls = [call("double", 1), call(name), call("double", 2), call(name), call("double", 3)]
    thread = threading.Thread(target=lambda: results.append(pool.run(calls, limit=0.2)))
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert [outcome.status for outcome in results[0]] == ["ok", "timeout", "ok", "timeout", "ok"]
    assert pool.run([call("double", 4)], limit=5.0) == [Outcome("ok", 8)]


def test_errors_and_deaths_are_outcomes(pool: WorkerPool) -> None:
    names = ["fail", "cannot_prepare", "die", "chatter", "eat", "missing"]
    outcomes = pool.run([call(name) for name in names], limit=5.0)
    assert [outcome.status for outcome in outcomes] == ["error", "error", "error", "ok", "error", "error"]
    assert outcomes[0].value == "ZeroDivisionError: division by zero"
    assert "no such thing" in outcomes[1].value
    assert outcomes[3].value == 5
    assert "MemoryError" in outcomes[4].value
    assert pool.run([call("double", 4)], limit=5.0) == [Outcome("ok", 8)]


def test_workers_are_kept_and_ended(pool: WorkerPool) -> None:
    first = {outcome.value for outcome in pool.run([call("pid")] * 6, limit=5.0)}
    second = {outcome.value for outcome in pool.run([call("pid")] * 6, limit=5.0)}
    assert second <= first
    assert len(first) <= 2
    assert os.getpid() not in first
    pool.close()
    for pid in first:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_threads_share_a_pool(pool: WorkerPool) -> None:
    results: dict[int, list[Outcome]] = {}

    def ask(n: int) -> None:
        results[n] = pool.run([call("double", n), call("double", n + 1)], limit=5.0)

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == {n: [Outcome("ok", 2 * n), Outcome("ok", 2 * n + 2)] for n in range(6)}
