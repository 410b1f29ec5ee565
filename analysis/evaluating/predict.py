"""The best model of a search at work on image files. The test split is never opened here."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from analysis.reading.results import AnalysisError, SearchResults
from analysis.text import run_search
from training import load_model
from training.checkpoint import CheckpointError, read_meta
from training.data import decode_image
from training.errors import DataError
from training.evaluate import Mirrored, autocast
from training.model import ConvNet


@dataclass(frozen=True)
class BestModel:
    """The network of the best trial, reloaded."""

    number: int  # of the trial
    provisional: bool
    epochs: int  # behind the checkpoint
    val_accuracy: float  # as recorded when it was trained
    class_names: tuple[str, ...]
    model: ConvNet | Mirrored

    @property
    def image_shape(self) -> tuple[int, ...]:  # (C, H, W)
        return self.model.input_shape


def load_best(results: SearchResults, device: torch.device | str = "cpu", mirror: bool = False) -> BestModel:
    """The best trial's network on a device; with `mirror` as Mirrored.

    Raises AnalysisError if there is none, or if it is to be mirrored but was trained without flips.
    """
    best = results.best_trial
    if best is None:
        raise AnalysisError(
            f"{results.place} has no model to use: no trial is COMPLETE, and no pruned one can be loaded. "
            f"Let the search go on: {run_search('--resume', results.place)}"
        )
    checkpoint = results.checkpoint_of(best.number)
    try:
        if checkpoint is None:
            raise CheckpointError("it has no readable checkpoint")
        meta = read_meta(checkpoint)
        network = load_model(checkpoint, device)
    except CheckpointError as error:
        raise AnalysisError(
            f"trial {best.number} is the best of {results.place}, but its network cannot be loaded: "
            f"{results.worded(str(error))}. Copy trial_{best.number:04d}_* back from where the search ran."
        ) from None
    if mirror and not meta["config"].data.flip:
        raise AnalysisError(
            f"--mirror: trial {best.number}, the best of {results.place}, was trained without mirror images (data.flip "
            "is false) and does not know them. Leave --mirror out."
        )
    model = Mirrored(network) if mirror else network
    epochs = meta["results"]
    return BestModel(best.number, best.provisional, len(epochs), epochs[-1].val_accuracy, meta["class_names"], model)


def classify(best: BestModel, file: Path) -> list[tuple[str, float]]:
    """(class name, probability) of an image file, the most probable first; prepared as training prepares image folders.

    Raises DataError, which names the file.
    """
    device = next(best.model.parameters()).device
    image = torch.tensor(decoded(file, best.image_shape[-1])).to(device)  # uint8 (H, W, C)
    with torch.inference_mode(), autocast(device):
        logits = best.model(image[None].permute(0, 3, 1, 2))[0].double().cpu()
    if not logits.isfinite().all():
        raise DataError(f"{file}: the network of trial {best.number} has no finite answer to this image.")
    probabilities = logits.softmax(0)
    order = probabilities.argsort(descending=True, stable=True).tolist()
    return [(best.class_names[index], float(probabilities[index])) for index in order]


def decoded(file: Path, image_size: int) -> NDArray[np.uint8]:
    """decode_image, with the remedies of a command line. Raises DataError."""
    try:
        if file.is_dir():
            raise DataError(f"{file} is a directory. Name image files; RUN stands before --predict.")
        if not file.is_file():  # a pipe is none either: it might never end
            raise DataError(f"{file} is not there, or no file. Check its name.")
    except OSError as error:
        raise DataError(f"{file} cannot be opened ({error.strerror}). Check its name and permissions.") from None
    try:
        return decode_image(file, image_size)
    except DataError as error:
        raise DataError(
            f"{file} cannot be read as an image ({error.__cause__}). Convert it to PNG or JPEG, or leave it out."
        ) from None
