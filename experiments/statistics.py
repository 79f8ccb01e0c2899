"""Numbers that sum up returns, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Any

import numpy as np

CONFIDENCE = 0.95


def interquartile_mean(values: Any, axis: int = -1) -> Any:
    """The mean of the middle half: a quarter is cut off at each end (Agarwal et al. 2021)."""
    from scipy import stats

    return stats.trim_mean(values, 0.25, axis=axis)


def bootstrap_interval(strata: Sequence[np.ndarray], *, resamples: int = 5000, seed: int = 0) -> tuple[float, float]:
    """The 95% percentile interval of the interquartile mean, resampled within each stratum.

    strata: the returns that belong together, as those of one run, each [episodes]. One single value: (nan, nan).
    """
    from scipy import stats

    if sum(map(len, strata)) < 2:
        return float("nan"), float("nan")

    def statistic(*parts: np.ndarray, axis: int) -> np.ndarray:
        return interquartile_mean(np.concatenate(parts, axis=axis), axis=axis)

    # scipy resamples nothing in a stratum of one, and refuses it: put twice, it is the same stratum of one.
    ready = [np.repeat(part, 2) if len(part) == 1 else np.asarray(part, float) for part in strata]
    interval = stats.bootstrap(
        ready,
        statistic,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def t_interval(values: np.ndarray) -> np.ndarray:
    """Half the width of the 95% t-interval of the mean over axis 0, [...]; zero for a single row."""
    from scipy import stats

    count = len(values)
    if count < 2:
        return np.zeros(values.shape[1:])
    return stats.t.ppf(0.5 + CONFIDENCE / 2, count - 1) * values.std(0, ddof=1) / np.sqrt(count)


def pass_at_k(solved: np.ndarray, k: int) -> float:
    """Chance that one of k samples solves a problem, averaged over problems (Chen et al. 2021, eq. 1).

    solved: bool [problems, n], n >= k samples each. With c of n solved, 1 - C(n - c, k) / C(n, k) is unbiased.
    """
    n = solved.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples of a problem; there are {n}")
    return float(np.mean([1 - comb(n - int(c), k) / comb(n, k) for c in solved.sum(1)]))
