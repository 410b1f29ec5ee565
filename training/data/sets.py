"""What the rest of the program knows of data: uint8 arrays with labels, and how train is cut into train and val."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.config import DataConfig
from training.errors import DataError


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


def split_train(official: ImageSet, config: DataConfig) -> TrainData:
    """Cut the official train split: `val_fraction` of every class goes to val, the same for equal seeds."""
    from sklearn.model_selection import train_test_split

    try:
        train_indices, val_indices = train_test_split(
            np.arange(len(official.labels)),
            test_size=config.val_fraction,
            stratify=official.labels,
            random_state=config.split_seed,
        )
    except ValueError as error:
        raise DataError(
            f"data.val_fraction={config.val_fraction} cannot be cut from {len(official.labels)} training images in "
            f"{len(official.class_names)} classes: {error} Add images or change data.val_fraction."
        ) from None
    train = official.subset(np.sort(train_indices))
    mean, std = channel_statistics(train.images)
    return TrainData(train, official.subset(np.sort(val_indices)), mean, std)


def channel_statistics(images: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in [0, 255], from exact integer histograms."""
    values = np.arange(256, dtype=np.float64)
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        means.append(mean)
        stds.append(max(1.0, float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))))
    return tuple(means), tuple(stds)
