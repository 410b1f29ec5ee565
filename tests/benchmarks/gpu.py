"""What one GPU gives within `--minutes`, the most important first: each figure is printed as soon as it is there.

    python tests/benchmarks/gpu.py [--dataset folder:PATH] [--minutes 6.5] [--json FILE]

Needs no network. First the images per second of one trial of configs/cifar10-gpu.yaml over its bare steps on one
resident batch, as training_step.py measures it. Then trial 0 of that config, trained to its end. Then the images per
second of 1, 2 and 4 processes that train it at the same time. What is left of the time goes to a search: how many
trials end, the test accuracy of its winner, and the GPU's busy share as nvidia-smi reports it, from the first epoch to
the last. `--device cpu` goes the same way without a GPU, to try the command.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from busy import epoch_intervals
from training_step import gemm_rate, measure, noise, table

from search.config import load_config
from training import TrialConfig, load_data, new_state, train
from training.data import batch_loader
from training.loop import train_epoch

ROOT = Path(__file__).parents[2]
SHARING = (1, 2, 4)  # processes
SECONDS_BETWEEN_SAMPLES = 0.5
LEAST_SECONDS = 90.0  # that a search and the evaluation of its winner need
EVALUATION_SECONDS = 30.0


def train_for(config: str, images: int, device: str, seconds: float, barrier: Any, rates: Any) -> None:
    """One of the processes that share the device: whole epochs, for so many seconds."""
    torch.set_num_threads(1)
    trial, data = TrialConfig.model_validate_json(config), noise(images)
    loader = batch_loader(data.train, trial.train.batch_size, device, torch.Generator())
    train_epoch(new_state(trial, data, device), data, loader)
    barrier.wait()
    started, trained = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        train_epoch(new_state(trial, data, device), data, loader)
        trained += images
    rates.put(trained / (time.perf_counter() - started))


def shared_rate(count: int, config: TrialConfig, options: argparse.Namespace) -> float:
    """Images per second of all processes together."""
    context = mp.get_context("spawn")
    barrier, rates = context.Barrier(count), context.Queue()
    arguments = (config.model_dump_json(), options.images, options.device, options.seconds, barrier, rates)
    processes = [context.Process(target=train_for, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    total = sum(rates.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    return total


@dataclass(frozen=True)
class TrialZero:
    """A training of the config itself on the device."""

    epochs: int
    seconds: float
    val_accuracy: float


def train_trial_zero(config: TrialConfig, device: torch.device) -> TrialZero:
    data = load_data(config.data)
    started = time.perf_counter()
    results = list(train(new_state(config, data, device), data))
    return TrialZero(len(results), time.perf_counter() - started, results[-1].val_accuracy)


@dataclass(frozen=True)
class Search:
    """A search on the device, in the time that was left."""

    trials: int  # that trained an epoch
    wall_seconds: float
    epochs: int
    test_accuracy: float
    gpu_busy: float | None  # in [0, 1]; None where there is no nvidia-smi


def run_search(options: argparse.Namespace, seconds: float) -> Search:
    with tempfile.TemporaryDirectory() as temporary, sampled_utilisation() as samples:
        place = Path(temporary)
        flags = ["--config", str(options.config), "--dataset", options.dataset, "--data-dir", options.data_dir]
        flags += ["--time-budget", f"{seconds - EVALUATION_SECONDS:.0f}s", "--runs-dir", temporary, "--name", "run"]
        flags += ["--num-samples", str(options.trials)] if options.trials else []
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
        started = time.time()
        searched = [sys.executable, str(ROOT / "run_search.py"), *flags]
        run_quietly(searched, place, environment)
        wall_seconds = time.time() - started
        evaluated = [sys.executable, "-m", "analysis", str(place / "run"), "--data-dir", options.data_dir]
        run_quietly(evaluated, place, environment)
        metrics = json.loads((place / "run" / "report" / "test_metrics.json").read_text())
        intervals = epoch_intervals(place / "run")
    epochs = [epoch for trial in intervals.values() for epoch in trial]
    begin, end = min(start for start, _ in epochs), max(stop for _, stop in epochs)
    during = [share for moment, share in samples if begin <= moment <= end]
    busy = statistics.fmean(during) if during else None
    return Search(len(intervals), wall_seconds, len(epochs), metrics["winner"]["test_accuracy"], busy)


def run_quietly(command: list[str], place: Path, environment: dict[str, str]) -> None:
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    done = subprocess.run(command, cwd=place, env=environment, **pipes)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")


@contextlib.contextmanager
def sampled_utilisation() -> Iterator[list[tuple[float, float]]]:
    """(time, share of time in which a kernel ran) from nvidia-smi; stays empty where there is none."""
    samples: list[tuple[float, float]] = []
    over = threading.Event()
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0"]

    def sample() -> None:
        while not over.wait(SECONDS_BETWEEN_SAMPLES):
            with contextlib.suppress(OSError, ValueError, subprocess.CalledProcessError):
                answer = subprocess.run(query, capture_output=True, text=True, check=True)
                samples.append((time.time(), float(answer.stdout) / 100))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "cifar10-gpu.yaml")
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--minutes", type=float, default=6.5, help="for everything")
    parser.add_argument("--trials", type=int, help="of the search, at most")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=37_500)
    parser.add_argument("--seconds", type=float, default=8.0, help="of training by processes that share the device")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started = time.monotonic()
    options.config, options.data_dir = options.config.resolve(), str(Path(options.data_dir).resolve())
    device = torch.device(options.device)
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    given = {"data.dataset": options.dataset, "data.data_dir": options.data_dir}
    config = load_config(options.config, given).base
    found: dict[str, Any] = {"device": name}

    def keep(what: str, figures: Any, words: str) -> None:
        found[what] = figures
        print(f"{time.monotonic() - started:4.0f} s  {words}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))

    gemm = gemm_rate(device)
    keep("gemm", gemm, f"{name}: matrix product {gemm / 1e12:,.1f} TFLOP/s")
    step = measure(options.config.stem, config, noise(options.images), device, options.rounds, gemm)
    keep("step", asdict(step), f"a trial against its ceiling\n\n{table([step])}\n")
    zero = train_trial_zero(config, device)
    words = f"trial 0: {zero.epochs} epochs in {zero.seconds:.1f} s, val accuracy {zero.val_accuracy:.2%}"
    keep("trial_0", asdict(zero), words)
    rates: dict[int, float] = {}
    for count in SHARING:
        rates[count] = shared_rate(count, config, options)
        together = f"{rates[count]:,.0f} images/s together, {rates[count] / rates[1]:.2f} times one"
        keep("shared", rates, f"{count} at a time: {together}")
    left = 60 * options.minutes - (time.monotonic() - started)
    if left < LEAST_SECONDS:
        print(f"no search: {left:.0f} s are left, and it needs {LEAST_SECONDS:.0f}")
        return
    search = run_search(options, left)
    busy = "unknown" if search.gpu_busy is None else f"{search.gpu_busy:.0%}"
    words = (
        f"search: {search.trials} trials, {search.epochs} epochs in {search.wall_seconds:.0f} s, "
        f"test accuracy {search.test_accuracy:.2%}, GPU busy {busy}"
    )
    keep("search", asdict(search), words)


if __name__ == "__main__":
    main()
