"""A PCG64 generator as plain numbers, so that checkpoints hold it without pickle."""

from __future__ import annotations

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
