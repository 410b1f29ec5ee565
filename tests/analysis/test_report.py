"""The report and the command line, over every state that a run can be in."""

import dataclasses
import json
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from optuna.trial import TrialState

from analysis import load_search
from analysis.__main__ import main
from analysis.evaluating.evaluation import EvaluatedTrial, Evaluation, TrainingBatch
from analysis.evaluating.test_split import Predictions
from analysis.report import Analysis, leaderboard, write_report

SCRIPT = "<script>alert(1)</script>"
ROOT = Path(__file__).parents[2]
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


def test_report_holds_the_numbers_and_loads_nothing(search_run, capsys):
    _, before = report_of(search_run, capsys)
    page, printed = report_of(search_run, capsys)
    assert printed == before  # analysing again says the same
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


def test_the_notice_stands_in_the_report_and_on_the_terminal(make_run, capsys):
    page, printed = report_of(make_run(notice="Digits are used: CIFAR-10 could not be had."), capsys)
    assert "Digits are used" in page.text and "Digits are used" in printed


def test_nothing_hostile_becomes_markup(make_run, trained, capsys):
    run = make_run("a<img src=x onerror=alert(1)>", notice=SCRIPT)
    number = run.trial([0.1, 0.2], num_params=1)
    names = [SCRIPT, "[bold]x[/bold]", "$x_{$", *"3456789"]
    place = run.checkpoint(number, trained["defaults"][-1])
    run.edit_meta(place, lambda meta: meta.update(class_names=names))
    run.trial([], TrialState.FAIL, reason=SCRIPT)
    (run.path / "environment.json").write_text(json.dumps([{SCRIPT: {SCRIPT: SCRIPT}}]))
    page, printed = report_of(run, capsys)
    assert "script" not in page.tags and "img" not in page.tags
    assert SCRIPT in page.text and SCRIPT in printed
    assert "other classes" in page.text  # than the data have: not evaluated, and said


def test_hostile_class_names_in_the_tables(tmp_path, make_run, trained, capsys, monkeypatch):
    """The same with data that do have these classes, so that every figure is drawn."""
    from analysis.evaluating import test_split as predictions
    from training.data import ImageSet, load_test

    names = (SCRIPT, "[bold]x[/bold]", "$x_{$", *"3456789")
    run = make_run()
    place = run.checkpoint(run.trial([0.1, 0.2]), trained["defaults"][-1])
    run.edit_meta(place, lambda meta: meta.update(class_names=list(names)))

    def renamed(config, _):
        test = load_test(config)
        return ImageSet(test.images, test.labels, names)

    monkeypatch.setattr(predictions, "load_test", renamed)
    page, _ = report_of(run, capsys)
    assert "script" not in page.tags and SCRIPT in page.text and page.pictures >= NETWORK_PICTURES


def test_reports_of_unfinished_searches_say_what_can_be_said(make_run, trained, capsys):
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

    page, _ = report_of(make_run("empty"), capsys)
    assert "no trial has begun" in page.text


def test_a_missing_checkpoint_leaves_a_report_without_the_network(search_run, capsys):
    for place in search_run.path.glob("trial_*"):
        shutil.rmtree(place)
    page, printed = report_of(search_run, capsys)
    assert page.pictures and not page.pictures & NETWORK_PICTURES and "cannot be evaluated" in printed


def test_a_diverged_trial_does_not_break_the_json(search_run, trained, capsys):
    number = search_run.trial([0.0], TrialState.PRUNED, stopped_by="diverged")
    place = search_run.checkpoint(number, trained["defaults"][0])
    search_run.edit_meta(place, lambda meta: meta["results"][0].update(train_loss=None, val_loss=None, diverged=True))
    page, _ = report_of(search_run, capsys)
    assert "1 diverged" in page.text


def test_a_diverged_trial_stands_below_one_that_was_stopped_earlier(search_run):
    diverged = search_run.trial([0.5, 0.9], TrialState.PRUNED, stopped_by="diverged")
    numbers = [row["number"] for row in leaderboard(load_search(search_run.path))]
    assert numbers[-2:] == [3, diverged]


def test_a_thousand_trials_and_a_hundred_classes_make_a_page_under_5_mb(search_run, trained, tmp_path):
    draw = np.random.default_rng(0)
    results = load_search(search_run.path)
    epochs_of = draw.choice([1, 3, 9], 1000, p=[0.7, 0.2, 0.1])
    start = pd.Timestamp("2030-01-01", tz="UTC")
    ends = start + pd.to_timedelta(np.cumsum(10.0 * epochs_of), unit="s")
    trials = pd.DataFrame(
        {
            "number": range(1000),
            "state": np.where(epochs_of == 9, "COMPLETE", "PRUNED"),
            "stopped_by": np.where(epochs_of == 9, None, "asha"),
            "reason": None,
            "val_accuracy": draw.random(1000),
            "epochs": epochs_of,
            "seconds": 10.0 * epochs_of,
            "started_at": ends - pd.to_timedelta(10.0 * epochs_of, unit="s"),
            "finished_at": ends,
            "num_params": draw.integers(10_000, 10**7, 1000),
            "multiply_adds": draw.integers(10**6, 10**8, 1000),
            "model.depth": draw.integers(1, 3, 1000),
            "model.kernel_size.0": draw.choice([1, 3], 1000),
            "optimizer.name": draw.choice(["sgd", "adam"], 1000),
            "optimizer.momentum": draw.uniform(0.5, 0.95, 1000),
        }
    )
    rows = [
        (n, e, end - pd.Timedelta(seconds=10 * (last - e)))
        for n, (last, end) in enumerate(zip(epochs_of, ends, strict=True))
        for e in range(1, last + 1)
    ]
    epochs = pd.DataFrame(rows, columns=["number", "epoch", "finished_at"]).assign(
        val_accuracy=draw.random(len(rows)),
        val_loss=1.0,
        train_loss=1.0,
        train_accuracy=0.5,
        learning_rate=0.1,
        epoch_seconds=10.0,
        images_per_second=100.0,
    )
    settings = results.settings
    results = dataclasses.replace(
        results,
        trials=trials,
        epochs=epochs,
        settings=settings.model_copy(update={"train": settings.train.model_copy(update={"epochs": 9})}),
        params=dict.fromkeys(range(1000), search_run.DEFAULTS),
    )
    names = tuple(f"class number {index}" for index in range(100))
    labels = np.arange(10_000) % 100
    logits = draw.normal(size=(10_000, 100)).astype(np.float32)
    logits[np.arange(10_000), labels] += 2
    images = draw.integers(0, 256, (12, 8, 8, 3)).astype(np.uint8)
    wrong = np.flatnonzero(logits.argmax(1) != labels)[:12]
    kept = Predictions(logits, labels, np.arange(12), images, wrong, images)
    place = trained["defaults"][-1]
    winner = EvaluatedTrial(2, 9, False, search_run.DEFAULTS, place, "0" * 64, names, 0.5, 0.5, kept)
    batch = TrainingBatch(2, np.repeat(images, 2, 0)[:16], labels[:16], names, results.config.data)
    evaluation = Evaluation(winner, None, [], "cpu", [], batch, 12_500)
    index = write_report(Analysis(results, evaluation, None, None))
    assert Page(index).pictures >= (SEARCH_PICTURES - {"Proposals that were infeasible"}) | NETWORK_PICTURES
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


def test_the_command_takes_the_newest_run_and_never_imports_ray(search_run):
    program = "import sys; from analysis.__main__ import main; sys.exit(main() or 'ray' in sys.modules)"
    command = [sys.executable, "-c", program, "--runs-dir", str(search_run.path.parent)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert (search_run.path / "report" / "index.html").is_file()


def test_data_dir_leads_to_a_moved_image_folder(make_run, trained, tmp_path, capsys):
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
    assert "--data-dir" in page.text and "test images are on the diagonal" not in page.text
    page, printed = report_of(run, capsys, "--data-dir", str(tmp_path / "moved"))
    assert "exactly the recorded val accuracy" in printed and page.pictures >= NETWORK_PICTURES
