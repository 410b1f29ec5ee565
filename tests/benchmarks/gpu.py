"""What one GPU gives: a trial against its ceiling, trials that share it, and a whole search.

    python tests/benchmarks/gpu.py [--dataset folder:PATH] [--trials 50] [--json FILE]

Needs no network. First the images per second of one trial of configs/cifar10-gpu.yaml over its bare steps on one
resident batch, as training_step.py measures it. Then those of 1, 4 and 8 processes that train it at the same time. Then
a search, with its wall time, the test accuracy of its winner, and the GPU's busy share as nvidia-smi reports it, from
the first epoch to the last. `--device cpu` goes the same way without a GPU, to try the command.
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
from training import TrialConfig, new_state
from training.data import batch_loader
from training.loop import train_epoch

ROOT = Path(__file__).parents[2]
SHARING = (1, 4, 8)
SECONDS_BETWEEN_SAMPLES = 0.5


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
class Search:
    """A whole search on the device."""

    trials: int
    wall_seconds: float
    epochs: int
    test_accuracy: float
    gpu_busy: float | None  # in [0, 1]; None where there is no nvidia-smi


def run_search(options: argparse.Namespace) -> Search:
    with tempfile.TemporaryDirectory() as temporary, sampled_utilisation() as samples:
        place = Path(temporary)
        flags = ["--config", str(options.config), "--dataset", options.dataset, "--data-dir", options.data_dir]
        flags += ["--num-samples", str(options.trials), "--runs-dir", temporary, "--name", "run"]
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
    return Search(options.trials, wall_seconds, len(epochs), metrics["winner"]["test_accuracy"], busy)


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
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=37_500)
    parser.add_argument("--seconds", type=float, default=20.0, help="of training by processes that share the device")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.config, options.data_dir = options.config.resolve(), str(Path(options.data_dir).resolve())
    device = torch.device(options.device)
    torch.set_num_threads(1)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    config = load_config(options.config).base
    gemm = gemm_rate(device)
    step = measure(options.config.stem, config, noise(options.images), device, options.rounds, gemm)
    print(f"{name}: matrix product {gemm / 1e12:,.1f} TFLOP/s\n\n{table([step])}\n", flush=True)
    rates = {count: shared_rate(count, config, options) for count in SHARING}
    for count, rate in rates.items():
        print(f"{count} at a time: {rate:,.0f} images/s together, {rate / rates[1]:.2f} times one", flush=True)
    search = run_search(options)
    busy = "unknown" if search.gpu_busy is None else f"{search.gpu_busy:.0%}"
    print(
        f"\n{search.trials} trials, {search.epochs} epochs in {search.wall_seconds:.0f} s; test accuracy "
        f"{search.test_accuracy:.2%}; GPU busy {busy}"
    )
    if options.json:
        content = {"device": name, "gemm": gemm, "step": asdict(step), "shared": rates, "search": asdict(search)}
        options.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
