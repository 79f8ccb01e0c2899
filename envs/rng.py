"""Random generators as plain numbers, so that checkpoints hold them without pickle."""

from __future__ import annotations

import gymnasium
import numpy as np
from numpy.typing import NDArray

_WORD = 1 << 64


def generator_words(rng: np.random.Generator) -> NDArray[np.uint64]:
    """The generator's state, uint64 [6]: two 128-bit numbers (low word first) and a buffered half draw.

    Raises:
        TypeError: the generator's bit source is not PCG64, which is what Gymnasium gives its environments.
    """
    state = rng.bit_generator.state
    if state["bit_generator"] != "PCG64":
        raise TypeError(f"Only PCG64 generators can be saved, got {state['bit_generator']}.")
    inner = state["state"]
    words = [
        inner["state"] % _WORD,
        inner["state"] // _WORD,
        inner["inc"] % _WORD,
        inner["inc"] // _WORD,
        state["has_uint32"],
        state["uinteger"],
    ]
    return np.array(words, dtype=np.uint64)


def generator_from_words(words: NDArray[np.uint64]) -> np.random.Generator:
    """The generator whose `generator_words` are given."""
    low, high, inc_low, inc_high, has_uint32, uinteger = (int(word) for word in words)
    bits = np.random.PCG64()
    bits.state = {
        "bit_generator": "PCG64",
        "state": {"state": low + high * _WORD, "inc": inc_low + inc_high * _WORD},
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
    return np.random.Generator(bits)


class SeedStream:
    """The seeds that `reset()` without a seed goes through: Gymnasium's generator for `origin`, low <= seed < high.

    The generator is only made when asked for: a sampler that seeds every reset never pays for it.
    """

    __slots__ = ("_generator", "drawn", "high", "low", "origin")

    def __init__(self, origin: int, low: int, high: int, drawn: int = 0) -> None:
        self.origin, self.low, self.high, self.drawn = origin, low, high, drawn
        self._generator: np.random.Generator | None = None

    def next(self) -> int:
        """The next seed."""
        if self._generator is None:
            self._generator, _ = gymnasium.utils.seeding.np_random(self.origin)
            if self.drawn:
                self._generator.integers(self.low, self.high, size=self.drawn)
        self.drawn += 1
        return int(self._generator.integers(self.low, self.high))
