"""The best configurations trained again: tables and sentences by hand, and RUN/confirm made by hand."""

import json
import math
import shutil
from typing import Any

import pandas as pd
import pytest
import torch
from optuna.trial import TrialState
from scipy import stats

from analysis import load_search
from analysis.evaluating.test_split import OPENINGS, opener
from analysis.figures import confirmation_pictures
from analysis.figures.style import to_svg
from analysis.findings.confirmation import (
    Confirmation,
    comparisons,
    confirmation_data,
    evaluate_confirmation,
    load_confirmation,
    trainings_table,
)
from analysis.findings.confirmation_report import (
    confirmation_json,
    confirmation_sentences,
)
from training import load_model, load_test


def table(*rows: tuple[int, float, float]) -> pd.DataFrame:
    """COMPLETE trainings from (source number, val accuracy, test accuracy)."""
    trials = pd.DataFrame(rows, columns=["source_number", "val_accuracy", "test"])
    trials = trials.assign(number=range(len(rows)), state="COMPLETE", stopped_by=None)
    return trainings_table(trials).assign(test_accuracy=trials["test"])


def search_trials(*accuracies: float) -> pd.DataFrame:
    return pd.DataFrame({"number": range(len(accuracies)), "val_accuracy": accuracies})


def test_rows_are_ranked_by_the_search_and_the_defaults_come_last():
    trainings = table((0, 0.80, 0.79), (2, 0.70, 0.69), (1, 0.75, 0.74), (1, 0.77, 0.76), (2, 0.72, math.nan))
    data = confirmation_data(trainings, search_trials(0.9, 0.78, 0.79))
    assert data["source_number"].tolist() == [2, 1, 0]
    assert data["search_val_accuracy"].tolist() == [0.79, 0.78, 0.9]
    assert data["val_mean"].tolist() == pytest.approx([0.71, 0.76, 0.80])
    assert data["val_n"].tolist() == [2, 2, 1] and data["test_n"].tolist() == [1, 2, 1]
    # half a difference of 0.02 in two values: deviation 0.0141421, over sqrt(2) 0.01, t(0.975, 1) = 12.7062
    assert data["val_high"][1] == pytest.approx(0.76 + 0.127062, abs=1e-6)
    assert math.isnan(data["test_low"][0]) and math.isnan(data["val_low"][2])


def test_the_winner_is_compared_with_runner_up_and_defaults():
    rows = [(0, 0.7, 0.70), (0, 0.7, 0.71), (1, 0.8, 0.80), (1, 0.8, 0.82), (2, 0.8, 0.79), (2, 0.8, 0.80)]
    trainings = table(*rows)
    data = confirmation_data(trainings, search_trials(0.72, 0.85, 0.84))
    found = comparisons(data, trainings)
    assert {role: number for role, (number, _) in found.items()} == {"runner_up": 2, "defaults": 0}
    assert found["runner_up"][1].difference == pytest.approx(0.015)
    assert found["defaults"][1].p == pytest.approx(stats.ttest_ind([0.80, 0.82], [0.70, 0.71], equal_var=False).pvalue)


def test_defaults_as_runner_up_are_compared_once_and_as_winner_not_with_themselves():
    trainings = table((0, 0.7, 0.70), (0, 0.7, 0.71), (1, 0.8, 0.80), (1, 0.8, 0.82))
    second = comparisons(confirmation_data(trainings, search_trials(0.84, 0.85)), trainings)
    assert {role: number for role, (number, _) in second.items()} == {"defaults": 0}
    first = comparisons(confirmation_data(trainings, search_trials(0.86, 0.85)), trainings)
    assert {role: number for role, (number, _) in first.items()} == {"runner_up": 1}


@pytest.fixture
def confirmed(search_run, trained) -> Any:
    """search_run with trial 2 and the defaults trained again twice; a training fails, one is RUNNING."""
    run = type(search_run)(search_run.path / "confirm")
    for source, name in ((2, "deeper"), (0, "defaults"), (2, "deeper"), (0, "defaults")):
        params = run.DEEPER if source else run.DEFAULTS
        number = run.trial(run.recorded(trained[name][-1]), params=params, source_number=source)
        run.checkpoint(number, trained[name][-1], 1)
    run.trial([0.5], TrialState.FAIL, params=run.DEEPER, source_number=2)
    run.trial([0.5], None, params=run.DEEPER, source_number=2)
    return search_run


def test_a_confirmation_is_read_and_evaluated(confirmed, monkeypatch):
    results = load_search(confirmed.path)
    confirmation = load_confirmation(results)
    assert confirmation.trainings["ending"].tolist() == ["complete"] * 4 + ["failed", "running"]
    assert confirmation.trainings["val_accuracy"].isna().tolist() == [False] * 4 + [True] * 2
    report = confirmed.path / "report"
    report.mkdir()
    evaluated = evaluate_confirmation(confirmation, opener(report), torch.device("cpu"), report)
    test = load_test(results.config.data)
    images = torch.from_numpy(test.images).permute(0, 3, 1, 2)
    for row in evaluated.trainings[:2].itertuples():
        with torch.inference_mode():
            answers = load_model(confirmation.results.checkpoint_of(row.number))(images).argmax(1).numpy()
        assert row.test_accuracy == pytest.approx((answers == test.labels).mean())
    assert evaluated.trainings["test_accuracy"].isna().tolist() == [False] * 4 + [True] * 2
    assert evaluated.test_images == len(test.labels) and not evaluated.problems
    said = confirmation_sentences(evaluated, results)
    assert said[0] == "Of 6 trainings 4 are COMPLETE, 1 RUNNING, 1 failed: these are left out."
    assert confirmation.trainings["test_accuracy"].isna().all(), "the argument stays as it was"
    assert len(json.loads((report / OPENINGS).read_text())) == 1, "four trainings, one opening"
    monkeypatch.setattr(
        "analysis.evaluating.test_split.load_test", lambda data: pytest.fail("opened though all is kept")
    )
    again = evaluate_confirmation(confirmation, opener(report), torch.device("cpu"), report)
    pd.testing.assert_frame_equal(again.trainings, evaluated.trainings)


def test_mirrored_accuracies_are_of_the_trainings_that_flipped(confirmed):
    """The configuration of trial 2 flipped, the defaults did not."""
    confirm = confirmed.path / "confirm"
    for place in [*confirm.glob("trial_0000_*/*"), *confirm.glob("trial_0002_*/*")]:
        confirmed.edit_meta(place, lambda meta: meta["config"]["data"].update(flip=True))
    (report := confirmed.path / "report").mkdir()
    results = load_search(confirmed.path)
    confirmation = load_confirmation(results)
    evaluated = evaluate_confirmation(confirmation, opener(report), torch.device("cpu"), report)
    test = load_test(results.config.data)
    views = [torch.from_numpy(images.copy()).permute(0, 3, 1, 2) for images in (test.images, test.images[:, :, ::-1])]
    with torch.inference_mode():
        first, second = map(load_model(confirmation.results.checkpoint_of(0)), views)
    expected = float(((first + second).argmax(1).numpy() == test.labels).mean())
    accuracies = evaluated.trainings["mirrored_accuracy"]
    assert accuracies[0] == accuracies[2] == pytest.approx(expected)
    assert accuracies.isna().tolist() == [False, True, False, True, True, True]
    by_number = {each["number"]: each for each in confirmation_json(evaluated, results)["configurations"]}
    assert by_number[2]["mirrored_accuracy"]["values"] == [accuracies[0]] * 2
    assert "mirrored_accuracy" not in by_number[0]


def test_a_damaged_checkpoint_and_one_of_an_earlier_epoch_are_problems(confirmed, trained):
    report = confirmed.path / "report"
    report.mkdir()
    places = [next((confirmed.path / "confirm").glob(f"trial_{number:04d}_*/checkpoint_*")) for number in (0, 1)]
    (places[0] / "weights.pt").write_bytes((places[0] / "weights.pt").read_bytes()[:-1])
    shutil.rmtree(places[1])
    shutil.copytree(trained["defaults"][0], places[1])
    confirmation = load_confirmation(load_search(confirmed.path))
    evaluated = evaluate_confirmation(confirmation, opener(report), torch.device("cpu"), report)
    assert evaluated.trainings["test_accuracy"].isna().tolist() == [True] * 2 + [False] * 2 + [True] * 2
    for number, problem in enumerate(evaluated.problems):
        assert f"trial {number} has no readable checkpoint of its last epoch" in problem
    assert len(evaluated.problems) == 2


def test_no_confirmation_and_a_damaged_one(search_run):
    results = load_search(search_run.path)
    assert load_confirmation(results) is None
    type(search_run)(search_run.path / "confirm")
    (search_run.path / "confirm" / "search.yaml").write_text("[")
    confirmation = load_confirmation(results)
    assert confirmation.trainings.empty and "cannot be read as YAML" in confirmation.problems[0]
    evaluated = evaluate_confirmation(confirmation, pytest.fail, torch.device("cpu"), search_run.path)
    assert confirmation_sentences(evaluated, results)[-1].startswith("No network has been trained again")
    assert confirmation_json(evaluated, results)["configurations"] == []
    assert len(confirmation_pictures(evaluated, results)) == 1


def verdict_of(search: Any, *rows: tuple[int, float, float]) -> str:
    """The sentences for a hand-made confirmation of search_run, whose trials 0 and 2 are COMPLETE."""
    results = load_search(search.path)
    trials = pd.DataFrame({"number": [0, 1, 2], "val_accuracy": [0.70, 0.84, 0.85]})
    results = type(results)(**{**vars(results), "trials": trials, "best_trial": None})
    return " ".join(confirmation_sentences(Confirmation(search.path, table(*rows), None), results))


def test_verdict_in_words(search_run):
    winner = [(2, 0.81, 0.80), (2, 0.82, 0.81), (2, 0.83, 0.82)]
    runner_up = [(1, 0.85, 0.79), (1, 0.84, 0.81), (1, 0.86, 0.83)]
    defaults = [(0, 0.70, 0.60), (0, 0.70, 0.61), (0, 0.70, 0.62)]
    said = verdict_of(search_run, *winner, *runner_up, *defaults)
    # mean 0.81, deviation 0.01, half width 0.0248413
    assert "mean test accuracy is 81.00 % (95 % interval 78.52 to 83.48 %, n = 3)" in said
    assert "Does the winner beat the runner-up, trial 1, in test accuracy? Not shown: +0.00 points" in said
    assert "Does the winner beat the defaults, trial 0, in test accuracy? Yes: +20.00 points" in said
    assert "By the mean val accuracy of the retrained networks trial 1 has the lead: 85.00 %" in said
    assert "The search flattered the winner: its val accuracy was 85.00 % then, 82.00 % in the mean of 3" in said
    worse = verdict_of(search_run, *((2, val + 0.06, test - 0.4) for _, val, test in winner), *defaults)
    assert "defaults, trial 0, in test accuracy? No, it is worse: −20.00 points" in worse
    assert "The search did not flatter the winner" in worse
    alone = verdict_of(search_run, *((1, val + 0.02, test) for _, val, test in winner))
    assert "That the search flattered the winner is not shown" in alone


def test_verdict_without_spread_and_without_test_split(search_run):
    said = verdict_of(search_run, (2, 0.81, 0.80), (0, 0.70, 0.60))
    assert "80.00 % (n = 1: no interval)" in said and "trial 2 was 85.00 % in the search" in said
    assert "Not shown: +20.00 points, without an interval, which needs two trainings of each" in said
    assert said.endswith(f"python run_search.py --confirm {search_run.path} --top 1 --seeds 5")
    equal = verdict_of(search_run, (2, 0.81, 0.80), (2, 0.81, 0.80), (0, 0.70, 0.60), (0, 0.70, 0.60))
    assert "(all 2 came out equal: their spread is unknown)" in equal and "95 % interval" not in equal
    untested = verdict_of(search_run, (2, 0.81, math.nan), (2, 0.83, math.nan))
    assert "not evaluated on the test split" in untested and "Does the winner" not in untested
    assert "nan" not in said + equal + untested


def test_a_best_trial_that_was_not_confirmed_is_said(search_run):
    results = load_search(search_run.path)
    other = 2 if results.best_trial.number == 0 else 0
    said = confirmation_sentences(Confirmation(search_run.path, table((other, 0.8, 0.8)), None), results)
    assert f"The best trial of the search, {results.best_trial.number}, is not among the confirmed ones" in said[0]


def test_json_holds_every_value(confirmed):
    results = load_search(confirmed.path)
    trainings = table((2, 0.81, 0.80), (2, 0.83, 0.81), (0, 0.70, 0.60))
    found = confirmation_json(Confirmation(confirmed.path, trainings, None, test_images=450), results)
    by_number = {each["number"]: each for each in found["configurations"]}
    assert by_number[2]["test_accuracy"]["values"] == [0.80, 0.81] and by_number[0]["test_accuracy"]["n"] == 1
    assert found["test_images"] == 450
    assert json.loads(json.dumps(found))["winner"]["number"] == results.best_trial.number


@pytest.mark.parametrize("configurations", [0, 60])
def test_pictures_of_any_size(search_run, configurations: int):
    rows = [(number, 0.7 + number / 1000, 0.6 + number / 1000) for number in range(configurations) for _ in range(2)]
    results = load_search(search_run.path)
    trials = search_trials(*(0.8 + number / 1000 for number in range(max(3, configurations))))
    results = type(results)(**{**vars(results), "trials": trials})
    [picture] = confirmation_pictures(Confirmation(search_run.path, table(*rows), None), results)
    assert to_svg(picture.figure, picture.name).startswith("<svg")
    if configurations:
        labels = [label.get_text() for label in picture.figure.axes[0].get_yticklabels()]
        assert labels[0] == "trial 59" and labels[-1] == "defaults" and len(labels) == 21
        assert "The 20 best in the search of 59 are shown." in picture.sentence
