"""The test split, and the only code that opens it: predictions are kept by the hash of the weights in RUN/report/.

Analysing again opens nothing; every opening is written down.
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.evaluating.metrics import random_sample, surest_mistakes
from training import load_model, load_test
from training.config import DataConfig
from training.data import ImageSet, batch_loader
from training.errors import DataError
from training.evaluate import EVALUATION_BATCH, Mirrored, predict

OPENINGS = "test_openings.json"
MOST_PREDICTIONS_BYTES = 2**30  # uncompressed; those of 10,000 images and 100 classes take 4 MB

OpenTest = Callable[[DataConfig, str], ImageSet]  # (data, hash of the weights that ask) -> the test split


@dataclass(frozen=True)
class Predictions:
    """A network's answers on the test split, with a few of its images to draw."""

    logits: NDArray[np.float32]  # (N, num_classes)
    labels: NDArray[np.int64]  # (N,)
    sample_indices: NDArray[np.int64]  # (S,), drawn at random, mistakes first
    sample_images: NDArray[np.uint8]  # (S, H, W, C)
    mistake_indices: NDArray[np.int64]  # (M,), the most confident mistakes
    mistake_images: NDArray[np.uint8]  # (M, H, W, C)
    mirrored_logits: NDArray[np.float32] | None = None  # (N, num_classes), of Mirrored; None: not flipped, or older

    def arrays(self) -> dict[str, Any]:
        """What is kept, by name."""
        return {name: array for name, array in vars(self).items() if array is not None}

    def fit_together(self, num_classes: int) -> bool:
        """Whether shapes, types and indices are those of a network with so many classes."""
        kinds = {"logits": "f4", "mirrored_logits": "f4", "sample_images": "u1", "mistake_images": "u1"}
        if any(array.dtype != np.dtype(kinds.get(name, "i8")) for name, array in self.arrays().items()):
            return False
        answers = [self.logits] if self.mirrored_logits is None else [self.logits, self.mirrored_logits]
        ranges = [(self.labels, num_classes)]
        ranges += [(indices, len(self.labels)) for indices in (self.sample_indices, self.mistake_indices)]
        shapes = {images.shape[1:] for images in (self.sample_images, self.mistake_images) if len(images)}
        return (
            all(logits.shape == (len(self.labels), num_classes) for logits in answers)
            and all(array.ndim == 1 and bool(((array >= 0) & (array < end)).all()) for array, end in ranges)
            and len(self.sample_images) == len(self.sample_indices)
            and len(self.mistake_images) == len(self.mistake_indices)
            and all(len(shape) == 3 and shape[2] == 3 and 0 < min(shape) <= max(shape) <= 512 for shape in shapes)
            and len(shapes) <= 1
        )


@dataclass(frozen=True)
class SavedNetwork:
    """A checkpoint with what its meta.json says, the images on which it is evaluated, and the device that does it."""

    checkpoint: Path
    meta: dict[str, Any]
    data: DataConfig
    device: torch.device


def predict_test(network: SavedNetwork, open_test: OpenTest, report: Path) -> Predictions:
    """Answers on the test split: the kept ones, or new ones, which are kept. Raises DataError, CheckpointError."""
    meta = network.meta
    weights = meta["sha256"]["weights.pt"]
    kept = report / f"predictions-{weights[:16]}.npz"
    found = read_predictions(kept, len(meta["class_names"]))
    if found is not None:
        return found
    test = open_test(network.data, weights)
    if test.class_names != meta["class_names"] or test.image_shape != meta["image_shape"]:
        raise DataError("The test split has other classes or another image size than the network was trained on.")
    loader = batch_loader(test, EVALUATION_BATCH, network.device)
    model = load_model(network.checkpoint, network.device)
    logits = predict(model, loader)[0].numpy()
    mirrored = predict(Mirrored(model), loader)[0].numpy() if meta["config"].data.flip else None
    drawn, mistakes = random_sample(logits, test.labels), surest_mistakes(logits, test.labels)
    made = Predictions(logits, test.labels, drawn, test.images[drawn], mistakes, test.images[mistakes], mirrored)
    np.savez_compressed(kept, **made.arrays())
    return made


def read_predictions(path: Path, num_classes: int) -> Predictions | None:
    """Kept predictions; None if there are none or they cannot be used."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MOST_PREDICTIONS_BYTES:
                return None
        with np.load(path, allow_pickle=False) as arrays:
            found = Predictions(**{name: arrays[name] for name in Predictions.__dataclass_fields__ if name in arrays})
        return found if found.fit_together(num_classes) else None
    except Exception:  # zipfile and numpy raise half a dozen kinds for damaged files
        return None


def opener(report: Path, data_dir: str | None = None, written: Callable[[], None] = lambda: None) -> OpenTest:
    """A function that loads the test split, once for the same images, and writes every opening down
    before anything is predicted. `data_dir` is the one of the command line; `written` is called after each writing.
    """
    opened: dict[DataConfig, ImageSet] = {}

    def open_test(data: DataConfig, weights: str) -> ImageSet:
        if data not in opened:
            opened[data] = load_test(data, may_write(data, data_dir))
            moment = datetime.now(UTC).isoformat(timespec="seconds")
            openings = [*read_openings(report), {"opened_at": moment, "first_for": weights[:16]}]
            (report / OPENINGS).write_text(json.dumps(openings, indent=1), encoding="utf-8")
            written()
        return opened[data]

    return open_test


def may_write(data: DataConfig, data_dir: str | None) -> bool:
    """Whether images may be downloaded to data.data_dir and kept there: if the command line names that directory, or it
    is the default. One that only the run names is only read, for the run may come from elsewhere."""
    try:
        places = {Path(place).resolve() for place in (DataConfig().data_dir, data_dir) if place is not None}
        return Path(data.data_dir).resolve() in places
    except (OSError, ValueError, RuntimeError):  # no usable path
        return False


def read_openings(report: Path) -> list[dict[str, Any]]:
    """The recorded openings, oldest first."""
    try:
        openings = json.loads((report / OPENINGS).read_text(encoding="utf-8"))
        return [opening for opening in openings if isinstance(opening, dict)]
    except (OSError, ValueError, TypeError):
        return []
