"""Whether trials were trained as they should: epochs, early stopping, trials that diverged or failed."""

import shlex

import pytest
from checked_searches import a_trial, infeasible, plan_of, space_entry, stopped
from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from analysis.findings.checks.training import check_diverged, check_early_stopping, check_epochs
from training.loop import EpochResult


def curve(val_loss: list[float], train_loss: list[float], val: list[float], train: float) -> dict[int, EpochResult]:
    rows = zip(val_loss, train_loss, val, strict=True)
    return {
        epoch: EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train,
            val_loss=val_loss,
            val_accuracy=accuracy,
            learning_rate=0.1,
            epoch_seconds=1.0,
            finished_at=f"2030-01-01T00:00:{epoch:02d}+00:00",
            images_per_second=1.0,
        )
        for epoch, (val_loss, train_loss, accuracy) in enumerate(rows, start=1)
    }


FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
LEVELLED = [0.3, 0.5, 0.6, 0.7, 0.75, 0.78, 0.8, 0.801, 0.802]
STILL_RISING = [0.3, 0.5, 0.6, 0.65, 0.7, 0.72, 0.74, 0.76, 0.78]
OVERFITTING = [1.0, 0.8, 0.6, 0.5, 0.5, 0.51, 0.52, 0.53, 0.54]
FALLEN = [0.3, 0.5, 0.6, 0.7, 0.81, 0.8, 0.79, 0.79, 0.78]


@pytest.mark.parametrize(
    ("val_loss", "val", "train", "verdict", "says"),
    [
        (FALLING, STILL_RISING, 0.80, "act", "It was still improving and has not fitted its training images"),
        (FALLING, STILL_RISING, 0.95, "look", "is then +17.00 points against val accuracy"),
        (FALLING, LEVELLED, 0.80, "fine", "gained +0.20 points"),
        (OVERFITTING, LEVELLED, 0.99, "look", "Val loss rose from 0.5 in epoch 4 to 0.54"),
        (OVERFITTING, FALLEN, 0.99, "act", "Val accuracy ended −3.00 points from its highest"),
        ([*OVERFITTING[:8], 0.524], LEVELLED, 0.99, "fine", "val loss has not risen"),  # by less than five per cent
        ([0.0] * 8 + [0.1], LEVELLED, 1.0, "look", "rose from 0 in epoch 1 to 0.1"),
    ],
)
def test_the_best_curve_tells_whether_training_was_long_enough(make, val_loss, val, train, verdict, says):
    results = make([a_trial(val)], curves={0: curve(val_loss, FALLING, val, train)})
    check = check_epochs(results)
    assert check.verdict == verdict
    assert says in check.finding


def test_twice_the_epochs_are_a_new_search(make):
    results = make([a_trial(STILL_RISING)], curves={0: curve(FALLING, FALLING, STILL_RISING, 0.8)})
    plan = plan_of(check_epochs(results))
    assert not plan.resume
    assert plan.config.train.epochs == 18
    assert plan.config.search.warm_start == (str(results.run),)


def test_overfitting_asks_for_the_regularisers_that_the_space_lacks(make):
    curves = {0: curve(OVERFITTING, FALLING, FALLEN, 0.99)}
    with_two = make([a_trial(FALLEN)], curves=curves)
    plan = plan_of(check_epochs(with_two))
    assert space_entry(plan, "data.cutout") == (0, 8)
    bare = {"space": {"optimizer.learning_rate": {"float": [0.01, 0.1], "log": True}}, "model.dropout": 0.1}
    plan = plan_of(check_epochs(make([a_trial(FALLEN)], bare, curves)))
    assert space_entry(plan, "model.dropout") == (0.0, 0.5)
    assert space_entry(plan, "train.label_smoothing") == (0.0, 0.2)
    everything = make([a_trial(FALLEN)], {"space.data.cutout": {"choice": [0, 8]}}, curves)
    check = check_epochs(everything)
    assert check.command is None and "fewer epochs" in check.advice


def test_curves_that_are_not_recorded_say_nothing(make):
    check = check_epochs(make([a_trial(0.8)]))  # the journal alone: no losses
    assert check.verdict == "unknown" and "losses are not all recorded" in check.finding
    assert check_epochs(make([a_trial([0.1, 0.2])], {"train.epochs": 2})).verdict == "unknown"


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


def test_where_the_learning_rate_tells_nothing_muons_other_one_is_looked_at(make):
    changes = {
        "space.optimizer.name": {"choice": ["sgd", "rmsprop", "muon"]},
        "space.optimizer.other_learning_rate": {"float": [0.01, 10], "log": True, "when": {"optimizer.name": "muon"}},
    }

    def muon(other: float) -> dict[str, float | str | None]:
        return {"optimizer__name": "muon", "optimizer__momentum": None, "optimizer__other_learning_rate": other}

    bad = [stopped(0.1, "diverged", optimizer__learning_rate=0.01, **muon(rate)) for rate in (4.0, 9.0)]
    good = [a_trial(0.8, optimizer__learning_rate=0.2, **muon(rate)) for rate in (0.02, 0.04)]
    sgd = [a_trial(0.7, optimizer__learning_rate=0.3) for _ in range(3)]
    check = check_diverged(make([*bad, *good, *sgd], changes))
    assert "At muon's other learning rates of 4 and more lie 2 of the 2 that diverged and 0 of the 2" in check.finding
    entry = plan_of(check).config.space["optimizer.other_learning_rate"]
    assert entry.real == (0.01, 0.4) and entry.when == {"optimizer.name": "muon"}


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
