"""The official train split, cut into train and val by seed, and the train part's statistics."""

import numpy as np
from numpy.typing import NDArray

from training.config import DataConfig
from training.data.sets import ImageSet, TrainData
from training.errors import DataError


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
