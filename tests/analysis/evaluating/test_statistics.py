"""Intervals and tests: by hand, by their definitions, and what is said of one value or of equal ones."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from analysis.evaluating.statistics import (
    paired_gain,
    spearman,
    t_interval,
    weighted_rank_correlation,
    welch,
    wilson_interval,
)


@given(st.integers(1, 20_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_bounds_solve_the_score_equation(case):
    correct, n = case
    low, high = wilson_interval(correct, n)
    assert 0 <= low <= correct / n <= high <= 1
    for bound in (low, high):  # |p - bound| = z * sqrt(bound (1 - bound) / n), Wilson's definition
        if 0 < bound < 1:
            assert abs(correct / n - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / n), rel=1e-4)


def test_paired_gain_counts_only_where_they_differ():
    ours, theirs = np.array([True] * 90 + [False] * 10), np.array([True] * 80 + [False] * 20)
    gain, low, high = paired_gain(ours, theirs)
    half = 1.959964 * math.sqrt(10 / 100 - 0.1**2) / math.sqrt(100)
    assert (gain, low, high) == pytest.approx((0.1, 0.1 - half, 0.1 + half))
    assert paired_gain(ours, ours) == (0, 0, 0)


def test_t_interval_by_hand():
    # mean 0.8, standard deviation 0.01, t(0.975, 2) = 4.302653: half width 0.01 * 4.302653 / sqrt(3)
    assert t_interval([0.79, 0.80, 0.81]) == pytest.approx((0.8, 0.8 - 0.0248413, 0.8 + 0.0248413), abs=1e-6)


def test_one_value_and_equal_ones_have_no_t_interval():
    assert t_interval([0.8]) == pytest.approx((0.8, math.nan, math.nan), nan_ok=True)
    assert all(map(math.isnan, t_interval([])))
    mean, low, high = t_interval([0.1] * 3)  # whose mean is off by rounding
    assert low == mean == high == pytest.approx(0.1)


def test_welch_by_hand():
    # Variances 1e-4 and 4e-4 of three values each: error sqrt(5e-4 / 3), 2.941176 degrees of freedom, t = 2.323790.
    found = welch([0.79, 0.80, 0.81], [0.75, 0.77, 0.79])
    assert found.difference == pytest.approx(0.03)
    assert (found.low, found.high) == pytest.approx((0.03 - 0.0415540, 0.03 + 0.0415540), abs=1e-6)
    assert found.p == pytest.approx(0.1044789, abs=1e-6)


def test_welch_of_one_value_and_of_equal_ones():
    found = welch([0.82], [0.80, 0.81])
    assert found.difference == pytest.approx(0.015)
    assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.p)
    for other, p in ((0.8, 1.0), (0.7, 0.0)):
        found = welch([0.8, 0.8], [other, other])
        assert found.low == found.difference == found.high == pytest.approx(0.8 - other)
        assert found.p == p and not found.has_spread
    assert welch([0.8, 0.8], [0.7, 0.71]).has_spread  # and no warning


def test_rank_correlation_of_two_series_by_their_places():
    one, other = pd.Series([1.0, 2.0, 3.0], index=[7, 8, 9]), pd.Series([9.0, 4.0, 1.0])
    assert spearman(one, other) == pytest.approx(-1)
    assert spearman(one, pd.Series([1.0, 1.0, 1.0])) is None


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 4)), min_size=3, max_size=10).filter(
        lambda rows: len({x for x, _, _ in rows}) > 1 and len({y for _, y, _ in rows}) > 1
    )
)
def test_weighted_rank_correlation_is_scipys_of_repeated_values(rows: list[tuple[int, int, int]]):
    x, y, weights = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    times = weights.astype(int)
    expected = stats.spearmanr(np.repeat(x, times), np.repeat(y, times)).statistic
    found = weighted_rank_correlation(x, y, np.stack([weights, 2.5 * weights]))
    assert found == pytest.approx([expected, expected], abs=1e-9)


def test_rank_correlation_of_equal_values_is_nan_without_a_warning():
    assert math.isnan(weighted_rank_correlation(np.array([0.1] * 5), np.arange(5.0), np.ones(5)))
