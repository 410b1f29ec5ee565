"""A search whose trials are harmed: `python tests/programs/faulty_search.py HARM PLACE [run_search arguments]`.

HARM is the name of a function at the end, which the workers run in place of the real trainable; PLACE is the directory
that holds `runs` and in which harm that was done is noted. Ray pickles functions of a main program by value.
"""

import itertools
import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.fs
import ray
import torch
from ray.train._internal.session import _TrainSession

import run_search
import search.workers.tuner
import training.loop
from search.workers.trainable import trainable
from training import TrialConfig
from training.data import TrainData

PLACE = Path(sys.argv[2])
STEPS = 32  # of an epoch: 1,013 images of digits in batches of 32


def once(event: str) -> bool:
    """Whether it has not happened yet, in any process; now it has."""
    try:
        (PLACE / event).touch(exist_ok=False)
        return True
    except FileExistsError:
        return False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_once(event: str) -> None:
    if once(event):
        die()


@contextmanager
def at_step(step: int, harm: Callable[[], None]) -> Iterator[None]:
    """Do harm at a step of training, counted from 1, from the start of the trial or from where it goes on."""
    loss, steps = training.loop.cross_entropy, itertools.count(1)

    def cross_entropy(*arguments: Any, **options: Any) -> torch.Tensor:
        if next(steps) == step:
            harm()
        return loss(*arguments, **options)

    with mock.patch.object(training.loop, "cross_entropy", cross_entropy):
        yield


@contextmanager
def dying_in_the_midst_of_a_copy() -> Iterator[None]:
    """Of the second checkpoint: half of its weights are there."""
    copy_files = pyarrow.fs.copy_files

    def copy_half(source: str, destination: str, **options: Any) -> None:
        if destination.endswith("checkpoint_000001") and once("copying"):
            Path(destination).mkdir(parents=True, exist_ok=True)
            content = Path(source, "weights.pt").read_bytes()
            Path(destination, "weights.pt").write_bytes(content[: len(content) // 2])
            die()
        copy_files(source, destination, **options)

    with mock.patch.object(pyarrow.fs, "copy_files", copy_half):
        yield


def die_before_the_next_trial() -> None:
    """As soon as the worker is given another one: not one that goes on after a harm of its own, its last retry."""
    reset = _TrainSession.reset

    def reset_or_die(*arguments: Any, **options: Any) -> None:
        if all(len(list(PLACE.glob(f"attempt {number} *"))) == 2 for number in (6, 7)):
            die_once("between trials")
        reset(*arguments, **options)

    mock.patch.object(_TrainSession, "reset", reset_or_die).start()


def damage_checkpoints(number: int) -> None:
    """Truncate the second of trial 6; of trial 7 replace the first by another trial's and ruin the second; die."""
    if once(f"damage {number}"):
        first, second = sorted(PLACE.glob(f"runs/run/trial_{number:04d}_*/checkpoint_*"))
        if number == 6:
            os.truncate(second / "weights.pt", 1000)
        else:
            shutil.rmtree(first)
            shutil.copytree(next(PLACE.glob("runs/run/trial_0000_*/checkpoint_*")), first)
            (second / "meta.json").write_text("{")
        die()


@contextmanager
def little_memory() -> Iterator[None]:
    """Half a GiB more than this process has."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


# Harms: each trains a trial, or does not


def many_ways(params: dict[str, Any], data: TrainData) -> None:
    """Another one for each of the first eight trials; a worker of the next ones dies as it changes trials."""
    number = params["number"]
    harm: AbstractContextManager[None] = nullcontext()
    (PLACE / f"attempt {number} {time.monotonic_ns()}").touch()
    match number:
        case 0:
            harm = at_step(5, lambda: die_once("first epoch"))
        case 1:
            harm = at_step(STEPS + 10, lambda: die_once("second epoch"))
        case 2:
            harm = dying_in_the_midst_of_a_copy()
        case 3:
            die()
        case 4:
            with little_memory():
                torch.zeros(2**31)
        case 5:  # as drawn from a space that reaches too far
            config = TrialConfig.model_validate_json(params["trial_config"])
            exploding = config.override({"optimizer.learning_rate": 1e30})
            params = {**params, "trial_config": exploding.model_dump_json()}
        case 6 | 7:
            harm = at_step(2 * STEPS + 10, lambda: damage_checkpoints(number))
        case _:
            die_before_the_next_trial()
    with harm:
        trainable(params, data)


def fill_the_machine(params: dict[str, Any], data: TrainData) -> None:
    """With 4 GB, by trial 1."""
    number = params["number"]
    if number == 1:
        (PLACE / f"attempt {number} {time.monotonic_ns()}").touch()
        blocks = []
        for _ in range(80):
            blocks.append(bytearray(b"1") * (50 * 2**20))
            time.sleep(0.1)
        time.sleep(100)
    trainable(params, data)


def wait_in_the_second_epoch(params: dict[str, Any], data: TrainData) -> None:
    """Until the test says so."""

    def wait() -> None:
        (PLACE / f"waits {params['number']}").touch()  # so Ray has heard of the checkpoint of the first
        while not (PLACE / "go on").exists():
            time.sleep(0.05)

    with at_step(STEPS + 10, wait):
        trainable(params, data)


def note_the_node(params: dict[str, Any], data: TrainData) -> None:
    """On which it trains, and wait for trials on three: else a short one is over before all workers have started."""
    shutil.rmtree(PLACE / "photos", ignore_errors=True)  # so that the data has come from the driver
    (PLACE / f"{params['number']} on {ray.get_runtime_context().get_node_id()}").touch()
    end = time.monotonic() + 120
    while len({note.name.split()[-1] for note in PLACE.glob("* on *")}) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    trainable(params, data)


if __name__ == "__main__":
    search.workers.tuner.trainable = globals()[sys.argv[1]]
    sys.exit(run_search.main(sys.argv[3:]))
