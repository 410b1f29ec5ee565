"""Whether early stopping was too hard."""

import shlex

import pytest
from checked_searches import a_trial, stopped
from optuna.trial import FrozenTrial
from scipy import stats

from analysis.findings.checks.early_stopping import check_early_stopping


def crossing(first: list[float], last: list[float]) -> list[FrozenTrial]:
    return [a_trial([start, *[0.3] * 7, end]) for start, end in zip(first, last, strict=True)]


def test_curves_that_cross_say_that_stopping_was_hard(make):
    first, last = [0.5, 0.4, 0.3, 0.2, 0.1, 0.35], [0.6, 0.7, 0.72, 0.74, 0.8, 0.75]
    results = make([*crossing(first, last), *(stopped(0.15) for _ in range(14))])
    check = check_early_stopping(results)
    assert check.verdict == "look"
    assert "14 of 20 trials (70 %) were stopped at the first rung, after 1 epoch; 6 trained all epochs" in check.finding
    correlation = stats.spearmanr(first, last).statistic
    assert "Among 6 trials trained all epochs, the rank correlation" in check.finding
    assert f"is {correlation:.2f} (Spearman" in check.finding
    assert "biased" in check.finding
    assert "The best trial was 20th of 20 at the first rung" in check.finding
    assert check.command == f"python run_search.py --audit {shlex.quote(str(results.run))} --trials 14"


def test_curves_that_keep_their_order_say_that_it_was_not(make):
    first = [0.1, 0.2, 0.3, 0.4, 0.5]
    check = check_early_stopping(make([*crossing(first, first), *(stopped(0.05) for _ in range(30))]))
    assert check.verdict == "fine" and "is 1.00 (Spearman" in check.finding and "was 1st of 35" in check.finding
    assert str(check.command).endswith("--trials 20")


def test_a_winner_from_far_down_the_first_rung_is_a_sign_though_ranks_correlate(make):
    first = [0.1, 0.12, 0.13, 0.14, 0.15]
    check = check_early_stopping(make([*crossing(first, first), *(stopped(0.3) for _ in range(10))]))
    assert check.verdict == "look" and "was 11th of 15" in check.finding


def test_few_or_equal_complete_trials_say_nothing_of_stopping(make):
    for trials in (crossing([0.1] * 4, [0.2, 0.3, 0.4, 0.5]), crossing([0.1] * 6, [0.3] * 6)):
        check = check_early_stopping(make([*trials, stopped()]))
        assert check.verdict == "unknown" and "--audit" in str(check.command)


def test_an_audit_says_more(make):
    check = check_early_stopping(make([a_trial(0.8), stopped()]), audited=True)
    assert check.verdict == "look" and check.command is None and "audit" in check.finding


@pytest.mark.parametrize("changes", [{"scheduler.name": "none"}, {"scheduler.grace_epochs": 9}])
def test_without_rungs_nothing_was_stopped(make, changes):
    check = check_early_stopping(make([a_trial(0.8)], changes))
    assert check.verdict == "fine" and check.command is None
