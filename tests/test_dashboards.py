"""What other people's tools show of our files: TensorBoard's and Optuna Dashboard's own servers are asked."""

import itertools
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from local_cluster import free_port
from optuna.trial import FrozenTrial, TrialState
from PIL import Image
from rich.console import Console
from searches import QUICK, run, trials_of, wait_until
from studies import make_searcher
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from analysis.figures.style import Picture, drawing, save_png
from analysis.tensorboard import write_evaluation
from search.config import SearchConfig, load_config, parse_config
from search.record.endings import Ending, Infeasible, end_infeasible, end_pruned
from search.record.journal import open_study
from search.record.run_directory import locked, trial_directory
from search.record.run_storage import RunStorage
from search.screen.tensorboard import CURVES
from search.workers.callback import Progress
from search.workers.tuner import unfinished_trials

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to this machine
UNKNOWN = "STATUS_UNKNOWN"
STATUSES = [UNKNOWN, "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]


def request(url: str, body: Mapping[str, Any] | None = None) -> Any:
    """A GET, or a POST where there is a body; the answer's JSON."""
    data = None if body is None else json.dumps(body).encode()
    with DIRECT.open(urllib.request.Request(url, data, {"Content-Type": "application/json"}), timeout=30) as answer:
        return json.load(answer)


def wait_for(get: Callable[[], Any], until: Callable[[Any], bool]) -> Any:
    """The first answer that will do, of a server that may still be starting."""
    answers: list[Any] = []

    def is_there() -> bool:
        with suppress(urllib.error.URLError, ConnectionError):
            answers[:] = [get()]
        return bool(answers) and until(answers[0])

    wait_until(is_there, "an answer", seconds=60)
    return answers[0]


@contextmanager
def serving(program: str, *arguments: str) -> Iterator[str]:
    """The URL of an installed program that serves HTTP on this machine."""
    port = free_port()
    command = [str(Path(sys.executable).parent / program), *arguments, "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=30)


# TensorBoard


def hparams_columns(url: str) -> dict[str, Any]:
    return request(f"{url}/data/plugin/hparams/experiment", {"experimentName": "", "includeMetrics": True})


def hparams_rows(url: str, sort_by: str | None = None) -> list[dict[str, Any]]:
    """The table's rows as its page asks for them."""
    columns = [{"hparam": sort_by, "order": "ORDER_ASC"}] if sort_by else []
    body = {"experimentName": "", "allowedStatuses": STATUSES, "colParams": columns, "startIndex": 0, "sliceSize": 99}
    return request(f"{url}/data/plugin/hparams/session_groups", body).get("sessionGroups", [])


def metrics_of(row: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """{tag: (step, value)} of the one session of a row."""
    (session,) = row["sessions"]
    return {each["name"]["tag"]: (each["trainingStep"], each["value"]) for each in session.get("metricValues", [])}


CONFIG = {
    "data": {"dataset": "digits", "image_size": 16, "crop_padding": 0, "flip": False},
    "model": {"depth": 1, "width": 8, "dropout": 0.0, "pooling": "none"},
    "train": {"epochs": 3},
    "search": {"num_samples": 5},
    "sampler": {"name": "random"},
    "space": {
        "model.depth": {"int": [1, 2]},
        "model.kernel_size": {"choice": [3, 5], "per_layer": True},
        "model.padding": {"choice": ["same", 0, 1]},  # of two types
        "model.batch_norm": {"choice": [True, False]},
        "model.dropout": {"float": [0.1, 0.5], "when": {"model.depth": 2}},  # the base's 0 lies outside
        "optimizer.name": {"choice": ["sgd", "adamw"]},
        "optimizer.momentum": {"float": [0.5, 0.95], "when": {"optimizer.name": "sgd"}},
    },
}
SHALLOW = {
    "model.depth": 1,
    "model.kernel_size.0": 5,
    "model.padding": 1,
    "model.batch_norm": False,
    "optimizer.name": "adamw",
}
DEEP = {
    "model.depth": 2,
    "model.kernel_size.0": 3,
    "model.kernel_size.1": 5,
    "model.padding": "same",
    "model.batch_norm": True,
    "model.dropout": 0.25,
    "optimizer.name": "sgd",
    "optimizer.momentum": 0.75,
}
NOT_USED = {"model.kernel_size.1": 3, "model.dropout": 0.0, "optimizer.momentum": 0.9}  # by the shallow one


class Driver:
    """Does to a searcher and its Progress what Ray does, with trials that train nothing."""

    def __init__(self, run: Path, config: SearchConfig, prefix: str = "a") -> None:
        self.searcher = make_searcher(run, config)
        self.trial_ids = (f"{prefix}{index}" for index in itertools.count())
        self.searcher.pending = list(unfinished_trials(self.searcher, RunStorage(run)))
        self.progress = Progress(self.searcher, run, Console(quiet=True))

    def start(self, params: Mapping[str, Any] | None = None) -> Any:
        if params is not None:
            self.searcher.study.enqueue_trial(dict(params))
        trial_id = next(self.trial_ids)
        trial = SimpleNamespace(trial_id=trial_id, config=self.searcher.suggest(trial_id), error_file=None)
        self.progress.on_trial_start(0, [], trial)
        return trial

    def report(self, trial: Any, epoch: int, val_accuracy: float) -> dict[str, Any]:
        values = {**dict.fromkeys(CURVES.values(), 0.5), "val_accuracy": val_accuracy}
        result = {**values, "epoch": epoch, "diverged": False}
        self.searcher.on_trial_result(trial.trial_id, result)
        self.progress.on_trial_result(0, [], trial, result)
        return result

    def end(self, trial: Any, result: dict[str, Any]) -> None:
        self.searcher.on_trial_complete(trial.trial_id, result)
        self.progress.on_trial_complete(0, [], trial)


def test_tensorboard_lists_every_trial_with_all_hyperparameters_while_the_search_runs(tmp_path: Path) -> None:
    config = parse_config(CONFIG, {})
    driver = Driver(tmp_path, config)
    defaults, pruned, failed, running = driver.start(), driver.start(SHALLOW), driver.start(SHALLOW), driver.start(DEEP)
    names = [trial_directory(trial.config["number"], trial.trial_id) for trial in (defaults, pruned, failed, running)]
    with serving("tensorboard", "--logdir", str(tmp_path), "--reload_interval", "1") as url:
        first = wait_for(lambda: hparams_rows(url), lambda rows: len(rows) == 4)
        assert {row["name"] for row in first} == set(names)  # before anything is reported
        assert all(metrics_of(row) == {} for row in first)

        for epoch, value in ((1, 0.25), (2, 0.75)):
            driver.report(defaults, epoch, value)
        driver.end(defaults, driver.report(defaults, 3, 0.625))
        driver.end(pruned, driver.report(pruned, 1, 0.125))
        driver.progress.on_trial_error(0, [], failed)
        driver.progress.on_trial_start(0, [], running)  # once more, after its worker died
        driver.report(running, 1, 0.5)
        ended = {"STATUS_SUCCESS", "STATUS_FAILURE"}
        rows = wait_for(
            lambda: hparams_rows(url),
            lambda rows: (
                sum(row["sessions"][0].get("status") in ended for row in rows) == 3
                and sum(bool(metrics_of(row)) for row in rows) == 3
            ),
        )
        table = {row["name"]: row for row in rows}
        assert [(table[name]["sessions"][0].get("status", UNKNOWN), metrics_of(table[name])) for name in names] == [
            ("STATUS_SUCCESS", {"accuracy/val": (3, 0.625)}),
            ("STATUS_SUCCESS", {"accuracy/val": (1, 0.125)}),
            ("STATUS_FAILURE", {}),
            (UNKNOWN, {"accuracy/val": (1, 0.5)}),
        ]
        assert table[names[1]]["hparams"] == table[names[2]]["hparams"] == {**SHALLOW, **NOT_USED, "model.padding": "1"}
        assert table[names[3]]["hparams"] == DEEP
        in_order = [row["hparams"]["model.padding"] for row in hparams_rows(url, sort_by="model.padding")]
        assert in_order == ["1", "1", "same", "same"]

        experiment = hparams_columns(url)
        columns = {column["name"]: column for column in experiment["hparamInfos"]}
        assert columns.keys() == DEEP.keys() and all(column["differs"] for column in columns.values())
        assert columns["model.dropout"]["domainInterval"] == {"minValue": 0.0, "maxValue": 0.5}
        assert columns["model.depth"]["domainInterval"] == {"minValue": 1.0, "maxValue": 2.0}
        assert columns["model.padding"]["domainDiscrete"] == ["same", "0", "1"]
        assert columns["model.batch_norm"]["domainDiscrete"] == [True, False]
        assert columns["model.batch_norm"]["type"] == "DATA_TYPE_BOOL"
        assert [metric["name"]["tag"] for metric in experiment["metricInfos"]] == ["accuracy/val"]

        driver.progress.__exit__()
        resumed = Driver(tmp_path, config, prefix="b")  # trial 3 gets a second directory
        again = resumed.start()
        rows = wait_for(lambda: hparams_rows(url), lambda rows: len(rows) == 5)
        assert trial_directory(3, again.trial_id) == "trial_0003_b0"
        assert {row["name"]: row["hparams"] for row in rows}["trial_0003_b0"] == DEEP
        resumed.progress.__exit__()
    files = [[path.is_file() for path in directory.iterdir()] for directory in tmp_path.glob("trial_*")]
    assert files == [[True]] * 5  # an event file each, and no directory in it


def test_the_evaluation_in_tensorboard_replaces_an_earlier_one(tmp_path: Path) -> None:
    figure = drawing(2.0, 1.0)
    figure.text(0.5, 0.5, "A")
    first, second = (Picture(name, name, figure, "") for name in ("first", "second"))
    write_evaluation([first, second], {"test_accuracy": 0.25, "ece": 0.5}, tmp_path)
    place = tmp_path / "report" / "tensorboard"
    (place / "notes.txt").write_text("mine")
    write_evaluation([second], {"test_accuracy": 0.75, "test_loss": float("nan")}, tmp_path)
    events = EventAccumulator(str(place)).Reload()
    assert events.Tags()["scalars"] == ["test_accuracy", "test_loss"] and events.Tags()["images"] == ["second"]
    assert [event.value for event in events.Scalars("test_accuracy")] == [0.75]
    (image,) = events.Images("second")
    save_png(figure, tmp_path / "expected.png")
    (tmp_path / "found.png").write_bytes(image.encoded_image_string)
    expected, found = (Image.open(tmp_path / f"{name}.png").convert("RGB") for name in ("expected", "found"))
    assert np.array_equal(np.asarray(found), np.asarray(expected)) and len(np.unique(np.asarray(found))) > 1
    assert (place / "notes.txt").read_text() == "mine" and len(list(place.iterdir())) == 2


# Optuna Dashboard


def check_dashboard(shown: Mapping[str, Any], trials: list[FrozenTrial]) -> None:
    """The dashboard's trials are the journal's, in number, state, values and params."""
    assert [each["number"] for each in shown["trials"]] == [trial.number for trial in trials]
    for each, trial in zip(shown["trials"], trials, strict=True):
        assert each["state"] == trial.state.name.capitalize()
        assert each.get("values") == trial.values
        assert {param["name"]: param["param_external_value"] for param in each["params"]} == {
            name: str(value) for name, value in trial.params.items()
        }
        steps = {value["step"]: value["value"] for value in each["intermediate_values"]}
        assert steps == trial.intermediate_values


def test_optuna_dashboard_follows_a_search_that_runs(tmp_path: Path) -> None:
    with locked(tmp_path):
        study = open_study(tmp_path, None)
    journal = tmp_path / "study.journal"
    running = study.ask()
    running.suggest_float("optimizer.learning_rate", 0.1, 1.0)
    running.report(0.5, 1)
    with serving("optuna-dashboard", str(journal)) as url:
        (summary,) = wait_for(lambda: request(f"{url}/api/studies"), bool)["study_summaries"]
        detail = f"{url}/api/studies/{summary['study_id']}"
        shown = request(detail)
        check_dashboard(shown, study.trials)
        assert shown["trials"][0]["state"] == "Running" and shown["best_trials"] == []

        pruned, infeasible, failed = study.ask(), study.ask(), study.ask()
        pruned.report(0.99, 1)  # better than the best, at a third of the epochs
        end_pruned(study, pruned, Ending.ASHA)
        end_infeasible(study, infeasible, Infeasible("max_params", "too large", 300, 100))
        study.tell(failed, state=TrialState.FAIL)
        study.tell(running, 0.75)
        study.enqueue_trial({"optimizer.learning_rate": 0.5})
        before = journal.read_bytes()
        (tmp_path / "study.journal.lock").symlink_to(journal)  # the search is writing: it holds the lock
        shown = wait_for(lambda: request(detail), lambda shown: len(shown["trials"]) == 5)
        check_dashboard(shown, study.trials)
        states = [trial["state"] for trial in shown["trials"]]
        assert states == ["Complete", "Pruned", "Pruned", "Fail", "Waiting"]
        assert [trial["number"] for trial in shown["best_trials"]] == [0]
        with journal.open("ab") as stream:
            stream.write(b'{"op_code":')  # half a line, as a reader may find it
        time.sleep(2.1)  # the dashboard keeps an answer for two seconds
        assert len(request(detail)["trials"]) == 5
    assert journal.read_bytes() == before + b'{"op_code":'


# Both


@pytest.mark.slow
def test_what_they_show_of_a_real_search_is_what_its_journal_holds(tmp_path: Path) -> None:
    """And they leave its files as they are."""
    run(*QUICK, cwd=tmp_path)
    directory, journal = tmp_path / "runs" / "run", tmp_path / "runs" / "run" / "study.journal"
    trials, before, files = trials_of(directory), journal.read_bytes(), sorted(directory.rglob("*"))
    with serving("tensorboard", "--logdir", str(directory)) as url:
        rows = wait_for(lambda: hparams_rows(url), lambda rows: len(rows) == 6)
        columns = {column["name"] for column in hparams_columns(url)["hparamInfos"]}
    trained = [trial for trial in trials if trial.intermediate_values]
    assert columns == load_config(QUICK[1]).search_space.distributions().keys()
    for row, trial in zip(rows, trained, strict=True):  # sorted by name
        assert row["name"].startswith(f"trial_{trial.number:04d}_")
        assert set(row["hparams"]) == columns and row["hparams"].items() >= trial.params.items()
        assert row["sessions"][0]["status"] == "STATUS_SUCCESS"
        step, value = metrics_of(row)["accuracy/val"]
        assert step == max(trial.intermediate_values) and value == pytest.approx(trial.value)
    with serving("optuna-dashboard", str(journal)) as url:
        (study,) = wait_for(lambda: request(f"{url}/api/studies"), bool)["study_summaries"]
        assert (study["study_name"], study["directions"]) == ("run", ["maximize"])
        shown = request(f"{url}/api/studies/{study['study_id']}")
    check_dashboard(shown, trials)
    best = max(trial.value for trial in trials if trial.state == TrialState.COMPLETE)
    assert [trial["values"] for trial in shown["best_trials"]] == [[best]]
    assert journal.read_bytes() == before and sorted(directory.rglob("*")) == files
