"""Generators as numbers: the same draws before and after, buffered halves included."""

import gymnasium
import numpy as np
import pytest

from envs.rng import SeedStream, generator_from_words, generator_words


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


def test_a_stream_of_seeds_goes_on_from_where_it_was():
    whole, first = SeedStream(7, 10, 20), SeedStream(7, 10, 20)
    seeds = [whole.next() for _ in range(50)]
    assert set(seeds) == set(range(10, 20))
    assert seeds == gymnasium.utils.seeding.np_random(7)[0].integers(10, 20, size=50).tolist()
    assert [first.next() for _ in range(20)] == seeds[:20]
    again = SeedStream(first.origin, 10, 20, first.drawn)
    assert [again.next() for _ in range(30)] == seeds[20:]
