"""Images that hold their own numbers, so that a test sees where each of them went."""

import numpy as np
from torch import Tensor

from training.data import ImageSet


def numbered_images(labels: np.ndarray) -> ImageSet:
    """Images whose first two pixels hold their own number."""
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4, 3), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(labels)) // 256, np.arange(len(labels)) % 256
    return ImageSet(images, labels.astype(np.int64), tuple(str(label) for label in np.unique(labels)))


def numbers(images: np.ndarray | Tensor) -> list[int]:
    pixels = np.asarray(images).reshape(len(images), -1, 3)[:, 0].astype(int)
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()
