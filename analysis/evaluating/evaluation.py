"""The winner and the defaults, reloaded: their val accuracy checked against the recorded one, then the test split."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.evaluating.metrics import classification_metrics
from analysis.evaluating.test_split import (
    OpenTest,
    Predictions,
    SavedNetwork,
    may_write,
    opener,
    predict_test,
    read_openings,
)
from analysis.reading.results import AnalysisError, SearchResults
from training import load_data, load_model
from training.checkpoint import CheckpointError, read_meta
from training.config import DataConfig, TrialConfig
from training.data import TrainData, batch_loader
from training.errors import DataError
from training.evaluate import evaluate, evaluation_batch
from training.loop import first_batch

BATCH_SHOWN = 16  # images
MIRRORED_METRICS = ("test_accuracy", "test_accuracy_interval_95", "test_loss")


@dataclass(frozen=True)
class EvaluatedTrial:
    """One trial's checkpoint, evaluated. What could not be done is None, and said in Evaluation.problems."""

    number: int
    epoch: int  # epochs behind the checkpoint
    provisional: bool
    params: dict[str, Any]
    checkpoint: Path
    checkpoint_hash: str  # SHA-256 of the weights
    class_names: tuple[str, ...]
    val_accuracy: float  # as recorded when it was trained
    val_accuracy_now: float | None
    predictions: Predictions | None

    @property
    def reproduced(self) -> bool | None:
        """Whether the val accuracy is the recorded one to the last digit; None if it could not be checked."""
        return None if self.val_accuracy_now is None else self.val_accuracy_now == self.val_accuracy

    @cached_property
    def test_metrics(self) -> dict[str, Any]:
        """classification_metrics on the test split, with some of Mirrored as `mirrored_...` if its answers are there.

        Computed once; empty if the trial was not evaluated.
        """
        kept = self.predictions
        if kept is None:
            return {}
        metrics = classification_metrics(kept.logits, kept.labels, self.class_names)
        if kept.mirrored_logits is not None:
            mirrored = classification_metrics(kept.mirrored_logits, kept.labels, self.class_names)
            metrics |= {f"mirrored_{name}": mirrored[name] for name in MIRRORED_METRICS}
        return metrics

    def metrics(self) -> dict[str, Any]:
        """Everything of test_metrics.json about this trial."""
        return {
            "number": self.number,
            "epoch": self.epoch,
            "provisional": self.provisional,
            "val_accuracy": self.val_accuracy,
            "val_accuracy_reevaluated": self.val_accuracy_now,
            **self.test_metrics,
            "params": self.params,
            "checkpoint": str(Path(self.checkpoint.parent.name) / self.checkpoint.name),
            "checkpoint_sha256": self.checkpoint_hash,
        }


@dataclass(frozen=True)
class TrainingBatch:
    """The first images of a network's first batch, augmented as in its training."""

    number: int  # of the trial
    images: NDArray[np.uint8]  # (N, H, W, C)
    labels: NDArray[np.int64]  # (N,)
    class_names: tuple[str, ...]
    config: DataConfig


@dataclass(frozen=True)
class Evaluation:
    """Winner and defaults; None if there is no checkpoint. If trial 0 won, both are the same."""

    winner: EvaluatedTrial | None
    defaults: EvaluatedTrial | None
    openings: list[dict[str, Any]]  # of the test split, in this run directory, ever
    device: str
    problems: list[str] = field(default_factory=list)
    training_batch: TrainingBatch | None = None  # of the winner
    n_val: int | None = None  # images of the val split; None if they could not be had

    def metrics(self) -> dict[str, Any]:
        """The content of test_metrics.json."""
        return {
            "winner": self.winner and self.winner.metrics(),
            "defaults": self.defaults and self.defaults.metrics(),
            "openings_of_test_split": len(self.openings),
            "openings": self.openings,
            "device": self.device,
        }


def evaluate_search(
    results: SearchResults, data_dir: str | None = None, device: str | None = None, open_test: OpenTest | None = None
) -> Evaluation:
    """Evaluate the best trial and trial 0, on a GPU if there is one. Raises AnalysisError for an impossible device.

    `open_test` is an opener of RUN/report that others of the same analysis use too.
    """
    place = pick_device(device)
    report = report_directory(results.run)
    problems: list[str] = []
    open_test = open_test or opener(report, data_dir, results.send_report)

    @lru_cache(2)
    def open_val(data: DataConfig) -> TrainData:
        return load_data(data, may_write(data, data_dir))

    def evaluated(number: int, provisional: bool) -> EvaluatedTrial | None:
        checkpoint = results.checkpoint_of(number)
        if checkpoint is None:
            return None
        network = saved_network(checkpoint, place, data_dir, results.settings.data.split_seed)
        meta = network.meta
        return EvaluatedTrial(
            number=number,
            epoch=len(meta["results"]),
            provisional=provisional,
            params=results.params[number],
            checkpoint=checkpoint,
            checkpoint_hash=meta["sha256"]["weights.pt"],
            class_names=meta["class_names"],
            val_accuracy=meta["results"][-1].val_accuracy,
            val_accuracy_now=val_accuracy(network, open_val, problems),
            predictions=tested(network, open_test, report, problems),
        )

    best = results.best_trial
    winner = None if best is None else evaluated(best.number, best.provisional)
    batch = n_val = None
    if winner is not None and winner.val_accuracy_now is not None:
        network = saved_network(winner.checkpoint, place, data_dir, results.settings.data.split_seed)
        loaded = open_val(network.data)
        batch, n_val = training_batch(winner.number, network.meta["config"], loaded), len(loaded.val.labels)
    defaults = winner
    if best is None or best.number != 0:
        defaults = evaluated(0, provisional=False) if 0 in results.params else None
    return Evaluation(winner, defaults, read_openings(report), str(place), list(dict.fromkeys(problems)), batch, n_val)


def pick_device(name: str | None) -> torch.device:
    """A usable device; None takes a GPU if there is one. Raises AnalysisError."""
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.ones(1, device=device).item()  # which "meta" cannot
        return device
    except Exception as error:  # torch raises half a dozen kinds for devices that this build or machine lacks
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise AnalysisError(f"--device {name} cannot be used ({why}). Try --device cpu.") from None


def report_directory(run: Path) -> Path:
    """RUN/report, made where it is not there. Raises AnalysisError, also if writing to it would write elsewhere."""
    report = run / "report"
    try:
        if not report.is_symlink():
            report.mkdir(exist_ok=True)
        for path in (report, *report.rglob("*")):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise AnalysisError(
                    f"{path} is a link, or no file: what is written there would go elsewhere. Remove it, or analyse a "
                    f"copy without links: cp -rL {run} COPY"
                )
        return report
    except OSError as error:
        raise AnalysisError(
            f"{report} cannot be made ({error}). Copy the run directory to where you may write."
        ) from None


def saved_network(checkpoint: Path, device: torch.device, data_dir: str | None, split_seed: int) -> SavedNetwork:
    """A checkpoint with the images on which it is evaluated. Raises CheckpointError.

    `data_dir` says where they are now: for folder:PATH the PATH, if it holds test/, else data.data_dir. `split_seed` is
    that of the search: checkpoints of older versions name its seed, though val was cut by 0.
    """
    meta = read_meta(checkpoint)
    data = meta["config"].data.without_augmentation().model_copy(update={"split_seed": split_seed})
    if data_dir is not None:
        is_folder = data.dataset.startswith("folder:") and (Path(data_dir) / "test").is_dir()
        moved = {"dataset": f"folder:{data_dir}"} if is_folder else {"data_dir": data_dir}
        data = data.model_copy(update=moved)
    return SavedNetwork(checkpoint, meta, data, device)


def val_accuracy(
    network: SavedNetwork, open_val: Callable[[DataConfig], TrainData], problems: list[str]
) -> float | None:
    """Accuracy on the val split, evaluated as training did; None, and a problem, if the images are not to be had."""
    try:
        loader = batch_loader(open_val(network.data).val, evaluation_batch(network.meta["config"]), network.device)
        return evaluate(load_model(network.checkpoint, network.device), loader)[1]
    except (DataError, CheckpointError) as error:
        problems.append(f"The val accuracy could not be checked: {error} {where_data_are(network.data)}")
        return None


def training_batch(number: int, config: TrialConfig, data: TrainData) -> TrainingBatch:
    """The first images that training on the CPU begins with; a GPU draws other shifts for the same images."""
    images, labels = first_batch(config, data)
    pixels = images[:BATCH_SHOWN].permute(0, 2, 3, 1).contiguous().numpy()
    return TrainingBatch(number, pixels, labels[:BATCH_SHOWN].numpy(), data.train.class_names, config.data)


def tested(network: SavedNetwork, open_test: OpenTest, report: Path, problems: list[str]) -> Predictions | None:
    """Answers on the test split; None, and a problem, if the images are not to be had."""
    try:
        return predict_test(network, open_test, report)
    except (DataError, CheckpointError) as error:
        problems.append(f"The test split could not be evaluated: {error} {where_data_are(network.data)}")
        return None


def where_data_are(data: DataConfig) -> str:
    """The remedy for missing images."""
    is_folder = data.dataset.startswith("folder:")
    what = "the folder with train/ and test/ is now" if is_folder else "the data set is, or is to be downloaded to"
    return f"Say where {what}: --data-dir DIR."
