"""What the tuner decides around Ray's run: resources, memory, trials to go on with, what is left at the end."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from damages import DAMAGES
from optuna.trial import TrialState
from ray.tune.search import Searcher

import search.workers.tuner
from search.config import SearchConfig, parse_config
from search.record.endings import counts_towards_num_samples
from search.record.journal import open_study
from search.record.run_directory import locked
from search.record.run_storage import RunStorage
from search.workers.asha import build_scheduler
from search.workers.bridge import StudySearcher
from search.workers.tuner import (
    SHUTDOWN_SECONDS,
    deadline,
    end_of_training,
    queue_first,
    settle,
    unfinished_trials,
)
from training.checkpoint import read_meta


@pytest.fixture
def study(tmp_path: Path, quick: SearchConfig) -> optuna.Study:
    with locked(tmp_path):
        return open_study(tmp_path, quick)


def new_searcher(study: optuna.Study, config: SearchConfig) -> StudySearcher:
    searcher = StudySearcher(study, config, num_classes=10)
    searcher.slots = 100
    return searcher


def test_resume_goes_on_where_the_checkpoints_are(
    tmp_path: Path, study: optuna.Study, quick: SearchConfig, trained_checkpoints: list[Path]
) -> None:
    before = new_searcher(study, quick)
    numbers = [before.suggest(name)["number"] for name in "abc"]  # type: ignore[index, call-overload]
    # a: two epochs in its checkpoint, none in the journal; b: never started; c: damaged newest, intact older checkpoint
    shutil.copytree(trained_checkpoints[1], tmp_path / f"trial_{numbers[0]:04d}_a" / "checkpoint_000001")
    third = tmp_path / f"trial_{numbers[2]:04d}_c"
    shutil.copytree(trained_checkpoints[0], third / "checkpoint_000000")
    shutil.copytree(trained_checkpoints[1], third / "checkpoint_000001")
    DAMAGES["state.pt: noise"](third / "checkpoint_000001")
    before.on_trial_result("c", {"epoch": 1, "val_accuracy": 0.25})

    after = new_searcher(study, quick)
    after.pending = list(unfinished_trials(after, RunStorage(tmp_path)))
    assert [live.number for live in after.pending] == numbers
    starts = [live.start_from for live in after.pending]
    assert starts == [tmp_path / f"trial_{numbers[0]:04d}_a" / "checkpoint_000001", None, third / "checkpoint_000000"]
    curve = {r.epoch: r.val_accuracy for r in read_meta(trained_checkpoints[1])["results"]}
    assert study.trials[numbers[0]].intermediate_values == curve
    assert study.trials[numbers[2]].intermediate_values == {1: 0.25}  # what the study has is not reported again
    assert [after.suggest(name)["number"] for name in "xyz"] == numbers  # type: ignore[index, call-overload]
    fresh = after.suggest("w")
    assert isinstance(fresh, dict) and fresh["number"] not in numbers


def test_a_trial_that_had_trained_its_last_epoch_is_ended_not_run(
    tmp_path: Path, quick: SearchConfig, trained_checkpoints: list[Path]
) -> None:
    two_epochs = quick.model_copy(update={"train": quick.train.model_copy(update={"epochs": 2})})
    with locked(tmp_path):
        study = open_study(tmp_path, two_epochs)
    new_searcher(study, two_epochs).suggest("a")
    shutil.copytree(trained_checkpoints[1], tmp_path / "trial_0000_a" / "checkpoint_000001")
    after = new_searcher(study, two_epochs)
    assert list(unfinished_trials(after, RunStorage(tmp_path))) == []
    last = read_meta(trained_checkpoints[1])["results"][-1]
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.COMPLETE, last.val_accuracy)
    assert after.num_finished == 1


def test_nothing_stays_running_when_the_time_is_over(study: optuna.Study, quick: SearchConfig) -> None:
    searcher = new_searcher(study, quick)
    searcher.suggest("a")
    searcher.on_trial_result("a", {"epoch": 1, "val_accuracy": 0.4})
    settle(searcher)
    assert study.trials[0].state == TrialState.RUNNING  # interrupted by a user: resume goes on
    searcher.closed = True
    settle(searcher)
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.PRUNED, 0.4)
    assert study.trials[0].user_attrs["stopped_by"] == "time_budget"


def test_a_trial_that_waited_when_the_time_was_over_is_ended_without_a_value_and_not_counted(
    study: optuna.Study, quick: SearchConfig
) -> None:
    searcher = new_searcher(study, quick)
    searcher.suggest("a")
    searcher.closed = True
    assert searcher.suggest("b") == Searcher.FINISHED
    searcher.on_trial_complete("a")  # taken out of Ray's queue
    settle(searcher)
    trial = study.trials[0]
    assert (trial.state, trial.value, trial.user_attrs["stopped_by"]) == (TrialState.PRUNED, None, "time_budget")
    assert "before its first epoch" in trial.user_attrs["reason"] and not counts_towards_num_samples(trial)
    assert new_searcher(study, quick).num_finished == 0
    assert study.trials[-1].system_attrs["fixed_params"] == trial.params  # a search that is resumed begins with it


def test_trials_that_wait_are_taken_out_of_the_queue_once_the_time_is_over(
    study: optuna.Study, quick: SearchConfig
) -> None:
    for name in ("asha", "none"):
        scheduler = quick.scheduler.model_copy(update={"name": name})
        searcher = new_searcher(study, quick.model_copy(update={"scheduler": scheduler}))
        statuses = ("PENDING", "RUNNING", "PENDING", "TERMINATED", "PENDING")
        trials = [
            SimpleNamespace(status=status, config={"number": number}, init_local_path=lambda: None)
            for number, status in enumerate(statuses)
        ]
        stopped: list[Any] = []
        controller = SimpleNamespace(get_trials=lambda trials=trials: trials, stop_trial=stopped.append)
        scheduler = build_scheduler(searcher)
        scheduler.mended = True  # this is no controller of Ray's
        assert scheduler.choose_trial_to_run(controller) is trials[0] and not stopped
        searcher.closed = True
        assert scheduler.choose_trial_to_run(controller) is trials[0]  # the defaults train an epoch in any case
        assert stopped == [trials[2], trials[4]]


def test_training_ends_as_long_before_the_budget_as_shutting_down_takes(
    tmp_path: Path, quick: SearchConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = quick.search.model_copy(update={"time_budget": "2m"})
    config = quick.model_copy(update={"search": section})
    assert end_of_training(quick, started=1000.0) is None
    assert end_of_training(config, started=1000.0) == 1120.0 - SHUTDOWN_SECONDS
    monkeypatch.setattr(search.workers.tuner.time, "monotonic", lambda: 1100.0)
    with locked(tmp_path):
        searcher = new_searcher(open_study(tmp_path, config), config)
    for started, closed in ((1099.0, False), (900.0, True)):  # the second: loading the data took all the time
        searcher.ends_at = end_of_training(config, started)
        with deadline(searcher):
            assert searcher.closed == closed


@pytest.mark.parametrize(
    ("attribute", "state"), [(("stopped_by", "asha"), "PRUNED"), (("reason", "ValueError: no"), "FAIL")]
)
def test_a_kill_between_the_reason_and_the_ending_does_not_revive_a_trial(
    tmp_path: Path, study: optuna.Study, quick: SearchConfig, attribute: tuple[str, str], state: str
) -> None:
    before = new_searcher(study, quick)
    before.suggest("a")
    before.on_trial_result("a", {"epoch": 1, "val_accuracy": 0.4})
    before.live["a"].trial.set_user_attr(*attribute)
    after = new_searcher(study, quick)
    assert list(unfinished_trials(after, RunStorage(tmp_path))) == []
    assert study.trials[0].state.name == state and after.num_finished == 1


def test_first_configurations_come_right_after_trial_0_once_and_not_beside_a_warm_start(tmp_path: Path) -> None:
    values = {"space": {"model.depth": {"int": [1, 4]}}, "search": {"first": [{"model.depth": 2}, {"model.depth": 7}]}}
    config = parse_config(values, {})
    with locked(tmp_path):
        for _ in range(2):  # a second time, as a search that is resumed
            study = open_study(tmp_path, config)
            lines = queue_first(study, config, num_classes=10)
    assert [trial.system_attrs["fixed_params"]["model.depth"] for trial in study.trials] == [3, 2]
    assert lines == ["search.first.1 is left out: its model.depth cannot be drawn in this space"]
    (tmp_path / "warm").mkdir()
    with locked(tmp_path / "warm"):
        study = open_study(tmp_path / "warm", config)
        study.enqueue_trial({"model.depth": 4}, user_attrs={"configuration_of": "earlier#3"})
        assert queue_first(study, config, num_classes=10) == [] and len(study.trials) == 2
