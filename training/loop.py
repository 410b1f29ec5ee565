"""The training loop, as a generator: early stopping is to stop iterating, going on is to pass an older state."""

import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from training.config import DataConfig, TrialConfig
from training.data import ImageSet, TrainData, augmentation, batch_loader
from training.evaluate import Sums, autocast, evaluate, evaluation_batch
from training.model import ConvNet
from training.optimizer import build_optimizer, build_schedule

STEPS_BETWEEN_LOSS_CHECKS = 50  # on the CPU; a GPU would be waited for, and is done with its epoch sooner
WORST_VAL_ACCURACY = 0.0  # what a diverged epoch is worth: finite, so that schedulers and studies can compare it


@dataclass(frozen=True)
class EpochResult:
    """What one epoch of training did.

    Losses are mean cross-entropies in nats, whatever was minimised; NaN if it diverged.
    """

    epoch: int  # counted from 1
    train_loss: float  # with label smoothing and augmentation, in training mode, averaged over the epoch
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float  # at the last step, of the first group: convolution and linear weights
    epoch_seconds: float  # training and validation, wall clock
    images_per_second: float  # training alone
    finished_at: str  # UTC, ISO 8601
    diverged: bool = False


@dataclass
class TrainState:
    """Everything that training goes on from. Random numbers follow from the config's seed and the epoch."""

    config: TrialConfig
    model: ConvNet
    optimizer: Optimizer
    schedule: LRScheduler
    image_shape: tuple[int, int, int]  # (C, H, W)
    class_names: tuple[str, ...]
    device: torch.device
    results: list[EpochResult] = field(default_factory=list)

    @property
    def epoch(self) -> int:
        """Epochs trained so far."""
        return len(self.results)

    @property
    def finished(self) -> bool:
        return self.epoch >= self.config.train.epochs or (self.epoch > 0 and self.results[-1].diverged)


def new_state(config: TrialConfig, data: TrainData, device: torch.device | str = "cpu") -> TrainState:
    """An untrained network with its optimizer, for this data. Raises InfeasibleError."""
    with seeded(config.train.seed, epoch=0, device=torch.device(device)):
        model = ConvNet(
            config.model, data.train.image_shape, len(data.train.class_names), mean=data.mean, std=data.std
        ).to(device)
    return state_of_model(config, model, data.train, torch.device(device))


def state_of_model(config: TrialConfig, model: ConvNet, train_set: ImageSet, device: torch.device) -> TrainState:
    """A state at epoch 0 around a model."""
    optimizer = build_optimizer(model, config.optimizer)
    steps = len(batch_loader(train_set, config.train.batch_size, generator=torch.Generator()))
    schedule = build_schedule(optimizer, config.optimizer, steps * config.train.epochs)
    return TrainState(config, model, optimizer, schedule, train_set.image_shape, train_set.class_names, device)


def train(state: TrainState, data: TrainData) -> Iterator[EpochResult]:
    """Train on until the config's last epoch, yielding after each; `state` is safe to save at every yield.

    A non-finite loss ends training with a result marked `diverged`. On one CPU thread, going on from a saved state
    gives the same numbers as never having stopped, to the bit.
    """
    config, device = state.config, state.device
    order = torch.Generator()
    train_loader = batch_loader(data.train, config.train.batch_size, device, order)
    val_loader = batch_loader(data.val, evaluation_batch(config), device)
    while not state.finished:
        started = time.perf_counter()
        epoch = state.epoch + 1
        with seeded(config.train.seed, epoch, device, order):
            train_loss, train_accuracy, learning_rate = train_epoch(state, data, train_loader)
            trained = time.perf_counter()
            val_loss, val_accuracy = evaluate(state.model, val_loader)
        diverged = not (math.isfinite(train_loss) and math.isfinite(val_loss))
        ended = time.perf_counter()
        result = EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            val_loss=math.nan if diverged else val_loss,
            val_accuracy=WORST_VAL_ACCURACY if diverged else val_accuracy,
            learning_rate=learning_rate,
            epoch_seconds=ended - started,
            images_per_second=len(data.train.labels) / (trained - started),
            finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            diverged=diverged,
        )
        state.results.append(result)
        yield result


def train_epoch(
    state: TrainState, data: TrainData, batches: Iterable[tuple[Tensor, Tensor]]
) -> tuple[float, float, float]:
    """One pass over batches of the train split: (mean loss, accuracy, learning rate of the last step).

    Ends early, with a NaN loss, if the loss is not finite; on a GPU with the epoch.
    """
    model, device = state.model, state.device
    config = state.config.train
    sums = Sums(device)
    model.train()
    for step, (images, labels) in enumerate(augmented(batches, state.config.data, data, device), start=1):
        with autocast(device):
            logits = model(images)
        logits = logits.float()
        loss = cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        learning_rate = float(state.optimizer.param_groups[0]["lr"])
        state.optimizer.zero_grad()
        minimised = loss if config.loss == "cross_entropy" else squared_error(logits, labels, config.label_smoothing)
        minimised.backward()
        state.optimizer.step()
        state.schedule.step()
        sums.add(loss, logits, labels)
        if device.type == "cpu" and step % STEPS_BETWEEN_LOSS_CHECKS == 0 and not sums.loss.isfinite():
            return math.nan, 0.0, learning_rate
    return *sums.averages(), learning_rate


def squared_error(logits: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    """Mean squared error between softmax probabilities (B, num_classes) and one-hot labels, which may be smoothed."""
    num_classes = logits.shape[1]
    wanted = one_hot(labels, num_classes) * (1 - label_smoothing) + label_smoothing / num_classes
    return mse_loss(logits.softmax(1), wanted)


def augmented(
    batches: Iterable[tuple[Tensor, Tensor]], config: DataConfig, data: TrainData, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the train split as the network gets them: uint8 (B, C, H, W) and labels (B,)."""
    augment = augmentation(config, data.mean, device)
    generator = torch.Generator(device).manual_seed(torch.initial_seed() % 2**63)
    for images, labels in batches:
        yield augment(images, generator), labels


def first_batch(config: TrialConfig, data: TrainData) -> tuple[Tensor, Tensor]:
    """The batch that training on the CPU begins with; a GPU draws other shifts for the same images."""
    order, device = torch.Generator(), torch.device("cpu")
    loader = batch_loader(data.train, config.train.batch_size, device, order)
    with seeded(config.train.seed, 1, device, order):
        return next(augmented(loader, config.data, data, device))


@contextmanager
def seeded(seed: int, epoch: int, device: torch.device, *others: torch.Generator) -> Iterator[None]:
    """Torch's global generators seeded from (seed, epoch) inside, and as they were afterwards; `others` just seeded."""
    mixed = seed * 1_000_003 + epoch  # epochs of one trial, and trials of one search, far apart
    for generator in others:
        generator.manual_seed(mixed)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(mixed)
        yield
