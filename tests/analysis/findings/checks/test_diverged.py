"""Trials that diverged or failed, and the learning rates above which they do."""

from checked_searches import a_trial, infeasible, plan_of, space_entry, stopped
from optuna.trial import FrozenTrial, TrialState

from analysis.findings.checks.diverged import check_diverged


def diverged(rate: float) -> FrozenTrial:
    return stopped(0.1, "diverged", optimizer__learning_rate=rate)


def test_trials_that_diverge_at_high_learning_rates_ask_for_a_narrower_range(make):
    good = [a_trial(0.8, optimizer__learning_rate=rate) for rate in (0.01, 0.05, 0.1, 0.001)]
    results = make([*good, diverged(0.4), diverged(0.5), diverged(0.002)])
    check = check_diverged(results)
    # J = 2/3 - 0 at 0.4; 2/3 at 0.5 less one: 1/3; all three from 0.002 on, but so are three of the four others: 1/4.
    assert "3 of 7 trials diverged and 0 failed (43 %)" in check.finding
    assert "At learning rates of 0.4 and more lie 2 of the 3 that diverged and 0 of the 4 others" in check.finding
    assert check.verdict == "act"
    assert space_entry(plan_of(check), "optimizer.learning_rate") == (
        0.0005,
        0.2,
    )  # half-way from 0.1 to 0.4 on a log scale


def test_a_narrower_range_never_leaves_out_the_best_trial_or_the_defaults(make):
    good = [a_trial(0.7, optimizer__learning_rate=rate) for rate in (0.05, 0.06, 0.07)]
    high = [a_trial(0.8, optimizer__learning_rate=0.45), *good, *map(diverged, (0.2, 0.4, 0.41))]
    check = check_diverged(make(high))
    assert "0.2 and more lie 3 of the 3 that diverged and 1 of the 4 others" in check.finding
    assert check.command is None
    low = [a_trial(0.8, optimizer__learning_rate=0.001), *map(diverged, (0.02, 0.03, 0.04))]  # the defaults have 0.05
    check = check_diverged(make(low))
    assert "0.02 and more lie 3 of the 3" in check.finding
    assert check.command is None


def test_divergence_without_a_pattern_or_a_drawn_rate_is_only_said(make):
    mixed = make([a_trial(0.8, optimizer__learning_rate=0.4), diverged(0.01), stopped()])
    check = check_diverged(mixed)
    assert check.command is None and "No learning rate separates" in check.finding
    fixed = make([a_trial(0.8, optimizer__learning_rate=None), stopped(0.1, "diverged", optimizer__learning_rate=None)])
    assert "cannot be told" in check_diverged(fixed).finding


def test_failed_trials_are_counted_with_their_commonest_reason(make):
    memory = "RuntimeError: out of memory: 512 MiB"
    reasons = [f"Traceback\n  ...\n{memory}", memory, "RuntimeError: out of memory: 9 MiB", None]
    failed = [a_trial([0.1], TrialState.FAIL, reason=reason) for reason in reasons]
    check = check_diverged(make([a_trial(0.8), *(stopped() for _ in range(25)), *failed]))
    assert check.verdict == "look"
    assert "0 of 30 trials diverged and 4 failed (13 %)" in check.finding
    assert "2 of the 4 that failed like this: RuntimeError: out of memory: 512 MiB." in check.finding
    assert check_diverged(make([a_trial([0.1], TrialState.FAIL)])).verdict == "act"


def test_a_search_without_either_is_fine(make):
    check = check_diverged(make([a_trial(0.8), stopped(), infeasible()]))
    assert check.verdict == "fine" and "0 of 2 trials" in check.finding
