"""What the rest of the program knows of data: uint8 arrays with labels. Images are (N, H, W, C)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ImageSet:
    """Some images with their labels."""

    images: NDArray[np.uint8]  # (N, H, W, C), read-only
    labels: NDArray[np.int64]  # (N,), indices into class_names
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:  # (C, H, W)
        _, height, width, channels = self.images.shape
        return channels, height, width

    def subset(self, indices: NDArray[np.int64]) -> "ImageSet":
        return ImageSet(self.images[indices], self.labels[indices], self.class_names)


@dataclass(frozen=True)
class TrainData:
    """The two parts of the official train split, and the train part's statistics. The test split is not here."""

    train: ImageSet
    val: ImageSet
    mean: tuple[float, ...]  # per channel, in [0, 255]
    std: tuple[float, ...]

    @property
    def num_bytes(self) -> int:
        return self.train.images.nbytes + self.val.images.nbytes
