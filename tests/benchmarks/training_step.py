"""Training against its ceiling: images per second of an epoch of `train`, over the network's bare steps.

    python tests/benchmarks/training_step.py [--device cuda] [--rounds 101] [--images 640] [--json FILE]

An epoch is the real one: batches by random index, augmentation, forward, backward, optimizer, schedule, metrics. The
ceiling is forward, backward and optimizer step alone, on one batch that lies on the device, with the same network,
batch size and number of steps. The two take turns every five steps, so that both meet what else the machine does, and
the figure is the median of the ratios of neighbours. The ceiling's arithmetic (two operations a multiply-add, three
passes, no gradient of the input) over the rate of a matrix product on as many threads says what is left below. The
images are noise of CIFAR-10's shape.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from search.config import load_config
from training import TrialConfig, new_state
from training.data import ImageSet, TrainData, batch_loader, channel_statistics
from training.evaluate import autocast
from training.layers import count_costs, network_layers
from training.loop import TrainState, train_epoch

ROOT = Path(__file__).parents[2]
NETWORKS = {  # of the default space, as changes to its trial 0
    "small": {"model.depth": 2, "model.width": 8},
    "medium": {},
    "large": {"model.kernel_size": 5},
}
NUM_CLASSES = 10


@dataclass(frozen=True)
class Step:
    """What training a network reaches."""

    network: str
    num_params: int
    multiply_adds: int  # of one image
    train_rate: float  # images per second
    ceiling_rate: float
    ratio: float  # median over rounds
    ratio_spread: tuple[float, float]  # the quartiles
    gemm_share: float  # of the ceiling's arithmetic in the rate of a matrix product


def noise(count: int, size: int = 32) -> TrainData:
    """Random images with random labels, as train and val."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    image_set = ImageSet(images, rng.integers(0, NUM_CLASSES, count), tuple("0123456789"))
    return TrainData(image_set, image_set, *channel_statistics(images))


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def bare_steps(state: TrainState, images: torch.Tensor, labels: torch.Tensor, count: int) -> None:
    model, optimizer = state.model, state.optimizer
    model.train()
    for _ in range(count):
        with autocast(state.device):
            logits = model(images)
        loss = cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def operations(config: TrialConfig) -> float:
    """Floating-point operations of training on one image."""
    layers = network_layers(config.model, config.data.image_shape, NUM_CLASSES)
    multiply_adds = [layer.multiply_adds for layer in layers]
    return 2.0 * (3 * sum(multiply_adds) - multiply_adds[0])


def gemm_rate(device: torch.device, rounds: int = 15) -> float:
    """Floating-point operations per second of a matrix product, in the type that training computes in; the best."""
    kind = torch.bfloat16 if device.type == "cuda" else torch.float32
    size, repeats = (8192, 20) if device.type == "cuda" else (1024, 4)
    left, right = (torch.randn(size, size, device=device, dtype=kind) for _ in range(2))

    def multiply() -> None:
        for _ in range(repeats):
            left @ right

    return repeats * 2 * size**3 / min(seconds_of(multiply, device) for _ in range(rounds))


def measure(network: str, config: TrialConfig, data: TrainData, device: torch.device, rounds: int, gemm: float) -> Step:
    """Train and ceiling of a config in turns; `gemm` is what gemm_rate gives."""
    bare = new_state(config, data, device)
    steps = len(data.train.labels) // config.train.batch_size
    loader = batch_loader(data.train, config.train.batch_size, device, torch.Generator().manual_seed(0))
    images, labels = next(iter(loader))
    images = images.contiguous(memory_format=torch.channels_last)
    rates: dict[str, list[float]] = {"train": [], "ceiling": []}
    for round_number in range(rounds + 1):
        trained = new_state(config, data, device)  # a schedule has no more steps than the config's epochs
        work = {
            "train": partial(train_epoch, trained, data, loader),
            "ceiling": partial(bare_steps, bare, images, labels, steps),
        }
        for name in list(work)[:: 1 if round_number % 2 else -1]:
            rates[name].append(steps * config.train.batch_size / seconds_of(work[name], device))
    train_rates, ceiling_rates = rates["train"][1:], rates["ceiling"][1:]  # the first warms up
    ratios = [train / ceiling for train, ceiling in zip(train_rates, ceiling_rates, strict=True)]
    ceiling_rate = statistics.median(ceiling_rates)
    low, _, high = statistics.quantiles(ratios)
    return Step(
        network,
        *count_costs(config.model, data.train.image_shape, NUM_CLASSES),
        statistics.median(train_rates),
        ceiling_rate,
        statistics.median(ratios),
        (low, high),
        ceiling_rate * operations(config) / gemm,
    )


def table(steps: list[Step]) -> str:
    lines = [
        "| network | parameters | multiply-adds | train (images/s) | ceiling (images/s) | "
        "train / ceiling (quartiles) | ceiling / GEMM |",
        "|---|---|---|---|---|---|---|",
    ]
    for step in steps:
        low, high = step.ratio_spread
        lines.append(
            f"| {step.network} | {step.num_params:,} | {step.multiply_adds:,} | {step.train_rate:,.0f} | "
            f"{step.ceiling_rate:,.0f} | **{step.ratio:.3f}** ({low:.3f} to {high:.3f}) | {step.gemm_share:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    data, gemm = noise(options.images), gemm_rate(device)
    steps = []
    for network in options.networks:
        config = load_config(ROOT / "configs" / "cifar10.yaml", NETWORKS[network]).base
        steps.append(measure(network, config, data, device, options.rounds, gemm))
    print(f"matrix product: {gemm / 1e9:,.0f} GFLOP/s on {device} with {options.threads} thread(s)\n\n{table(steps)}")
    if options.json:
        options.json.write_text(json.dumps({"gemm": gemm, "steps": [asdict(step) for step in steps]}, indent=1))


if __name__ == "__main__":
    main()
