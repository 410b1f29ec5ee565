"""The report and the command line, over every state that a run can be in."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from made_results import answers, evaluated, large
from optuna.trial import TrialState

from analysis import load_search
from analysis.__main__ import main
from analysis.report import Analysis, leaderboard, write_report

SCRIPT = "<script>alert(1)</script>"
PROJECT = Path(__file__).parents[2]
SEARCH_PICTURES = {  # by title
    "Best val accuracy over time and epochs",
    "Who was stopped at the rungs",
    "Which trial trained when",
    "Learning curves by ending",
    "Proposals that were infeasible",
    "Accuracy against each hyperparameter",
    "Importance of hyperparameters",
    "Trials over parallel axes",
    "Accuracy against cost",
    "Optimizers",
}
NETWORK_PICTURES = {
    "Feature maps",
    "What one image excites",
    "A batch of training images",
    "Confusion matrix",
    "Recall and precision of each class",
    "Calibration",
    "Samples with the output distribution",
    "The most confident mistakes",
}


class Page(HTMLParser):
    """Tags, text and the addresses that a page would load."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.pictures: set[str] = set()  # titles
        self.loads: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        values = dict(attributes)
        if values.get("role") == "img":
            self.pictures.add(values["aria-label"])
        if tag != "a":
            self.loads += [values[key] for key in ("src", "href", "xlink:href") if values.get(key)]

    def handle_data(self, data):
        self.text += data


def report_of(run, capsys, *arguments: str) -> tuple[Page, str]:
    assert main([str(run.path), "--device", "cpu", *arguments]) == 0
    return Page(run.path / "report" / "index.html"), capsys.readouterr().out


def test_report_holds_the_numbers_and_loads_neither_a_page_nor_ray(search_run, capsys):
    page, printed = report_of(search_run, capsys)
    # In a program, which takes the newest run: analysing again says the same.
    program = [sys.executable, PROJECT / "tests" / "programs" / "analysis_without_ray.py"]
    arguments = ["--runs-dir", search_run.path.parent, "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run([*program, *arguments], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")
    metrics = json.loads((search_run.path / "report" / "test_metrics.json").read_text())
    best = search_run.study.best_trial
    assert metrics["winner"]["number"] == best.number and metrics["defaults"]["number"] == 0
    assert metrics["winner"]["val_accuracy"] == metrics["winner"]["val_accuracy_reevaluated"] == best.value
    assert metrics["winner"]["params"] == best.params
    accuracy = f"{100 * metrics['winner']['test_accuracy']:.2f} %"
    for text in (page.text, printed):
        assert accuracy in text and "exactly the recorded val accuracy" in text
        assert "opened 1 time in this run" in " ".join(text.split())
    assert page.loads and all(address.startswith(("#", "data:image/png")) for address in page.loads)
    assert page.pictures == SEARCH_PICTURES | NETWORK_PICTURES
    assert str(search_run.path / "report" / "index.html") in printed.replace("\n", "")
    files = list((search_run.path / "report").glob("*.png"))
    assert len(files) == len(page.pictures)
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    results = load_search(search_run.path)
    trials = pd.read_csv(search_run.path / "report" / "trials.csv")
    assert list(trials.columns) == list(results.trials.columns)
    pd.testing.assert_series_equal(trials["val_accuracy"], results.trials["val_accuracy"])
    epochs = pd.read_csv(search_run.path / "report" / "epochs.csv")
    pd.testing.assert_series_equal(epochs["train_loss"], results.epochs["train_loss"])


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without figures, which take most of the time."""
    for name in ("search_pictures", "space_pictures", "network_pictures", "prediction_pictures", "write_evaluation"):
        monkeypatch.setattr(f"analysis.report.{name}", lambda *_: [])


def test_both_accuracies_are_shown_if_training_flipped(search_run, trained, capsys, undrawn, monkeypatch):
    monkeypatch.setattr("analysis.report.drawn", lambda *_: [{"title": "", "svg": "", "sentence": ""}])
    confirm = type(search_run)(search_run.path / "confirm")
    for name, params, source in (("defaults", confirm.DEFAULTS, 0), ("deeper", confirm.DEEPER, 2)):
        number = confirm.trial(confirm.recorded(trained[name][-1]), params=params, source_number=source)
        confirm.checkpoint(number, trained[name][-1], 1)
    page, printed = report_of(search_run, capsys)
    assert "mirror" not in page.text + printed
    shutil.rmtree(search_run.path / "report")
    page, printed = report_of(search_run.with_flips(), capsys)
    winner = json.loads((search_run.path / "report" / "test_metrics.json").read_text())["winner"]
    plain, mirrored = (f"{100 * winner[name]:.2f} %" for name in ("test_accuracy", "mirrored_test_accuracy"))
    gained = f"{100 * (winner['mirrored_test_accuracy'] - winner['test_accuracy']):+.2f}".replace("-", "−")
    for text in (page.text, printed):
        assert plain in text and "mirrored test loss" in text
        assert f"Averaged over each image and its mirror image it is {mirrored} (n = 1" in " ".join(text.split())
        assert f"the winner's test accuracy is {mirrored}, {gained} points" in " ".join(text.split())


def test_an_empty_search_is_reported_with_its_notice(make_run, capsys):
    page, printed = report_of(make_run(notice="Digits are used: CIFAR-10 could not be had."), capsys)
    assert "Digits are used" in page.text and "Digits are used" in printed and "no trial has begun" in page.text


def test_nothing_hostile_becomes_markup(make_run, trained, capsys, monkeypatch):
    from analysis.evaluating import test_split
    from training.data import ImageSet, load_test

    def renamed(config, _):
        test = load_test(config)
        return ImageSet(test.images, test.labels, names)

    run = make_run("a<img src=x onerror=alert(1)>", notice=SCRIPT)
    names = (SCRIPT, "[bold]x[/bold]", "$x_{$", *"3456789")
    place = run.checkpoint(run.trial([0.1, 0.2], num_params=1), trained["defaults"][-1])
    run.edit_meta(place, lambda meta: meta.update(class_names=list(names)))
    run.trial([], TrialState.FAIL, reason=SCRIPT)
    (run.path / "environment.json").write_text(json.dumps([{SCRIPT: {SCRIPT: SCRIPT}}]))
    monkeypatch.setattr(test_split, "load_test", renamed)  # so that every figure is drawn
    page, printed = report_of(run, capsys)
    assert "script" not in page.tags and "img" not in page.tags and page.pictures >= NETWORK_PICTURES
    assert SCRIPT in page.text and SCRIPT in printed


def test_reports_of_unfinished_searches_say_what_can_be_said(make_run, trained, capsys, undrawn):
    running = make_run("running")
    running.checkpoint(running.trial([0.1], state=None), trained["defaults"][0])
    page, printed = report_of(running, capsys)
    assert "RUNNING" in page.text and "RUNNING" in printed and "no best trial" in page.text

    failed = make_run("failed")
    failed.trial([], TrialState.FAIL, reason="out of memory")
    page, printed = report_of(failed, capsys)
    assert "No network can be evaluated" in page.text and "No network can be evaluated" in printed
    assert json.loads((failed.path / "report" / "test_metrics.json").read_text())["winner"] is None

    provisional = make_run("provisional")
    number = provisional.trial([0.5], TrialState.PRUNED, stopped_by="time_budget")
    provisional.checkpoint(number, trained["defaults"][0])
    page, printed = report_of(provisional, capsys)
    assert "provisional" in page.text and "winner, provisional" in printed

    without = make_run("without a checkpoint")
    without.trial([0.1, 0.2])
    diverged = without.trial([0.0], TrialState.PRUNED, stopped_by="diverged")
    place = without.checkpoint(diverged, trained["defaults"][0])
    without.edit_meta(place, lambda meta: meta["results"][0].update(train_loss=None, val_loss=None, diverged=True))
    page, printed = report_of(without, capsys)
    assert "has no readable checkpoint" in printed and "diverged" in page.text


def test_a_diverged_trial_stands_below_one_that_was_stopped_earlier(search_run):
    diverged = search_run.trial([0.5, 0.9], TrialState.PRUNED, stopped_by="diverged")
    numbers = [row["number"] for row in leaderboard(load_search(search_run.path))]
    assert numbers[-2:] == [3, diverged]


@pytest.mark.slow
def test_a_thousand_trials_and_a_hundred_classes_make_a_page_under_5_mb(make_run, trained):
    results = large(1000)
    ends = pd.Timestamp("2030-01-01", tz="UTC") + pd.to_timedelta(results.epochs["epoch_seconds"].cumsum(), unit="s")
    ended = ends.groupby(results.epochs["number"]).max()
    results = dataclasses.replace(
        results,
        run=make_run().path,
        trials=results.trials.assign(finished_at=results.trials["number"].map(ended)),
        epochs=results.epochs.assign(finished_at=ends),
    )
    names = tuple(f"class number {index}" for index in range(100))
    evaluation = evaluated(*answers(10_000, 100, 2.0), names, trained["defaults"][-1])
    index = write_report(Analysis(results, evaluation, None, None))
    assert Page(index).pictures == (SEARCH_PICTURES - {"Proposals that were infeasible"}) | NETWORK_PICTURES
    assert index.stat().st_size < 5_000_000


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["nowhere"], "no directory"),
        (["."], "no run directory"),
        (["--runs-dir", "nowhere"], "run_search.py"),
        (["runs/run", "--device", "nonsense"], "--device cpu"),
    ],
)
def test_bad_input_is_exit_code_2_without_a_traceback(arguments, remedy, search_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert remedy in captured.err and "Traceback" not in captured.err and captured.err.count("\n") <= 3


def test_data_dir_leads_to_a_moved_image_folder(make_run, tmp_path, capsys, undrawn):
    """A folder data set whose PATH is gone: a problem, and none with --data-dir."""
    from PIL import Image

    from training import load_data, new_state, save_checkpoint, train

    run = make_run()
    for split, count in (("train", 12), ("test", 4)):
        for name, shade in (("dark", 20), ("light", 220)):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (8, 8), (shade + index,) * 3).save(folder / f"{index}.png")
    config = load_search(run.path).config.override(
        {"data.dataset": f"folder:{tmp_path / 'images'}", "data.data_dir": str(tmp_path / "data")}
    )
    state = new_state(config, data := load_data(config.data))
    results = list(train(state, data))
    number = run.trial([result.val_accuracy for result in results])
    save_checkpoint(state, run.path / "trial_0000_x" / "checkpoint_000001", number)
    (tmp_path / "images").rename(tmp_path / "moved")
    page, _ = report_of(run, capsys)
    assert "--data-dir" in page.text and "exactly the recorded val accuracy" not in page.text
    _, printed = report_of(run, capsys, "--data-dir", str(tmp_path / "moved"))
    assert "exactly the recorded val accuracy" in printed
