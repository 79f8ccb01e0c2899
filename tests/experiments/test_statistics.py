from __future__ import annotations

import numpy as np
import pytest

from experiments.plotting import over_seeds
from experiments.statistics import bootstrap_interval, interquartile_mean, t_interval


def test_interquartile_mean_leaves_out_a_quarter_at_each_end() -> None:
    assert interquartile_mean([-1000, 1, 2, 3, 4, 5, 6, 1000]) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert interquartile_mean([5.0]) == 5.0


def test_bootstrap_interval_is_that_of_resampling_by_hand() -> None:
    values = np.random.default_rng(1).normal(3, 2, 40)
    rng = np.random.default_rng(2)
    means = [interquartile_mean(rng.choice(values, 40)) for _ in range(5000)]
    low, high = np.percentile(means, [2.5, 97.5])
    # The percentiles of 5000 resamples have a standard error of about 0.015 here.
    assert bootstrap_interval([values]) == pytest.approx((low, high), abs=0.06)
    assert bootstrap_interval([values]) == bootstrap_interval([values])


def test_strata_are_resampled_apart() -> None:
    # Constant within each stratum: whatever is drawn, the pooled values are the same.
    low, high = bootstrap_interval([np.full(4, 1.0), np.full(4, 2.0), np.full(8, 5.0)])
    assert low == high == interquartile_mean([1] * 4 + [2] * 4 + [5] * 8)
    # Pooled into one stratum they are not.
    low, high = bootstrap_interval([np.repeat([1.0, 2.0, 5.0], [4, 4, 8])])
    assert low < high


def test_a_single_episode_has_no_interval() -> None:
    assert np.isnan(bootstrap_interval([np.array([3.0])])).all()


def test_t_interval_against_the_table() -> None:
    values = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    # Three values, standard deviation 1: the table's t at 97.5% with two degrees of freedom is 4.303.
    np.testing.assert_allclose(t_interval(values), [4.3027 / np.sqrt(3), 0], atol=1e-3)
    assert t_interval(values[:1]).tolist() == [0, 0]


def test_curves_meet_where_all_of_them_have_data() -> None:
    one = (np.array([0.0, 10, 20, 30, 40]), np.array([0.0, 1, 2, 3, 4]))
    other = (np.array([5.0, 15, 25, 35]), np.array([10.0, 10, 10, 10]))
    points, mean, half = over_seeds([one, other])
    assert points.tolist() == [5, 15, 25, 35]
    np.testing.assert_allclose(mean, [5.25, 5.75, 6.25, 6.75])
    # Two values a distance d apart: the half width is t(97.5%, 1) d / 2.
    np.testing.assert_allclose(half, 12.7062 * np.array([9.5, 8.5, 7.5, 6.5]) / 2, rtol=1e-4)
