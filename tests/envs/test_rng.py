"""Generators as numbers: the same draws before and after, buffered halves included."""

import numpy as np
import pytest

from envs.rng import generator_from_words, generator_words


@pytest.mark.parametrize("draws", [0, 1, 2, 5])
def test_a_restored_generator_draws_the_same(draws):
    rng = np.random.default_rng(7)
    rng.integers(0, 10, size=draws, dtype=np.uint32)  # an odd number leaves half a draw buffered
    words = generator_words(rng)
    assert words.dtype == np.uint64
    assert words.shape == (6,)
    copy = generator_from_words(words)
    assert copy.integers(0, 1000, 9, dtype=np.uint32).tolist() == rng.integers(0, 1000, 9, dtype=np.uint32).tolist()
    assert copy.normal(size=5).tolist() == rng.normal(size=5).tolist()


def test_other_bit_generators_are_refused():
    with pytest.raises(TypeError, match="PCG64"):
        generator_words(np.random.Generator(np.random.MT19937(0)))
