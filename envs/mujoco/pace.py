"""Whether it pays to share a round of physics among threads, as the clock tells."""

from __future__ import annotations

from collections import deque
from statistics import median

WORTHWHILE = 0.8  # of one thread's time: a round that takes more is not worth other programs' cores
PERIOD = 1000  # rounds between two trials
TRIAL = 10  # rounds of a trial


class Pace:
    """Tells by the clock which rounds to share: all of them, as long as that is faster than one thread alone.

    Where other programs or a hypervisor's other guests keep the cores busy, a round waits for its last thread longer
    than it saves; so the other way is tried again from time to time. The median of some rounds decides: the first ones
    of a trial find cold caches, and a single one may be interrupted.
    """

    def __init__(self) -> None:
        self.shared = False
        self._trying = False
        self._left = TRIAL  # rounds until it tries the other way, or decides
        self._latest = [deque[float](maxlen=TRIAL), deque[float](maxlen=TRIAL)]  # seconds: alone, shared

    def took(self, seconds: float) -> None:
        """Say how long the round took; `shared` is then what the next one shall be."""
        self._latest[self.shared].append(seconds)
        self._left -= 1
        if self._left:
            return
        if self._trying:
            alone, shared = map(median, self._latest)
            self.shared = shared < WORTHWHILE * alone
        else:
            self.shared = not self.shared
        self._trying = not self._trying
        self._left = TRIAL if self._trying else PERIOD
