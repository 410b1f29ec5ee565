"""Intervals and tests of few numbers: what scipy.stats says, and what is said of one value or of equal ones. Pure."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan, sqrt

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

Z_95 = float(stats.norm.ppf(0.975))  # of a 95 % interval of normal values, in standard errors


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of an accuracy in [0, 1] (Wilson, 1927). n >= 1 must hold."""
    interval = stats.binomtest(int(correct), int(n)).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def paired_gain(correct: NDArray[np.bool_], baseline: NDArray[np.bool_]) -> tuple[float, float, float]:
    """(difference of two accuracies, lower, upper): 95 % Wald interval; both are (N,), on the same images."""
    difference = correct.astype(float) - baseline.astype(float)
    half = Z_95 * float(difference.std()) / sqrt(len(difference))
    gain = float(difference.mean())
    return gain, max(-1.0, gain - half), min(1.0, gain + half)


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): 95 % interval of the mean of independent normal values; NaN bounds for one, all NaN for none.

    Equal values give an interval without width.
    """
    if len(values) == 0:
        return nan, nan, nan
    mean = float(np.mean(values))
    if len(values) == 1:
        return mean, nan, nan
    if _are_equal(values):
        return mean, mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, mean, stats.sem(values))
    return mean, float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """Mean of one sample minus that of another, with its 95 % interval; NaN if a sample has one value."""

    difference: float
    low: float
    high: float
    p: float  # two-sided

    @property
    def has_spread(self) -> bool:
        """Whether the values differ within a sample; without that nothing can be tested."""
        return self.high > self.low


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Welch's t test of two independent samples of at least one value each.

    If no value differs from the others of its sample, the interval has no width and p is 1 or, for unequal means, 0.
    """
    difference = float(np.mean(a)) - float(np.mean(b))
    if min(len(a), len(b)) < 2:
        return Difference(difference, nan, nan, nan)
    if _are_equal(a) and _are_equal(b):
        return Difference(difference, difference, difference, 1.0 if difference == 0 else 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of equal values in one of the samples, which are no fault
        found = stats.ttest_ind(a, b, equal_var=False)
        interval = found.confidence_interval(0.95)
    return Difference(difference, float(interval.low), float(interval.high), float(found.pvalue))


def _are_equal(values: Sequence[float]) -> bool:
    return max(values) == min(values)


def spearman(one: pd.Series, other: pd.Series) -> float | None:
    """Rank correlation; None if one of the two is constant."""
    if one.nunique() < 2 or other.nunique() < 2:
        return None
    return float(stats.spearmanr(one, other).statistic)


def weighted_rank_correlation(
    x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spearman's rho of x and y, both (n,), for each row of weights (..., n); NaN if x or y does not vary.

    With whole weights it is the rho of a sample in which each value stands so many times; ties have their mean rank.
    """
    total = weights.sum(-1, keepdims=True)
    centred = []
    for values in (x, y):
        below = (values[:, None] < values) + 0.5 * (values[:, None] == values)  # [i, j]: does i stand below j
        ranks = weights @ below
        centred.append(ranks - (weights * ranks).sum(-1, keepdims=True) / total)
    a, b = centred
    spread = np.sqrt((weights * a * a).sum(-1) * (weights * b * b).sum(-1))
    scale = total[..., 0] ** 3  # of the spread: below rounding of it nothing varies
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-12 * scale, np.clip((weights * a * b).sum(-1) / spread, -1, 1), nan)
