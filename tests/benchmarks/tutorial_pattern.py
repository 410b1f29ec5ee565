"""The other side of equal_time.py: a search after the pattern of Ray Tune's PyTorch CIFAR tutorial.

    python tests/benchmarks/tutorial_pattern.py --dataset folder:PATH --time-budget 8m --seed 0 --name pattern

It takes the flags of run_search.py and draws from the same space. The pattern is the tutorial's: random search, Ray's
own ASHAScheduler and loggers, a new process for every trial, a DataLoader over a data set that makes a PIL image of
every item and transforms it alone, a checkpoint every epoch, and the best last-reported trial wins.

What is not the pattern's business is ours, or better than the tutorial's: network, optimizer, schedule and checkpoint
format; one stratified split for all trials, so that both sides select on the same val images; val images are not
augmented; impossible or too costly proposals are drawn again and cost no trial; nothing is printed while it runs.
With --defaults-first the first trial is the config itself, as it is in a search of ours.
"""
# ruff: noqa: E402 - the clock starts before the imports, which take seconds: the budget counts from the command

import time

STARTED = time.monotonic()

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Importing search sets both for its own runs; these are Ray's defaults.
os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "0"
os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "2"
# Ray would draw 200 trials ahead, and write all of them into every snapshot; the tutorial's 10 samples never cost that.
os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "16"

import numpy as np
import optuna
import ray
import torch
from numpy.typing import NDArray
from PIL import Image
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from search.command_line import parse
from search.config import SearchConfig
from search.feasibility import why_infeasible
from search.plan import plan_search
from search.workers.cluster import trial_resources
from training import TrialConfig, load_data, save_checkpoint
from training.config import DataConfig
from training.data import ImageSet, TrainData
from training.errors import ConfigError
from training.evaluate import evaluate, evaluation_batch
from training.loop import EpochResult, TrainState, state_of_model
from training.model import ConvNet

Batches = Iterable[tuple[Tensor, Tensor]]


# The data: what the tutorial takes from torchvision


class PILImages(Dataset[tuple[Tensor, int]]):
    """Decoded images in memory, like torchvision's CIFAR10: every item becomes a PIL image and is transformed."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64], transform: transforms.Compose) -> None:
        self.images, self.labels, self.transform = images, labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


@dataclass(frozen=True)
class SavedData:
    """Both parts of the train split as .npy files, which every trial loads, and what is known of them."""

    directory: str
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, in [0, 255]
    std: tuple[float, ...]

    def load(self, part: str) -> ImageSet:
        directory = Path(self.directory)
        return ImageSet(
            np.load(directory / f"{part}_images.npy"), np.load(directory / f"{part}_labels.npy"), self.class_names
        )


def save_data(data: TrainData, directory: str) -> SavedData:
    """Write decoded images for the workers; the tutorial's trials unpickle CIFAR-10 from disk."""
    for part, image_set in (("train", data.train), ("val", data.val)):
        np.save(Path(directory) / f"{part}_images.npy", image_set.images)
        np.save(Path(directory) / f"{part}_labels.npy", image_set.labels)
    return SavedData(directory, data.train.class_names, data.mean, data.std)


def build_transforms(config: DataConfig, saved: SavedData) -> tuple[transforms.Compose, transforms.Compose]:
    """(train, val) transforms of single PIL images; the same augmentation as ours, with torchvision's means."""
    augment: list[Any] = []
    if config.crop_padding:
        augment.append(transforms.RandomCrop(config.image_size, padding=config.crop_padding))
    if config.flip:
        augment.append(transforms.RandomHorizontalFlip())
    scale = [[value / 255 for value in values] for values in (saved.mean, saved.std)]
    to_tensor = [transforms.ToTensor(), transforms.Normalize(*scale)]
    hide: list[Any] = []
    if config.cutout:
        share = (config.cutout / config.image_size) ** 2
        hide.append(transforms.RandomErasing(p=1.0, scale=(share, share), ratio=(1.0, 1.0)))
    return transforms.Compose([*augment, *to_tensor, *hide]), transforms.Compose(to_tensor)


# One trial


def train_cifar(params: dict[str, Any], saved: SavedData) -> None:
    """One trial: build everything anew, and report every epoch with a checkpoint."""
    number, config = params["proposal"]["number"], TrialConfig.model_validate_json(params["proposal"]["trial_config"])
    resources = tune.get_context().get_trial_resources().required_resources
    device = torch.device("cuda" if resources.get("GPU", 0) > 0 else "cpu")
    cpus = int(resources.get("CPU", 1))
    torch.set_num_threads(max(1, cpus))
    torch.manual_seed(config.train.seed)
    train_set, val_set = saved.load("train"), saved.load("val")
    # The tutorial asks for more loader processes than a trial has cores. They would only fight over one core.
    num_workers = cpus if cpus > 1 else 0
    train_transform, val_transform = build_transforms(config.data, saved)
    train_loader: DataLoader[Any] = DataLoader(
        PILImages(train_set.images, train_set.labels, train_transform),
        config.train.batch_size,
        shuffle=True,
        num_workers=num_workers,
        drop_last=len(train_set.labels) % config.train.batch_size == 1,  # batch norm cannot train on a single image
    )
    val_loader: DataLoader[Any] = DataLoader(
        PILImages(val_set.images, val_set.labels, val_transform),
        evaluation_batch(config),
        num_workers=num_workers,
    )
    model = ConvNet(config.model, train_set.image_shape, len(saved.class_names)).to(device)
    state = state_of_model(config, model, train_set, device)
    for epoch in range(1, config.train.epochs + 1):
        started = time.perf_counter()
        train_loss, train_accuracy = train_epoch(state, on(device, train_loader))
        trained = time.perf_counter()
        val_loss, val_accuracy = evaluate(model, on(device, val_loader))
        result = EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=float(state.optimizer.param_groups[0]["lr"]),
            epoch_seconds=time.perf_counter() - started,
            images_per_second=len(train_set.labels) / (trained - started),
            finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )
        state.results.append(result)
        report(state, result, number, saved)


def on(device: torch.device, loader: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches moved to a device one by one, as the tutorial does."""
    for images, labels in loader:
        yield images.to(device), labels.to(device)


def train_epoch(state: TrainState, batches: Batches) -> tuple[float, float]:
    """One pass over the train split in plain float32: (mean loss, accuracy)."""
    loss_sum, correct, count = 0.0, 0, 0
    state.model.train()
    for images, labels in batches:
        state.optimizer.zero_grad()
        logits = state.model(images)
        loss = cross_entropy(logits, labels, label_smoothing=state.config.train.label_smoothing)
        loss.backward()
        state.optimizer.step()
        state.schedule.step()
        loss_sum += loss.item() * len(labels)
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return loss_sum / count, correct / count


def report(state: TrainState, result: EpochResult, number: int, saved: SavedData) -> None:
    """Hand one epoch and its checkpoint, of our format so that both sides are judged alike, to Ray."""
    with tempfile.TemporaryDirectory() as directory:
        save_checkpoint(replace(state, model=taking_bytes(state.model, saved)), directory, number)
        tune.report(asdict(result), checkpoint=tune.Checkpoint.from_directory(directory))


def taking_bytes(model: ConvNet, saved: SavedData) -> ConvNet:
    """A copy that takes uint8 images, as our networks do; in training the transforms normalise."""
    copied = deepcopy(model)
    copied.mean.copy_(torch.tensor(saved.mean).view_as(copied.mean))
    copied.std.copy_(torch.tensor(saved.std).view_as(copied.std))
    return copied


# The search


def draw(config: SearchConfig, num_classes: int, number: int, defaults_first: bool) -> dict[str, Any]:
    """A random feasible point of the space as a trial's number and config (JSON)."""
    seeds = np.random.SeedSequence([config.search.seed, number]).generate_state(2).tolist()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seeds[0]))
    trial_config = config.base if number == 0 and defaults_first else None
    while trial_config is None:
        try:
            trial_config = config.search_space.apply(config.search_space.suggest(study.ask()))
        except ConfigError:
            continue
        if why_infeasible(trial_config, config.search, num_classes):
            trial_config = None
    seeded = trial_config.model_copy(update={"train": trial_config.train.model_copy(update={"seed": seeds[1]})})
    return {"number": number, "trial_config": seeded.model_dump_json()}


def build_scheduler(config: SearchConfig) -> ASHAScheduler | None:
    if config.scheduler.name == "none":
        return None
    return ASHAScheduler(
        max_t=config.train.epochs,
        grace_period=config.scheduler.grace_epochs,
        reduction_factor=config.scheduler.reduction_factor,
    )


def search(config: SearchConfig, run: Path, defaults_first: bool) -> tune.ResultGrid:
    """Search until the budget, counted from the start of the command, is over."""
    budget = config.search.time_budget_seconds
    data = load_data(config.data)
    num_classes = len(data.train.class_names)
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    resources = trial_resources(config, [node["Resources"] for node in ray.nodes()])
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as directory:
        saved = save_data(data, directory)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(train_cifar, saved=saved), resources),
            param_space={
                "proposal": tune.sample_from(lambda _: draw(config, num_classes, next(numbers), defaults_first))
            },
            tune_config=tune.TuneConfig(
                metric="val_accuracy",
                mode="max",
                scheduler=build_scheduler(config),
                num_samples=-1 if budget else config.search.num_samples,
                time_budget_s=None if budget is None else max(1.0, budget - (time.monotonic() - STARTED)),
                max_concurrent_trials=config.resources.max_concurrent,
                trial_dirname_creator=lambda trial: f"trial_{trial.trial_id}",
            ),
            run_config=tune.RunConfig(name=run.name, storage_path=str(run.parent), verbose=0),
        )
        return tuner.fit()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--defaults-first", action="store_true", help="the first trial is the config itself")
    options, arguments = parser.parse_known_args()
    plan = plan_search(parse(arguments))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    results = search(plan.config, plan.run.path, options.defaults_first)
    reported = [result for result in results if result.metrics and "val_accuracy" in result.metrics]
    if not reported:
        print("no trial reported an epoch", file=sys.stderr)
        return 1
    best = results.get_best_result(scope="last")
    print(
        f"{len(reported)} trials with an epoch; best last val_accuracy {best.metrics['val_accuracy']:.4f}: {best.path}"
    )
    for error in results.errors:
        print(error, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
