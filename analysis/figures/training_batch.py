"""A batch of images with their labels, as a network is trained on it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.evaluating.evaluation import BATCH_SHOWN, Evaluation
from analysis.figures.style import Picture, drawing, styled
from analysis.text import fitted, plural
from training.config import DataConfig


def batch_data(images: Any) -> NDArray[np.uint8]:
    """Images as uint8 (N, H, W, 3) from a tensor (B, C, H, W) or an array (N, H, W, C), C = 1 or 3. Or ValueError."""
    is_tensor = isinstance(images, torch.Tensor)
    array = images.detach().cpu().permute(0, 2, 3, 1).numpy() if is_tensor else np.asarray(images)
    if array.ndim != 4 or array.shape[-1] not in (1, 3):
        wanted = "a tensor (B, C, H, W) or an array (N, H, W, C) with C = 1 or 3"
        raise ValueError(f"images must be {wanted}, got {array.shape}")
    return np.broadcast_to(array.clip(0, 255).astype(np.uint8), (*array.shape[:3], 3))


@styled
def plot_batch(images: Any, labels: Any, class_names: Sequence[str], count: int = 32, columns: int = 8) -> Figure:
    """The first images of a batch with their labels; `labels` (N,) are indices into class_names."""
    array = batch_data(images)[:count]
    columns = max(1, min(columns, len(array)))
    rows = max(1, -(-len(array) // columns))
    figure = drawing(height=0.1 + 1.02 * rows * 8 / max(columns, 4))
    for axes in figure.subplots(rows, columns, squeeze=False).flat:
        axes.set_axis_off()
    for axes, image, label in zip(figure.axes, array, np.asarray(labels), strict=False):
        axes.imshow(image)
        axes.set_title(fitted(class_names[int(label)], 12), fontsize=7.5, pad=3)
    return figure


def augmentation_text(config: DataConfig) -> str:
    """What training does to an image, as configured."""
    done = []
    if config.crop_padding:
        done.append(f"shifted by up to {plural(config.crop_padding, 'pixel')} each way, the border reflected")
    if config.flip:
        done.append("mirrored left to right with probability 0.5")
    if config.cutout:
        done.append(f"with a square of {config.cutout} × {config.cutout} pixels hidden behind the mean colour")
    return "; ".join(done) or "unchanged, for the config has no augmentation"


def picture(evaluation: Evaluation) -> Picture | None:
    batch = evaluation.training_batch
    if batch is None:
        return None
    figure = plot_batch(batch.images, batch.labels, batch.class_names, count=BATCH_SHOWN)
    sentence = (
        f"The first images that trial {batch.number} was trained on, as the network saw them: "
        f"{augmentation_text(batch.config)}. Above each image its label."
    )
    return Picture("training_batch", "A batch of training images", figure, sentence)
