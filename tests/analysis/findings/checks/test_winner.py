"""Whether the best trial can be relied on: how many trials were trained, and whether it is told from the runner-up."""

import math
import shlex

import pytest
from checked_searches import a_trial, infeasible, plan_of, stopped
from optuna.trial import TrialState

from analysis.findings.checks import checks
from analysis.findings.checks.winner import check_enough_trials, check_winner


def test_a_best_trial_that_came_late_asks_for_more_trials(make):
    trials = [a_trial(0.7), *(stopped() for _ in range(48)), a_trial(0.8)]
    results = make(trials)
    check = check_enough_trials(results)
    assert check.verdict == "act"
    assert (
        "1 of 2 trials with 9 epochs is within 1 point of the best, trial 49, the 50th of 50 trained" in check.finding
    )
    assert "The last third of the epochs spent brought +10.00 points" in check.finding
    plan = plan_of(check)
    assert plan.resume and plan.run.path == results.run and plan.config.search.num_samples == 100


@pytest.mark.parametrize(
    ("complete", "verdict", "within"),
    [
        ([0.8 - number * 0.0025 for number in range(6)], "fine", "5 of 6 trials"),  # the last is further than a point
        ([0.8, 0.795], "look", "2 of 2 trials"),
    ],
)
def test_a_full_good_region_found_early_is_enough_and_a_thin_one_worth_a_look(make, complete, verdict, within):
    check = check_enough_trials(make([*map(a_trial, complete), *(stopped() for _ in range(50 - len(complete)))]))
    assert check.verdict == verdict and within in check.finding and "+0.00 points" in check.finding
    assert (check.command is None) == (verdict == "fine")
    assert verdict == "fine" or plan_of(check).config.search.num_samples == 100


def test_where_time_ended_the_search_more_time_is_advised(make):
    trials = [a_trial(0.8), *(stopped() for _ in range(9))]
    check = check_enough_trials(make(trials, {"search.num_samples": None, "search.time_budget": "40m"}))
    search = plan_of(check).config.search
    assert (search.num_samples, search.time_budget) == (None, "40m")
    assert "--time-budget 40m" in str(check.command)


def test_where_trials_are_left_the_search_goes_on_as_it_is(make):
    results = make([a_trial(0.8), *(stopped() for _ in range(9)), infeasible()], {"search.time_budget": "40m"})
    check = check_enough_trials(results)
    assert "10 of 50 trials" in check.advice
    assert check.command == f"python run_search.py --resume {shlex.quote(str(results.run))}"
    assert plan_of(check).resume


def test_a_search_that_is_going_is_not_judged(make):
    trials = [a_trial(0.8), *(stopped() for _ in range(9)), a_trial([0.1], TrialState.RUNNING)]
    check = check_enough_trials(make(trials))
    assert check.verdict == "unknown" and "1 trial is RUNNING" in check.finding
    assert plan_of(check).resume


def test_trials_taken_over_from_an_earlier_search_do_not_count(make):
    trials = [a_trial(0.8), *(a_trial(0.8, source="earlier#1") for _ in range(9)), *(stopped() for _ in range(9))]
    check = check_enough_trials(make(trials, sources=True))
    assert "1 of 1 trial with 9 epochs is within" in check.finding and "the 1st of 10 trained" in check.finding


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
    tie = check_winner(make([a_trial(1.0), a_trial(1.0)]), n_val=100)
    assert tie.verdict == "look" and "by +0.00 points" in tie.finding


def test_without_the_number_of_images_the_winner_is_not_judged(make):
    assert len(checks(make([a_trial(0.8), a_trial(0.7)]))) == 6
    assert check_winner(make([a_trial(0.8)]), n_val=100).verdict == "unknown"


def test_a_confirmation_says_more(make):
    check = check_winner(make([a_trial(0.8), a_trial(0.79)]), n_val=100, confirmed=True)
    assert check.command is None and "confirmation" in check.finding
