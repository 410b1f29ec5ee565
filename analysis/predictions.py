"""The test split, and the only code that opens it: predictions are kept by the hash of the weights in RUN/report/.

Analysing again opens nothing; every opening is written down.
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.metrics import random_sample, surest_mistakes
from training import load_model, load_test
from training.config import DataConfig
from training.data import DataError, ImageSet, batch_loader
from training.evaluate import predict

EVALUATION_BATCH = 256  # images
OPENINGS = "test_openings.json"

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


def predict_test(
    checkpoint: Path,
    meta: dict[str, Any],
    data: DataConfig,
    open_test: OpenTest,
    device: torch.device,
    report: Path,
) -> Predictions:
    """Answers on the test split: the kept ones, or new ones, which are kept. Raises DataError, CheckpointError."""
    weights = meta["sha256"]["weights.pt"]
    kept = report / f"predictions-{weights[:16]}.npz"
    found = read_predictions(kept, len(meta["class_names"]))
    if found is not None:
        return found
    test = open_test(data, weights)
    if test.class_names != meta["class_names"] or test.image_shape != meta["image_shape"]:
        raise DataError("The test split has other classes or another image size than the network was trained on.")
    logits = predict(load_model(checkpoint, device), batch_loader(test, EVALUATION_BATCH, device))[0].numpy()
    drawn, mistakes = random_sample(logits, test.labels), surest_mistakes(logits, test.labels)
    made = Predictions(logits, test.labels, drawn, test.images[drawn], mistakes, test.images[mistakes])
    np.savez_compressed(kept, **vars(made))
    return made


def read_predictions(path: Path, num_classes: int) -> Predictions | None:
    """Kept predictions; None where there are none or they cannot be used."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = Predictions(**{name: arrays[name] for name in Predictions.__dataclass_fields__})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return found if found.logits.shape == (len(found.labels), num_classes) else None


def opener(report: Path) -> OpenTest:
    """A function that loads the test split, once for the same images, and writes every opening down
    before anything is predicted."""

    @lru_cache(2)
    def opened(data: DataConfig) -> ImageSet:
        return load_test(data)

    def open_test(data: DataConfig, weights: str) -> ImageSet:
        misses = opened.cache_info().misses
        test = opened(data)
        if opened.cache_info().misses > misses:
            record_opening(report, weights)
        return test

    return open_test


def read_openings(report: Path) -> list[dict[str, Any]]:
    """The recorded openings, oldest first."""
    try:
        openings = json.loads((report / OPENINGS).read_text(encoding="utf-8"))
        return [opening for opening in openings if isinstance(opening, dict)]
    except (OSError, ValueError, TypeError):
        return []


def record_opening(report: Path, weights: str) -> None:
    moment = datetime.now(UTC).isoformat(timespec="seconds")
    openings = [*read_openings(report), {"opened_at": moment, "first_for": weights[:16]}]
    (report / OPENINGS).write_text(json.dumps(openings, indent=1), encoding="utf-8")
