"""The data sets by name, downloaded if they are not there: CIFAR-10, CIFAR-100, digits, image folders.

scikit-learn and torchvision take seconds to import, and a worker, which is handed the data, needs neither: they are
imported where they are used, here and in training.data.sets.
"""

import contextlib
import urllib.request
from pathlib import Path

import numpy as np
from PIL import Image

from training.config import DataConfig
from training.data.folder import load_folder, resized
from training.data.sets import ImageSet, TrainData, split_train
from training.errors import DataError

CIFAR10_CLASS_NAMES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS_TEST_FRACTION = 0.2
DIGITS_TEST_SEED = 0  # fixed: the test split must not depend on any search


def load_data(config: DataConfig, may_write: bool = True) -> TrainData:
    """Load, and if needed download, the official train split, and cut it into train and val: stratified, by seed.

    Without `may_write` data_dir is only read: nothing is downloaded, and no decoded folder kept. Raises DataError.
    """
    return split_train(load_official_train(config, may_write), config)


def load_official_train(config: DataConfig, may_write: bool = True) -> ImageSet:
    """The official train split, whole. Raises DataError."""
    return _load(config, "train", may_write)


def load_test(config: DataConfig, may_write: bool = True) -> ImageSet:
    """The official test split; for digits, which have none, a cut with a fixed seed. Raises DataError."""
    return _load(config, "test", may_write)


def _load(config: DataConfig, split: str, may_write: bool) -> ImageSet:
    match config.dataset.partition(":")[0]:
        case "cifar10" | "cifar100":
            return _load_cifar(config, split, may_write)
        case "digits":
            return _load_digits(config, split)
        case "folder":
            return load_folder(config, split, may_write)
    raise ValueError(f"data.dataset: nothing here loads {config.dataset!r}")


def cifar_is_available(config: DataConfig, timeout_seconds: float = 10.0) -> bool:
    """Whether CIFAR-10 lies in data_dir, or its server answers within the timeout."""
    from torchvision.datasets import CIFAR10

    root = Path(config.data_dir)
    if (root / CIFAR10.base_folder).is_dir() or (root / CIFAR10.filename).is_file():
        return True
    request = urllib.request.Request(CIFAR10.url, method="HEAD")
    with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(request, timeout=timeout_seconds) as answer:
        return bool(answer.status == 200)
    return False


def _load_cifar(config: DataConfig, split: str, may_write: bool) -> ImageSet:
    from torchvision.datasets import CIFAR10, CIFAR100

    dataset_class = CIFAR10 if config.dataset == "cifar10" else CIFAR100
    try:
        try:
            dataset = dataset_class(config.data_dir, train=split == "train")
        except RuntimeError:  # not there, or an MD5 sum differs
            if not may_write:
                raise DataError(f"{config.dataset} is not in {config.data_dir}, which is only read here.") from None
            dataset = dataset_class(config.data_dir, train=split == "train", download=True)
    except DataError:
        raise
    except Exception as error:
        archive = Path(config.data_dir) / dataset_class.filename
        raise DataError(
            f"{config.dataset} is not in {config.data_dir} and could not be downloaded from {dataset_class.url} "
            f"({error}). Check the connection, or put the archive at {archive} (MD5 {dataset_class.tgz_md5}). "
            "If one lies there already it is damaged: delete it and try again. "
            "Other data: --dataset digits or --dataset folder:PATH."
        ) from error
    class_names = CIFAR10_CLASS_NAMES if config.dataset == "cifar10" else tuple(dataset.classes)
    images = np.asarray(dataset.data, dtype=np.uint8)
    if images.shape[1] != config.image_size:
        images = np.stack([resized(Image.fromarray(image), config.image_size) for image in images])
    return ImageSet(images, np.asarray(dataset.targets, dtype=np.int64), class_names)


def _load_digits(config: DataConfig, split: str) -> ImageSet:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    train_indices, test_indices = train_test_split(
        np.arange(len(digits.target)),
        test_size=DIGITS_TEST_FRACTION,
        stratify=digits.target,
        random_state=DIGITS_TEST_SEED,
    )
    indices = np.sort(train_indices if split == "train" else test_indices)
    grey = np.round(digits.images[indices] * (255 / 16)).astype(np.uint8)  # (N, 8, 8), 17 levels
    images = np.stack([resized(Image.fromarray(image).convert("RGB"), config.image_size) for image in grey])
    return ImageSet(images, digits.target[indices].astype(np.int64), tuple("0123456789"))
