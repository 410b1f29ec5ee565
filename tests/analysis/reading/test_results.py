"""Reading run directories: whole, going, broken, moved."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from optuna.trial import TrialState

from analysis import AnalysisError, load_search, newest_run
from training import load_model

TRIALS = [
    "number", "state", "stopped_by", "reason", "val_accuracy", "epochs", "seconds", "started_at", "finished_at",
    "num_params", "multiply_adds", "model.depth", "model.kernel_size.0", "model.kernel_size.1", "optimizer.name",
    "optimizer.momentum",
]  # fmt: skip
EPOCHS = [
    "number", "epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "epoch_seconds",
    "finished_at", "images_per_second",
]  # fmt: skip


def test_tables_have_the_columns_of_the_design_and_what_was_recorded(search_run, trained):
    results = load_search(search_run.path)
    assert list(results.trials.columns) == TRIALS
    assert list(results.epochs.columns) == EPOCHS
    trials = results.trials.set_index("number")
    assert trials["state"].to_dict() == {0: "COMPLETE", 1: "PRUNED", 2: "COMPLETE", 3: "PRUNED"}
    assert trials["stopped_by"].to_dict() == {0: None, 1: "infeasible", 2: None, 3: "asha"}
    assert trials["epochs"].to_dict() == {0: 2, 1: 0, 2: 2, 3: 1}
    assert trials.loc[0, "val_accuracy"] == search_run.recorded(trained["defaults"][-1])[-1]
    assert trials.loc[3, "val_accuracy"] == 0.05
    assert np.isnan(trials.loc[1, "val_accuracy"]) and trials.loc[1, "reason"] == "impossible network"
    assert (trials.loc[0, "num_params"], trials.loc[0, "multiply_adds"]) == (100, 2000)
    by_epoch = results.epochs[results.epochs["number"] == 2]
    assert by_epoch["val_accuracy"].tolist() == search_run.recorded(trained["deeper"][-1])
    assert by_epoch["epoch"].tolist() == [1, 2]
    assert trials.loc[2, "seconds"] == pytest.approx(by_epoch["epoch_seconds"].sum())
    assert trials["optimizer.momentum"].notna().to_dict() == {0: True, 1: False, 2: False, 3: True}  # inactive: missing
    assert trials["model.kernel_size.1"].notna().to_dict() == {0: False, 1: True, 2: True, 3: False}
    best, reference = results.best_trial, search_run.study.best_trial
    assert (best.number, best.val_accuracy, best.params) == (reference.number, reference.value, reference.params)
    assert results.config_of(2).model.kernel_size == (3, 1) and results.config.data.split_seed == 3  # the search's
    assert not best.provisional and not results.warnings


def test_times_are_utc_whatever_the_time_zone_of_the_search(search_run):
    """A journal holds local times: shifted by a zone's offset it must read the same."""
    before = load_search(search_run.path).trials
    assert abs(before["started_at"].max() - pd.Timestamp(datetime.now(UTC))) < pd.Timedelta(minutes=5)
    journal = search_run.path / "study.journal"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines:
        for key in ("datetime_start", "datetime_complete"):
            if line.get(key):
                line[key] = (datetime.fromisoformat(line[key]) + timedelta(hours=5, minutes=30)).isoformat()
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pd.testing.assert_frame_equal(load_search(search_run.path).trials, before)


def test_infeasible_and_foreign_trials_never_win(make_run):
    run = make_run()
    run.trial([0.3, 0.4])
    run.trial([0.5, 0.9], constraint=1.0)
    run.trial([0.5, 0.8], source="earlier#3")
    results = load_search(run.path)
    assert results.best_trial is not None and results.best_trial.number == 0
    assert results.trials["number"].tolist() == [0, 1]  # a gap is kept
    assert load_search(run.path, sources=True).trials["source"].tolist() == [None, None, "earlier#3"]


def test_without_complete_trials_the_furthest_pruned_one_stands_in(make_run, trained):
    run = make_run()
    run.trial([0.9], TrialState.PRUNED, stopped_by="asha")
    run.trial([0.2, 0.3], TrialState.PRUNED, stopped_by="asha")
    run.trial([0.2, 0.6], TrialState.PRUNED, stopped_by="time_budget")
    run.trial([0.2, 0.9], TrialState.PRUNED, stopped_by="diverged")
    run.trial([0.2, 0.8], TrialState.PRUNED, stopped_by="asha")  # no checkpoint
    for number in range(4):
        run.checkpoint(number, trained["defaults"][-1])
    results = load_search(run.path)
    assert results.best_trial is not None
    assert (results.best_trial.number, results.best_trial.provisional) == (2, True)
    assert "provisional" in " ".join(results.warnings)


def test_two_directories_of_one_number_are_joined_and_the_later_word_counts(make_run, trained):
    run = make_run()
    number = run.trial(run.recorded(trained["defaults"][-1]))
    first = run.checkpoint(number, trained["defaults"][0], 7, "zzzzz")
    second = run.checkpoint(number, trained["defaults"][1], 0, "aaaaa")

    def older(meta):
        meta["results"][0].update(train_loss=99.0, finished_at="2020-01-01T00:00:00.000+00:00")

    run.edit_meta(first, older)
    results = load_search(run.path)
    assert results.epochs["epoch"].tolist() == [1, 2]
    assert results.epochs["train_loss"].max() < 99
    assert results.checkpoint_of(number) == second

    def newer(meta):
        meta["results"][0].update(train_loss=77.0, finished_at="2090-01-01T00:00:00.000+00:00")

    run.edit_meta(first, newer)
    assert load_search(run.path).epochs["train_loss"].tolist()[0] == 77


def test_a_truncated_checkpoint_is_passed_over_and_said(make_run, trained):
    run = make_run()
    number = run.trial(run.recorded(trained["defaults"][-1]))
    intact = run.checkpoint(number, trained["defaults"][0], 0)
    torn = run.checkpoint(number, trained["defaults"][1], 1) / "weights.pt"
    os.truncate(torn, torn.stat().st_size // 2)
    results = load_search(run.path)
    assert results.checkpoint_of(number) == intact
    assert "truncated" in " ".join(results.warnings)
    load_model(results.checkpoint_of(number))


@pytest.mark.parametrize("damage", ["gone", "no meta.json", "meta.json is not JSON"])
def test_a_missing_checkpoint_leaves_the_numbers(search_run, damage):
    for place in search_run.path.glob("trial_*/checkpoint_*"):
        if damage == "gone":
            shutil.rmtree(place)
        elif damage == "no meta.json":
            (place / "meta.json").unlink()
        else:
            (place / "meta.json").write_text("{")
    results = load_search(search_run.path)
    assert results.best_trial is not None and results.checkpoint_of(results.best_trial.number) is None
    assert "cannot be evaluated" in " ".join(results.warnings)
    assert results.epochs["val_accuracy"].notna().all() and len(results.epochs) == 5  # from the journal


def test_a_running_search_says_so(search_run):
    search_run.trial([0.1], state=None)
    results = load_search(search_run.path)
    assert results.trials["state"].tolist()[-1] == "RUNNING"
    assert results.trials["val_accuracy"].tolist()[-1] == 0.1
    assert "1 trial is RUNNING" in " ".join(results.warnings)


def test_a_torn_last_line_of_the_journal_is_tolerated(search_run):
    before = load_search(search_run.path).trials
    with (search_run.path / "study.journal").open("ab") as stream:
        stream.write(b'{"op_code": 8, "worker')
    pd.testing.assert_frame_equal(load_search(search_run.path).trials, before)


def test_empty_tables_keep_columns_and_types(search_run, make_run):
    full, empty = load_search(search_run.path), load_search(make_run("empty").path)
    fixed = TRIALS[:11]
    assert list(empty.trials.columns)[:11] == fixed
    assert empty.trials[fixed].dtypes.to_dict() == full.trials[fixed].dtypes.to_dict()
    assert empty.epochs.dtypes.to_dict() == full.epochs.dtypes.to_dict()
    assert empty.best_trial is None and "no trial has begun" in " ".join(empty.warnings)


def test_a_moved_directory_reads_the_same(search_run, tmp_path):
    before = load_search(search_run.path)
    moved = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(search_run.path, moved)
    shutil.rmtree(search_run.path)
    after = load_search(moved)
    pd.testing.assert_frame_equal(after.trials, before.trials)
    assert after.checkpoint_of(0) == moved / "trial_0000_a1b2c" / "checkpoint_000001"


def test_strangers_in_the_directory_are_ignored(search_run):
    before = load_search(search_run.path)
    for name in ("tuner.pkl", "experiment_state-2030.json", "trial_0001_x", "trial_odd_name/checkpoint_000000/x"):
        path = search_run.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x80\x04not a pickle")
    after = load_search(search_run.path)
    pd.testing.assert_frame_equal(after.trials, before.trials)
    assert after.warnings == before.warnings


@pytest.mark.parametrize("content", ['[1, "x"]', None])
def test_an_odd_environment_is_said_and_tolerated(search_run, content):
    path = search_run.path / "environment.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    results = load_search(search_run.path)
    assert results.environment == [] and "environment.json" in " ".join(results.warnings)


def test_errors_name_the_remedy(tmp_path, make_run):
    with pytest.raises(AnalysisError, match=r"no directory .*nowhere"):
        load_search(tmp_path / "nowhere")
    with pytest.raises(AnalysisError, match="no run directory"):
        load_search(tmp_path)
    with pytest.raises(AnalysisError, match=r"no run in .*python run_search.py"):
        newest_run(tmp_path / "runs")
    with pytest.raises(AnalysisError, match="is a URL"):
        load_search(Path("s3://bucket/run"))
    run = make_run()
    (run.path / "study.journal").write_text("not a journal\nat all\n")
    with pytest.raises(AnalysisError, match="damaged"):
        load_search(run.path)
    (run.path / "study.journal").write_text("")
    with pytest.raises(AnalysisError, match="no study yet"):
        load_search(run.path)
    (run.path / "search.yaml").write_text("model: {depht: 3}")
    with pytest.raises(AnalysisError, match=r"model\.depth"):
        load_search(run.path)


def test_newest_run_is_the_one_written_to_last(make_run):
    old, new = make_run("b"), make_run("a")
    (Path(old.path).parent / "c").mkdir()  # no run
    os.utime(old.path / "study.journal", (1, 1))
    assert newest_run(new.path.parent) == new.path
    os.utime(new.path / "study.journal", (0, 0))
    assert newest_run(new.path.parent) == old.path
