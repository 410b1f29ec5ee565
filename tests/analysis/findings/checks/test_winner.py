"""Whether the winner is told from the runner-up."""

import math
import shlex

from checked_searches import a_trial, stopped

from analysis.findings.checks import checks
from analysis.findings.checks.winner import check_winner


def test_the_lead_is_measured_in_standard_errors(make):
    results = make([a_trial(0.8), a_trial(0.79), a_trial(0.7), stopped(0.795)])
    check = check_winner(results, n_val=10_000)
    error = math.sqrt((0.8 * 0.2 + 0.79 * 0.21) / 10_000)  # 0.0057: the lead of a point is 1.75 of it
    assert f"standard error is {100 * error:.2f} points (n = 10,000 val images" in check.finding
    assert "Trial 0 leads trial 1 by +1.00 points after 9 epochs each" in check.finding
    assert "1 of the 2 others is within 1.96 standard errors" in check.finding
    assert check.verdict == "look"
    assert check.command == f"python run_search.py --confirm {shlex.quote(str(results.run))}"
    clear = check_winner(results, n_val=20_000)  # 2.48 standard errors
    assert clear.verdict == "fine" and "0 of the 2 others are within" in clear.finding


def test_ties_are_told_apart_by_nothing(make):
    results = make([a_trial(1.0), a_trial(1.0)])
    check = check_winner(results, n_val=100)
    assert check.verdict == "look" and "by +0.00 points" in check.finding


def test_without_the_number_of_images_the_winner_is_not_judged(make):
    assert len(checks(make([a_trial(0.8), a_trial(0.7)]))) == 6
    assert check_winner(make([a_trial(0.8)]), n_val=100).verdict == "unknown"


def test_a_confirmation_says_more(make):
    check = check_winner(make([a_trial(0.8), a_trial(0.79)]), n_val=100, confirmed=True)
    assert check.command is None and "confirmation" in check.finding
