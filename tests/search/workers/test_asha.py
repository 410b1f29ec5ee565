"""Ray's ASHA, told of our trials: rungs by trial number, refilled from the study, and the rule that we say it has."""

import random
from pathlib import Path
from types import SimpleNamespace

import optuna
from hypothesis import given
from hypothesis import strategies as st
from ray.tune.schedulers import TrialScheduler
from studies import make_config, make_searcher, result

from search.record.rungs import Rungs
from search.workers.asha import NumberedASHA
from search.workers.bridge import StudySearcher

STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE


def feed(scheduler: NumberedASHA, number: int, values: list[float], ray_id: str = "x", start: int = 1) -> str:
    trial = SimpleNamespace(config={"number": number}, trial_id=ray_id)
    scheduler.on_trial_add(None, trial)
    decision = CONTINUE
    for epoch, value in enumerate(values, start=start):
        decision = scheduler.on_trial_result(None, trial, {"epoch": epoch, "val_accuracy": value})
        if decision == STOP:
            break
    return decision


def rungs(scheduler: NumberedASHA) -> list[tuple[float, dict[str, float]]]:
    return [(milestone, dict(recorded)) for milestone, recorded in scheduler._brackets[0]._rungs]


def test_rungs_follow_from_the_epochs() -> None:
    assert [milestone for milestone, _ in rungs(NumberedASHA(make_config()))] == [9, 3, 1]


def test_trial_0_is_recorded_and_never_stopped_before_its_last_epoch() -> None:
    scheduler = NumberedASHA(make_config())
    for number in range(1, 5):
        feed(scheduler, number, [0.9] * 9, ray_id=str(number))
    assert feed(scheduler, 5, [0.1] * 8) == STOP
    assert feed(scheduler, 0, [0.1] * 8) == CONTINUE
    assert dict(rungs(scheduler))[1]["0"] == 0.1
    assert feed(scheduler, 0, [0.1], start=9) == STOP


def test_refilled_rungs_are_those_of_the_search_that_was_killed(tmp_path: Path) -> None:
    config = make_config(40)
    searcher, scheduler = make_searcher(tmp_path, config), NumberedASHA(config)
    generator = random.Random(3)
    for index in range(40):
        ray_id = f"ray{index}"
        suggestion = searcher.suggest(ray_id)
        trial = SimpleNamespace(config=suggestion, trial_id=ray_id)
        scheduler.on_trial_add(None, trial)
        for epoch in range(1, 10):
            report = result(epoch, generator.random())
            if index % 7 == 6 and epoch == 5:
                break  # in flight when the driver dies
            if scheduler.on_trial_result(None, trial, report) == STOP:
                searcher.on_trial_complete(ray_id, report)
                break
            searcher.on_trial_result(ray_id, report)
    refilled = NumberedASHA(config)
    refilled.refill(searcher.study)
    assert len(rungs(scheduler)[1][1]) > 5  # something reached the second rung
    for (milestone, recorded), (again, recorded_again) in zip(rungs(scheduler), rungs(refilled), strict=True):
        assert milestone == again
        if milestone < config.train.epochs:  # nobody is judged in the last rung
            assert recorded == recorded_again


def test_a_continued_trial_is_in_each_rung_once_and_not_judged_between_rungs() -> None:
    scheduler = NumberedASHA(make_config())
    for number in range(1, 6):
        feed(scheduler, number, [0.5, 0.6, 0.7], ray_id=f"ray{number}")
    before = rungs(scheduler)
    # Number 3 goes on at epoch 4 under a new id of Ray's, far below every cutoff: no rung lies there.
    assert feed(scheduler, 3, [0.01, 0.01], ray_id="another", start=4) == CONTINUE
    assert rungs(scheduler) == before


def test_foreign_trials_fill_no_rung(tmp_path: Path) -> None:
    config = make_config()
    searcher = make_searcher(tmp_path, config)
    searcher.study.add_trial(
        optuna.trial.create_trial(value=0.9, intermediate_values={1: 0.9}, user_attrs={"source": "other#3"})
    )
    scheduler = NumberedASHA(config)
    scheduler.refill(searcher.study)
    assert all(not recorded for _, recorded in rungs(scheduler))
    assert StudySearcher(searcher.study, config, 10).num_finished == 0


@given(
    epochs=st.integers(2, 30),
    grace=st.integers(1, 5),
    factor=st.floats(1.2, 5.0),
    curves=st.lists(st.lists(st.floats(0, 1), min_size=30, max_size=30), min_size=1, max_size=12),
)
def test_our_rule_is_that_of_ray(epochs: int, grace: int, factor: float, curves: list[list[float]]) -> None:
    grace = min(grace, epochs)
    config = make_config(train={"epochs": epochs}, scheduler={"grace_epochs": grace, "reduction_factor": factor})
    scheduler, ours = NumberedASHA(config), Rungs(grace, factor, epochs)
    for number, curve in enumerate(curves, start=1):  # trial 0 is never stopped
        trial = SimpleNamespace(config={"number": number})
        scheduler.on_trial_add(None, trial)
        for epoch, value in enumerate(curve[: epochs - 1], start=1):
            theirs = scheduler.on_trial_result(None, trial, {"epoch": epoch, "val_accuracy": value})
            assert ours.stops(number, epoch, value) == (theirs == STOP)
            if theirs == STOP:
                break
