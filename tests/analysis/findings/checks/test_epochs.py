"""Whether the epochs were enough."""

import pytest
from checked_searches import a_trial, plan_of, space_entry

from analysis.findings.checks.epochs import check_epochs
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
        (FALLING, STILL_RISING, 0.80, "act", "gained +4.00 points"),
        (FALLING, STILL_RISING, 0.80, "act", "has not fitted its training images"),
        (FALLING, STILL_RISING, 0.95, "look", "is then +17.00 points against val accuracy"),
        (FALLING, LEVELLED, 0.80, "fine", "gained +0.20 points"),
        (OVERFITTING, LEVELLED, 0.99, "look", "Val loss rose from 0.5 in epoch 4 to 0.54"),
        (OVERFITTING, FALLEN, 0.99, "act", "Val accuracy ended −3.00 points from its highest"),
    ],
)
def test_the_best_curve_tells_whether_training_was_long_enough(make, val_loss, val, train, verdict, says):
    results = make([a_trial(val)], curves={0: curve(val_loss, FALLING, val, train)})
    check = check_epochs(results)
    assert check.verdict == verdict
    assert says in check.finding


def test_a_rise_within_five_per_cent_is_no_overfitting(make):
    val_loss = [*OVERFITTING[:4], 0.5, 0.5, 0.5, 0.5, 0.524]
    results = make([a_trial(LEVELLED)], curves={0: curve(val_loss, FALLING, LEVELLED, 0.99)})
    assert check_epochs(results).verdict == "fine"


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


def test_a_val_loss_of_zero_is_survived(make):
    results = make([a_trial(LEVELLED)], curves={0: curve([0.0] * 8 + [0.1], FALLING, LEVELLED, 1.0)})
    assert "rose from 0 in epoch 1 to 0.1" in check_epochs(results).finding
