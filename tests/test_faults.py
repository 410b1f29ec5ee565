"""What goes wrong around a search, really caused: dead workers and nodes, no memory, damaged files, exploding losses.

Searches run in their own process with a trainable that does harm to certain trials and else calls the real one. What a
trial must come to is what training by hand with the same config and seed gives.
"""

import contextlib
import dataclasses
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import optuna
import pyarrow.fs
import pytest
import torch
from bucket import bucket
from hypothesis import given
from hypothesis import strategies as st
from local_cluster import local_cluster
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from ray import tune
from soak import check, growth, soak

import run_search
import search.workers.tuner
import training.loop
from search.config import SearchConfig, load_config
from search.record.environment import record_environment
from search.record.journal import check_journal, open_study
from search.record.run_directory import CONFIG, ENVIRONMENT, JOURNAL, SearchError, locked
from search.record.storage import StorageError, open_url
from search.workers.trainable import starting_state
from training import TrialConfig, load_data, new_state, save_checkpoint, train
from training.data import TrainData
from training.model import ConvNet

PROJECT = Path(__file__).parents[1]
PRELUDE = """
import os, resource, shutil, signal, sys, time
from pathlib import Path
from unittest import mock

import pyarrow.fs, torch
import run_search, search.workers.tuner, training.loop
from training import TrialConfig
from ray.train._internal.session import _TrainSession

real, PLACE = search.workers.tuner.trainable, Path({place!r})

def once(event):
    try:
        (PLACE / event).touch(exist_ok=False)
        return True
    except FileExistsError:
        return False

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def at_step(step, harm):  # counted from 1, from the start of the trial or from where it goes on
    loss, seen = training.loop.cross_entropy, []
    def cross_entropy(*arguments, **options):
        seen.append(1)
        if len(seen) == step:
            harm()
        return loss(*arguments, **options)
    return mock.patch.object(training.loop, "cross_entropy", cross_entropy)

def checkpoints(number):
    return sorted(PLACE.glob(f"runs/run/trial_{{number:04d}}_*/checkpoint_*"))
"""
EPILOGUE = """
if __name__ == "__main__":
    search.workers.tuner.trainable = trainable
    sys.exit(run_search.main(sys.argv[1:]))
"""
QUICK_CONFIG = PROJECT / "configs" / "quick.yaml"
QUICK = ["--config", str(QUICK_CONFIG), "--name", "run", "--sampler", "random"]
FULL = ["--scheduler", "none"]
STEPS = 32  # of an epoch: 1,013 images of digits in batches of 32
STOP_IN_SECOND_EPOCH = f"""
    def wait():
        (PLACE / f"waits {{number}}").touch()  # so Ray has heard of the checkpoint of the first
        while not (PLACE / "go on").exists():
            time.sleep(0.05)
    with at_step({STEPS} + 10, wait):
        real(params, data)
    """
TRAINED = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "diverged")


@dataclass
class Ended:
    """A search that has ended: its run directory and what it said."""

    run: Path
    output: str
    code: int

    @property
    def trials(self) -> list[FrozenTrial]:
        study = read_study(self.run)
        return [trial for trial in study.trials if trial.user_attrs.get("stopped_by") != "infeasible"]

    def happened_at(self, event: str) -> float:
        """When a harm was done, which it must have been."""
        return (self.run.parents[1] / event).stat().st_mtime

    def attempts(self, number: int) -> int:
        """How often a trial was begun, where its harm notes that."""
        return len(list(self.run.parents[1].glob(f"attempt {number} *")))

    def meta(self, number: int) -> dict[str, Any]:
        """meta.json of the checkpoint that got furthest."""
        metas = []
        for file in self.run.glob(f"trial_{number:04d}_*/checkpoint_*/meta.json"):
            with contextlib.suppress(ValueError):
                metas.append(json.loads(file.read_text()))
        return max(metas, key=lambda meta: len(meta["results"]))

    def results(self, number: int) -> list[dict[str, Any]]:
        return list(self.meta(number)["results"])


def command(place: Path, harm: str, *arguments: str) -> list[str]:
    """A search whose trainable is `harm`: the body of `trainable(params, data)`, where `number` is the trial's."""
    body = "number = params['number']\n" + textwrap.dedent(harm)
    program = PRELUDE.format(place=str(place)) + "\ndef trainable(params, data):\n" + textwrap.indent(body, "    ")
    (place / "search_with_faults.py").write_text(program + EPILOGUE)
    return [sys.executable, "search_with_faults.py", *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PROJECT), **more}


def run_faulty(place: Path, harm: str, *arguments: str, settings: Mapping[str, str] | None = None) -> Ended:
    done = subprocess.run(
        command(place, harm, *arguments),
        cwd=place,
        env=environment(**(settings or {})),
        capture_output=True,
        text=True,
        timeout=280,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert "Traceback" not in output
    return Ended(place / "runs" / "run", output, done.returncode)


def read_study(run: Path) -> optuna.Study:
    return optuna.load_study(study_name="run", storage=JournalStorage(JournalFileBackend(str(run / "study.journal"))))


def by_hand(ended: Ended, number: int) -> list[dict[str, Any]]:
    """What training the config of a trial gives without any search, on one thread."""
    torch.set_num_threads(1)
    config = TrialConfig.model_validate(ended.meta(number)["config"])
    data = load_data(config.data)
    return [{key: vars(result)[key] for key in TRAINED} for result in train(new_state(config, data), data)]


def check_equal_to_uninterrupted(ended: Ended, number: int) -> None:
    """To the bit, in the newest checkpoint and in the study."""
    reference = by_hand(ended, number)
    assert [{key: result[key] for key in TRAINED} for result in ended.results(number)] == reference
    trial = read_study(ended.run).trials[number]
    assert trial.intermediate_values == {result["epoch"]: result["val_accuracy"] for result in reference}
    assert trial.value == reference[-1]["val_accuracy"]


def check_all_complete(ended: Ended, num_samples: int) -> None:
    assert len({trial.number for trial in ended.trials}) == len(ended.trials) == num_samples
    assert [trial.state for trial in ended.trials] == [TrialState.COMPLETE] * num_samples


def timestamp(result: dict[str, Any]) -> float:
    return datetime.fromisoformat(result["finished_at"]).timestamp()


# One search in which trials are harmed in nine ways, each by what their test says

HARMS = f"""
    def copy_half(source, destination, **options):
        if destination.endswith("checkpoint_000001") and once("copying"):
            os.makedirs(destination, exist_ok=True)
            content = Path(source, "weights.pt").read_bytes()
            Path(destination, "weights.pt").write_bytes(content[: len(content) // 2])
            die()
        return copy_files(source, destination, **options)

    def damage():
        if once(f"damage {{number}}"):
            first, second = checkpoints(number)
            if number == 7:
                os.truncate(second / "weights.pt", 1000)
            elif number == 8:
                (first / "state.pt").write_bytes(b"garbage")
                (second / "meta.json").write_text("{{")
            else:
                for place in (first, second):
                    shutil.rmtree(place)
                    shutil.copytree(checkpoints(0)[-1], place)
            die()

    def take_all_memory():
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, resource.RLIM_INFINITY))
        blocks = []
        try:
            if number == 5:
                torch.zeros(2**31)
            while True:
                blocks.append(bytes(10 * 2**20))
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    (PLACE / f"attempt {{number}} {{time.monotonic_ns()}}").touch()
    copy_files = pyarrow.fs.copy_files
    config = TrialConfig.model_validate_json(params["trial_config"])
    exploding = config.override({{"optimizer.learning_rate": 1e30}})  # as drawn from a space that reaches too far
    harms = {{
        0: lambda: at_step(5, lambda: once("first epoch") and die()),
        1: lambda: at_step({STEPS} + 10, lambda: once("second epoch") and die()),
        2: lambda: mock.patch.object(pyarrow.fs, "copy_files", copy_half),
        3: lambda: die(),
        4: take_all_memory,
        5: take_all_memory,
        6: lambda: mock.patch.object(TrialConfig, "model_validate_json", lambda text: exploding),
    }}
    harms |= dict.fromkeys((7, 8, 9), lambda: at_step(2 * {STEPS} + 10, damage))
    with harms.get(number, mock.MagicMock)():
        real(params, data)
    """
FAILS = {3, 4, 5}


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Its trials may be tried again once."""
    plain = ["model.batch_norm=false", "optimizer.name=sgd", "resources.max_failures=1"]  # such a loss can explode
    arguments = ["--num-samples", "11", *(word for value in plain for word in ("--set", value))]
    return run_faulty(tmp_path_factory.mktemp("harmed"), HARMS, *QUICK, *FULL, *arguments)


@pytest.mark.slow
def test_a_search_goes_on_whatever_happens_to_its_trials(harmed: Ended) -> None:
    expected = ["FAIL" if number in FAILS else "PRUNED" if number == 6 else "COMPLETE" for number in range(11)]
    assert [trial.state.name for trial in harmed.trials] == expected
    check_equal_to_uninterrupted(harmed, 10)  # which nothing happened to


# Workers


@pytest.mark.slow
def test_workers_that_die_cost_no_trial_and_no_epoch_that_was_saved(harmed: Ended) -> None:
    """Killed before the first epoch, in the midst of a later one, and while a checkpoint is copied."""
    for number in range(3):
        check_equal_to_uninterrupted(harmed, number)
    assert timestamp(harmed.results(0)[0]) > harmed.happened_at("first epoch")
    for number, event in ((1, "second epoch"), (2, "copying")):
        first, second, _ = harmed.results(number)
        assert timestamp(first) < harmed.happened_at(event) < timestamp(second)  # the first was not trained again


@pytest.mark.slow
def test_a_worker_that_dies_as_it_changes_from_one_trial_to_the_next_costs_neither(tmp_path: Path) -> None:
    """The new trial has lost one of its retries, not two: Ray tells of such a death twice."""
    harm = """
        reset = _TrainSession.reset
        def reset_or_die(*arguments, **options):
            once("between trials") and die()
            return reset(*arguments, **options)
        mock.patch.object(_TrainSession, "reset", reset_or_die).start()
        real(params, data)
        """
    arguments = ["--num-samples", "3", "--max-concurrent", "1", "--set", "resources.max_failures=1"]
    ended = run_faulty(tmp_path, harm, *QUICK, *FULL, *arguments)
    assert ended.happened_at("between trials")
    check_all_complete(ended, 3)


@pytest.mark.slow
def test_a_trial_that_kills_its_worker_every_time_fails_with_a_reason(harmed: Ended) -> None:
    assert harmed.attempts(3) == 2
    reason = harmed.trials[3].user_attrs["reason"]
    assert "worker" in reason and "died" in reason and reason in harmed.output.replace("\n", " ")


# Memory


def memory_threshold(more_bytes: int) -> float:
    """The used share of this machine's memory, were so much more in use."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    sizes = {words[0]: int(words[1]) * 1024 for words in lines}
    return 1 - (sizes["MemAvailable:"] - more_bytes) / sizes["MemTotal:"]


@pytest.mark.slow
def test_a_trial_that_fills_the_machine_fails_as_out_of_memory_and_the_search_goes_on(tmp_path: Path) -> None:
    """Ray's memory monitor ends its worker, at 2.5 GiB above what was in use before; the search takes one of them."""
    threshold = memory_threshold(5 * 2**29)
    if threshold > 0.95:
        pytest.skip("too little memory is free to fill some of it")
    harm = """
        if number == 1:
            (PLACE / f"attempt {number} {time.monotonic_ns()}").touch()
            blocks = []
            while len(blocks) < 80:
                blocks.append(bytearray(b"1") * (50 * 2**20))
                time.sleep(0.1)
            time.sleep(100)
        real(params, data)
        """
    monitor = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    arguments = ["--num-samples", "3", "--max-concurrent", "1", "--set", "resources.max_failures=1"]
    ended = run_faulty(tmp_path, harm, *QUICK, *FULL, *arguments, settings=monitor)
    assert [trial.state.name for trial in ended.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert ended.attempts(1) == 2
    reason = ended.trials[1].user_attrs["reason"]
    assert "out of memory: Ray ended the worker" in reason and reason in ended.output.replace("\n", " ")


@pytest.mark.slow
def test_a_worker_that_gets_no_memory_fails_its_trial_as_out_of_memory(harmed: Ended) -> None:
    """By the limit of a process's address space, asked for by Python, and by torch, which asks for all at once."""
    for number, what in ((4, "MemoryError"), (5, "allocate")):
        reason = harmed.trials[number].user_attrs["reason"]
        assert reason.startswith("out of memory: ") and what in reason
        assert harmed.attempts(number) == 2


# Nodes


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_is_lost_with_two_trials_costs_none(tmp_path: Path) -> None:
    """A head with one core and a node with two: three trials at a time, then one."""
    with local_cluster(tmp_path / "cluster") as cluster:
        cluster.start_head(num_cpus=1)
        node = cluster.start_node(num_cpus=2)
        arguments = [*QUICK, *FULL, "--num-samples", "4", "--address", cluster.address]
        log = (tmp_path / "log").open("w+")
        driver = subprocess.Popen(
            command(tmp_path, STOP_IN_SECOND_EPOCH, *arguments),
            cwd=tmp_path,
            env=environment(**cluster.environment),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            run = tmp_path / "runs" / "run"
            wait_for(lambda: all((tmp_path / f"waits {number}").exists() for number in range(3)), driver)
            killed_at = time.time()
            cluster.kill(node)
            (tmp_path / "go on").touch()
            code = driver.wait(timeout=300)
        finally:
            driver.kill()
        log.seek(0)
        ended = Ended(run, log.read(), code)
    assert code == 0 and "Traceback" not in ended.output, ended.output
    check_all_complete(ended, 4)
    for number in range(3):
        check_equal_to_uninterrupted(ended, number)
        assert timestamp(ended.results(number)[0]) < killed_at  # not trained again


def wait_for(condition: Callable[[], bool], driver: subprocess.Popen[bytes], seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end and driver.poll() is None, "what was waited for has not come"
        time.sleep(0.05)


# Checkpoints


@pytest.mark.slow
def test_damaged_checkpoints_are_passed_over_by_a_worker_that_starts_again(harmed: Ended) -> None:
    """One truncated and one intact, all garbage or gone, and those of other trials: the final curves are the same."""
    for number in (7, 8, 9):
        check_equal_to_uninterrupted(harmed, number)
        damaged_at = harmed.happened_at(f"damage {number}")
        started_over = number != 7  # which went on from its first epoch
        assert (timestamp(harmed.results(number)[0]) > damaged_at) == started_over
    said = {number: re.findall(rf"^trial {number}: .*", harmed.output, re.MULTILINE) for number in (7, 8, 9)}
    assert [len(lines) for lines in said.values()] == [1, 2, 2]
    named = ["checkpoint_000001/weights.pt", "checkpoint_000001/meta.json", "checkpoint_000000/state.pt"]
    assert all(name in line for name, line in zip(named, said[7] + said[8], strict=True))
    assert all("another trial's" in line for line in said[9])


@pytest.mark.slow
def test_damaged_checkpoints_are_passed_over_on_resume(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "run"
    driver = subprocess.Popen(
        command(tmp_path, STOP_IN_SECOND_EPOCH, *QUICK, *FULL, "--num-samples", "2"),
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: all((tmp_path / f"waits {number}").exists() for number in range(2)), driver)
    finally:
        driver.kill()
        driver.wait()
    assert [trial.state for trial in read_study(run).trials] == [TrialState.RUNNING] * 2
    damaged_at = time.time()
    for number, name in ((0, "weights.pt"), (1, "meta.json")):  # all of both trials
        for file in run.glob(f"trial_{number:04d}_*/*/{name}"):
            file.write_bytes(file.read_bytes()[:-40])
    ended = run_faulty(tmp_path, "real(params, data)", "--resume", "runs/run")  # workers of the first may still wait
    check_all_complete(ended, 2)
    for number, name in ((0, "weights.pt"), (1, "meta.json")):
        check_equal_to_uninterrupted(ended, number)
        assert re.search(rf"^trial {number}: .*trial_000{number}_.*{name}", ended.output, re.MULTILINE)
        assert timestamp(ended.results(number)[0]) > damaged_at  # it started over


def test_a_worker_passes_over_damaged_checkpoints_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, data = small_training()
    state = new_state(config, data)
    with bucket() as place:
        for name, value in place.environment.items():
            monkeypatch.setenv(name, value)
        system, root = open_url(place.url("run/trial_0007_x"))
        checkpoints = [tune.Checkpoint(f"{root}/checkpoint_00000{index}", system) for index in range(3)]
        for checkpoint, _ in zip(checkpoints, train(state, data), strict=False):
            save_checkpoint(state, tmp_path / "here", number=7)
            pyarrow.fs.copy_files(str(tmp_path / "here"), checkpoint.path, destination_filesystem=system)
        params = {"number": 7, "trial_config": config.model_dump_json(), "start_from": None, "storage_timeout": 0.0}
        monkeypatch.setattr(tune, "get_checkpoint", lambda: checkpoints[-1])
        device = torch.device("cpu")
        for intact in (2, 1, 0, -1):
            found, passed_over = starting_state(params, data, device)
            assert found.results == state.results[: intact + 1]
            assert all(
                f"run/trial_0007_x/checkpoint_00000{index}" in line
                for index, line in zip((2, 1, 0), passed_over, strict=False)
            )
            assert len(passed_over) == 2 - intact
            if intact == 2:
                system.delete_dir(checkpoints[2].path)
            elif intact >= 0:
                with system.open_output_stream(f"{checkpoints[intact].path}/weights.pt") as stream:
                    stream.write(b"garbage")


def test_a_worker_that_starts_again_waits_for_the_directory_of_its_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file system that is away for a moment is no damaged checkpoint: what was trained is not trained again."""
    config, data = small_training()
    state, place, away = new_state(config, data), tmp_path / "trial_0007_x", tmp_path / "away"
    next(iter(train(state, data)))
    save_checkpoint(state, place / "checkpoint_000000", number=7)
    params = {"number": 7, "trial_config": config.model_dump_json(), "start_from": None, "storage_timeout": 60.0}
    checkpoint = tune.Checkpoint(str(place / "checkpoint_000000"))
    for newest, start_from in ((checkpoint, None), (None, checkpoint.path)):
        monkeypatch.setattr(tune, "get_checkpoint", lambda newest=newest: newest)
        place.rename(away)
        threading.Timer(0.5, away.rename, [place]).start()
        found, passed_over = starting_state({**params, "start_from": start_from}, data, torch.device("cpu"))
        assert found.results == state.results and not passed_over
        assert "answers again" in capsys.readouterr().out
    place.rename(away)
    with pytest.raises(StorageError, match="does not answer"):
        starting_state({**params, "start_from": checkpoint.path, "storage_timeout": 0.0}, data, torch.device("cpu"))


def small_training() -> tuple[TrialConfig, TrainData]:
    """Three epochs on 150 digits of 8 x 8 pixels."""
    config = TrialConfig().override(
        {
            "data.dataset": "digits",
            "data.image_size": 8,
            "data.crop_padding": 1,
            "model.depth": 1,
            "model.width": 4,
            "optimizer.learning_rate": 0.01,
            "train.epochs": 3,
            "train.batch_size": 32,
        }
    )
    data = load_data(config.data)
    few = {name: getattr(data, name).subset(np.arange(count)) for name, count in (("train", 150), ("val", 60))}
    return config, dataclasses.replace(data, **few)


# The journal


def new_search(place: Path, name: str, config: SearchConfig, values: Sequence[float]) -> Path:
    """A run directory whose study holds a trial with one epoch for each value, and one that runs."""
    run = place / "runs" / name
    run.mkdir(parents=True)
    (run / CONFIG).write_text(config.to_yaml())
    record_environment(run, ["run_search.py", "--name", name])
    with locked(run):
        study = open_study(run, config)
        for value in [*values, None]:
            trial = study.ask()
            config.search_space.suggest(trial)
            if value is not None:
                trial.report(value, 1)
                study.tell(trial, value)
            (run / f"trial_{trial.number:04d}_x").mkdir()
    return run


def resume(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and errors of --resume, up to where training would begin."""

    class BegunError(SearchError):
        pass

    def begin(*_: Any) -> None:
        raise BegunError("training would begin")

    monkeypatch.setattr(search.workers.tuner, "workers", lambda *_: contextlib.nullcontext(mock.MagicMock()))
    monkeypatch.setattr(search.workers.tuner, "run_trials", begin)
    code = run_search.main(["--resume", str(run)])
    return code, capsys.readouterr().err


def flip_a_bit(content: bytes, draw: random.Random) -> bytes:
    position = draw.randrange(len(content))
    return content[:position] + bytes([content[position] ^ 1 << draw.randrange(8)]) + content[position + 1 :]


def two_lines_swapped(content: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[:1], *lines[4:], *lines[1:4]])


JOURNAL_HARMS: dict[str, tuple[Callable[[bytes, bytes], bytes], str]] = {
    "a line of another file": (lambda own, _: own.replace(b"\n", b"\nepoch,val_accuracy\n", 1), "line 2 of"),
    "a line of JSON": (lambda own, _: own.replace(b"\n", b'\n{"epoch": 1}\n', 1), "line 2 of"),
    "a list": (lambda own, _: own.replace(b"\n", b"\n[1, 2]\n", 1), "line 2 of"),
    "zeros in the middle": (lambda own, _: own[:300] + bytes(40) + own[340:], "no entry of a journal"),
    "binary": (lambda own, _: bytes(range(128, 256)) * 40, "is damaged"),
    "a picture": (lambda own, _: b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "is damaged"),
    "a line lost": (lambda own, _: own.partition(b"\n")[2], "it holds no study"),
    "an unknown operation": (lambda own, _: own.replace(b'"op_code":4', b'"op_code":94', 1), "is damaged"),
    "a field lost": (lambda own, _: own.replace(b'"distribution"', b'"distri_ution"', 1), "is damaged"),
    "lines in another order": (lambda own, _: two_lines_swapped(own), "is damaged"),
    "nothing": (lambda own, _: b"", "is empty"),
    "the beginning": (lambda own, _: own[: own.index(b'"op_code":4')].rpartition(b"\n")[0] + b"\n", "is empty"),
    "another search's": (lambda own, other: other, "is another search's"),
    "two studies": (lambda own, other: own + other.replace(b'"study_id":0', b'"study_id":1'), "holds 2 studies"),
}


@pytest.mark.parametrize("harm", JOURNAL_HARMS)
@pytest.mark.parametrize("torn", [b"", b'{"op_code":'], ids=["whole", "torn"])
def test_a_damaged_journal_is_refused_by_name_and_left_as_it_is(
    harm: str, torn: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = load_config(QUICK_CONFIG)
    run, other = (new_search(tmp_path, name, config, (0.25, 0.5)) for name in ("run", "other"))
    assert "training would begin" in resume(run, monkeypatch, capsys)[1]
    damage, message = JOURNAL_HARMS[harm]
    content = damage((run / JOURNAL).read_bytes(), (other / JOURNAL).read_bytes())
    if harm not in ("binary", "a picture"):
        content += torn
    (run / JOURNAL).write_bytes(content)
    code, errors = resume(run, monkeypatch, capsys)
    assert code == 2 and str(run / JOURNAL) in errors and message in errors and "Restore it from a copy" in errors
    assert "training would begin" not in errors
    assert (run / JOURNAL).read_bytes() == content


def test_a_directory_in_the_journals_place_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_search(tmp_path, "run", load_config(QUICK_CONFIG), (0.5,))
    (run / JOURNAL).unlink()
    (run / JOURNAL).mkdir()
    code, errors = resume(run, monkeypatch, capsys)
    assert code == 2 and str(run / JOURNAL) in errors and "training would begin" not in errors


def test_the_journal_of_another_space_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where nothing records which search it is of, which costs an intact one nothing."""
    config = load_config(QUICK_CONFIG)
    wider = load_config(QUICK_CONFIG, {"space.model.depth": {"int": [1, 4]}})
    run, other = new_search(tmp_path, "run", config, (0.5,)), new_search(tmp_path, "other", wider, (0.5,))
    for _ in range(2):
        (run / ENVIRONMENT).unlink(missing_ok=True)
        for _ in range(2):
            assert "training would begin" in resume(run, monkeypatch, capsys)[1]
    (run / ENVIRONMENT).unlink()
    shutil.copy(other / JOURNAL, run / JOURNAL)
    code, errors = resume(run, monkeypatch, capsys)
    assert code == 2 and "another search's: its trial 0 has model.depth from" in errors


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bits_in_a_journal_are_refused_or_change_one_entry_at_most(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A digit that becomes another digit is a value like any other; nothing else may pass, and nothing may crash."""
    config, draw = load_config(QUICK_CONFIG), random.Random(seed)
    run = new_search(tmp_path, "run", config, (0.25, 0.5, 0.75))
    content = (run / JOURNAL).read_bytes()
    refused = 0
    for _ in range(25):
        flipped = flip_a_bit(content, draw)
        (run / JOURNAL).write_bytes(flipped)
        try:
            check_journal(run, config)
        except SearchError as error:
            refused += 1
            assert str(run / JOURNAL) in str(error) and "Restore it" in str(error)
            continue
        if not flipped.endswith(b"\n"):
            continue  # its last line is as good as torn
        pairs = zip(content.splitlines(), flipped.splitlines(), strict=True)
        assert sum(json.loads(before) != json.loads(after) for before, after in pairs) <= 1
    assert refused > 0
    assert (run / JOURNAL).read_bytes() == flipped


@pytest.mark.parametrize("killed_in", ["symlink", "rename"])
def test_a_lock_file_that_a_killed_process_has_left_costs_nothing(
    killed_in: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Optuna would wait half a minute for it. The process is really killed, its lock taken, or half given back."""
    run = new_search(tmp_path, "run", load_config(QUICK_CONFIG), (0.5,))
    take = f"""if True:
        import os, signal
        from optuna.storages.journal import JournalFileSymlinkLock
        real = os.{killed_in}
        def be_killed(*arguments):
            real(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        os.{killed_in} = be_killed
        lock = JournalFileSymlinkLock({str(run / JOURNAL)!r})
        lock.acquire()
        lock.release()"""
    assert subprocess.run([sys.executable, "-c", take]).returncode == -9
    (lock,) = run.glob(f"{JOURNAL}.*")
    assert lock.is_symlink()

    def refuse(seconds: float) -> None:
        raise AssertionError(f"waited for {seconds} s")

    monkeypatch.setattr(time, "sleep", refuse)
    code, errors = resume(run, monkeypatch, capsys)
    assert code == 2 and "training would begin" in errors and not lock.is_symlink()
    study = optuna.load_study(study_name="run", storage=JournalStorage(JournalFileBackend(str(run / JOURNAL))))
    study.ask()


# Losses


@given(
    where=st.sampled_from(["loss", "weights", "gradients", "images", "val images", "weights at the end"]),
    poison=st.sampled_from([math.nan, math.inf, -math.inf]),
    step=st.integers(1, 15),  # three epochs of five steps
    optimizer=st.sampled_from(["sgd", "adam", "adamw", "rmsprop"]),
    batch_norm=st.booleans(),
    checked_after=st.sampled_from([1, 50]),
)
def test_a_loss_that_is_not_finite_at_any_step_ends_training_as_diverged(
    where: str, poison: float, step: int, optimizer: str, batch_norm: bool, checked_after: int
) -> None:
    config, data = small_training()
    config = config.override(
        {"optimizer.name": optimizer, "model.batch_norm": batch_norm, "train.label_smoothing": 0.1}
    )
    state = new_state(config, data)
    seen = {"steps": 0, "val batches": 0}
    loss, evaluate_batches, forward = training.loop.cross_entropy, training.loop.evaluate, type(state.model).forward
    epoch = (step - 1) // 5 + 1

    def poisoned_loss(logits: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        seen["steps"] += 1
        value = loss(logits, *arguments, **options)
        if seen["steps"] != step or where not in ("loss", "gradients"):
            return value
        if where == "loss":
            return value * poison
        logits.register_hook(lambda gradient: gradient * poison)  # the loss itself is finite
        return value

    def poisoned_forward(model: ConvNet, images: torch.Tensor) -> torch.Tensor:
        if model.training and seen["steps"] == step - 1 and where == "weights":
            spoil(model)
        if model.training and seen["steps"] == step - 1 and where == "images":
            images = torch.full_like(images, poison, dtype=torch.float32)
        return forward(model, images)

    def poisoned_evaluate(model: torch.nn.Module, batches: Any) -> tuple[float, float]:
        if state.epoch + 1 == epoch and where == "weights at the end":
            spoil(model)
        if state.epoch + 1 == epoch and where == "val images":
            batches = ((torch.full_like(images, poison, dtype=torch.float32), labels) for images, labels in batches)
        return evaluate_batches(model, batches)

    def spoil(model: torch.nn.Module) -> None:
        with torch.no_grad():
            next(model.parameters()).fill_(poison)

    with (
        mock.patch.object(training.loop, "cross_entropy", poisoned_loss),
        mock.patch.object(training.loop, "evaluate", poisoned_evaluate),
        mock.patch.object(type(state.model), "forward", poisoned_forward),
        mock.patch.object(training.loop, "STEPS_BETWEEN_LOSS_CHECKS", checked_after),
    ):
        results = list(train(state, data))
    assert [result.epoch for result in results] == list(range(1, epoch + 1)), "nothing is trained on from it"
    last = results[-1]
    assert last.diverged and math.isnan(last.val_loss) and last.val_accuracy == 0.0
    assert not any(result.diverged for result in results[:-1])
    assert all(math.isfinite(value) for result in results[:-1] for value in (result.train_loss, result.val_loss))
    assert list(train(state, data)) == [] and state.finished


@pytest.mark.slow
def test_a_trial_whose_learning_rate_explodes_is_pruned_as_diverged(harmed: Ended) -> None:
    trial = harmed.trials[6]
    assert trial.user_attrs["stopped_by"] == "diverged" and trial.value == 0.0
    assert trial.user_attrs["reason"].startswith("the loss was not finite in epoch ")
    assert harmed.results(6)[-1]["diverged"]


# All of it, for long


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_200_trials_with_workers_that_are_killed_all_the_time_lose_none(tmp_path: Path) -> None:
    samples, kills = soak(tmp_path, num_trials=200, trials_between_kills=15)
    check(tmp_path / "runs" / "run", 200)
    assert kills >= 10
    before, after = growth(samples, "open_files")
    assert after < before + 20
    before, after = growth(samples, "memory_mib")
    assert after < before + 20
    snapshots = [file.stat().st_size for file in (tmp_path / "runs" / "run").glob("experiment_state-*.json")]
    assert snapshots and max(snapshots) < 1000  # else Ray writes all trials again at every other checkpoint
