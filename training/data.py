"""Data sets as uint8 arrays, decoded once; the seeded split; whole batches by index; augmentation as tensor operations.

Knows nothing of models. Images are (N, H, W, C) in arrays and (B, C, H, W) in channels_last memory as tensors.
scikit-learn and torchvision take seconds to import, and a worker, which is handed the data, needs neither: they are
imported where they are used.
"""

import contextlib
import hashlib
import math
import os
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.config import DataConfig
from training.errors import DataError
from training.files import new_file

CIFAR = ("cifar10", "cifar100")
CIFAR10_CLASS_NAMES = ("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS_TEST_FRACTION = 0.2
DIGITS_TEST_SEED = 0  # fixed: the test split must not depend on any search


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


def load_data(config: DataConfig, may_write: bool = True) -> TrainData:
    """Load, and where needed download, the official train split, and cut it into train and val: stratified, by seed.

    Without `may_write` data_dir is only read: nothing is downloaded, and no decoded folder kept. Raises DataError.
    """
    return split_train(load_official_train(config, may_write), config)


def load_official_train(config: DataConfig, may_write: bool = True) -> ImageSet:
    """The official train split, whole. Raises DataError."""
    return _load(config, "train", may_write)


def load_test(config: DataConfig, may_write: bool = True) -> ImageSet:
    """The official test split; for digits, which have none, a cut with a fixed seed. Raises DataError."""
    return _load(config, "test", may_write)


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


def _load(config: DataConfig, split: str, may_write: bool) -> ImageSet:
    if config.dataset in CIFAR:
        return _load_cifar(config, split, may_write)
    if config.dataset == "digits":
        return _load_digits(config, split)
    return _load_folder(config, split, may_write)


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
            "Where one lies there already it is damaged: delete it and try again. "
            "Other data: --dataset digits or --dataset folder:PATH."
        ) from error
    class_names = CIFAR10_CLASS_NAMES if config.dataset == "cifar10" else tuple(dataset.classes)
    images = np.asarray(dataset.data, dtype=np.uint8)
    if images.shape[1] != config.image_size:
        images = np.stack([_resize(Image.fromarray(image), config.image_size) for image in images])
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
    images = np.stack([_resize(Image.fromarray(image).convert("RGB"), config.image_size) for image in grey])
    return ImageSet(images, digits.target[indices].astype(np.int64), tuple("0123456789"))


def _resize(image: Image.Image, size: int) -> NDArray[np.uint8]:
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)  # (H, W, 3)


# Image folders: PATH/train/<class>/*, PATH/test/<class>/*


def _load_folder(config: DataConfig, split: str, may_write: bool) -> ImageSet:
    listed = _list_folder(config)
    class_names = tuple(sorted(listed[split]))
    files = [file for name in class_names for file in listed[split][name]]
    labels = np.repeat(np.arange(len(class_names)), [len(listed[split][name]) for name in class_names])
    return ImageSet(_decode_cached(files, config, split, may_write), labels.astype(np.int64), class_names)


def _list_folder(config: DataConfig) -> dict[str, dict[str, list[Path]]]:
    """Files by split and class, both splits with the same two or more classes. Raises DataError."""
    root = Path(config.dataset.removeprefix("folder:")).expanduser()
    listed = {name: _list_classes(root / name) for name in ("train", "test")}
    if len(listed["train"]) < 2:
        raise DataError(
            f"{root / 'train'} holds {len(listed['train'])} class folder(s); a classifier needs two or more"
        )
    if listed["train"].keys() != listed["test"].keys():
        differing = ", ".join(sorted(listed["train"].keys() ^ listed["test"].keys()))
        raise DataError(f"{root}: classes that are only in train/ or only in test/: {differing}. Make the two agree.")
    return listed


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; images belong in PATH/train/<class>/* and PATH/test/<class>/*")
    classes = {
        entry.name: sorted(file for file in entry.iterdir() if file.is_file() and not file.name.startswith("."))
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    }
    for name in sorted(classes):
        if not classes[name]:
            raise DataError(f"class {name!r} has no images: {folder / name} is empty. Add images or remove the folder.")
    return classes


def _decode_cached(files: list[Path], config: DataConfig, split: str, may_write: bool) -> NDArray[np.uint8]:
    """Decoded images (N, H, W, 3), from data_dir/.cache where no name, size or time of a file has changed."""
    fingerprint = hashlib.sha256(str(config.image_size).encode())
    for file in files:
        status = file.stat()
        fingerprint.update(os.fsencode(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0"))
    place = hashlib.sha256(os.fsencode(f"{config.dataset}\0{split}\0{config.image_size}")).hexdigest()[:16]
    cached = Path(config.data_dir) / ".cache" / f"{place}-{fingerprint.hexdigest()[:16]}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        kept = np.lib.format.open_memmap(cached, mode="r")  # which takes no memory for what a header claims
        if (kept.shape, kept.dtype) == ((len(files), config.image_size, config.image_size, 3), np.uint8):
            return np.array(kept)
    images = _decode(files, config.image_size, f"Decoding {len(files)} {split} images")
    if not may_write:
        return images
    try:
        _keep(images, cached, outdated=f"{place}-*.npy")
    except OSError as error:
        raise DataError(
            f"decoded images cannot be kept in {cached.parent} ({error}). Choose another --data-dir."
        ) from None
    return images


def _keep(images: NDArray[np.uint8], cached: Path, outdated: str) -> None:
    cached.parent.mkdir(parents=True, exist_ok=True)
    unfinished = cached.with_name(f"{cached.name}.{os.getpid()}")
    with new_file(unfinished) as stream:
        np.save(stream, images)
    for other in cached.parent.glob(outdated):
        other.unlink(missing_ok=True)
    unfinished.rename(cached)


def _decode(files: list[Path], image_size: int, description: str) -> NDArray[np.uint8]:
    images = np.empty((len(files), image_size, image_size, 3), dtype=np.uint8)
    console = Console(stderr=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(lambda file: decode_image(file, image_size), files)
        for index, image in enumerate(
            track(decoded, description, total=len(files), console=console, disable=not console.is_terminal)
        ):
            images[index] = image
    return images


def decode_image(file: Path, image_size: int) -> NDArray[np.uint8]:
    """One image file of any format and mode that Pillow opens as (image_size, image_size, 3). Raises DataError."""
    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > (Image.MAX_IMAGE_PIXELS or math.inf):  # at which Pillow only warns
                raise Image.DecompressionBombError(f"{opened.width} x {opened.height} pixels, too many")
            if opened.format == "EPS":  # Pillow would have Ghostscript run it
                raise ValueError("PostScript is a program, which is not run")
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 and 32 bits a pixel, which convert() would clip at 255
                values = np.asarray(image, dtype=np.int64)
                image = Image.fromarray((values >> 8 if values.max() > 255 else values).clip(0, 255).astype(np.uint8))
            if "transparency" in image.info:  # convert() warns of it unless it may keep it
                image = image.convert("RGBA")
            return _resize(image.convert("RGB"), image_size)
    except Exception as error:  # Pillow's decoders raise what they like
        raise DataError(f"{file} cannot be read as an image ({error}). Mend or remove it.") from error


# Batches


class BatchedImages(Dataset[tuple[Tensor, Tensor]]):
    """Whole batches by a tensor of indices on the device: uint8 (B, C, H, W) and labels (B,), there as well.

    On the CPU every batch is a copy out of the (shared, read-only) array; another device holds the whole set.
    """

    def __init__(self, image_set: ImageSet, device: torch.device) -> None:
        self.labels = torch.from_numpy(image_set.labels.copy()).to(device)
        self.array = image_set.images
        self.resident = None if device.type == "cpu" else torch.from_numpy(self.array.copy()).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(self.array[index.numpy()]) if self.resident is None else self.resident[index]
        return images.permute(0, 3, 1, 2), self.labels[index]


class BatchesOfIndices(Sampler[Tensor]):
    """Indices (B,) of every batch, in random order with a generator; on the device, where they go once an epoch."""

    def __init__(self, count: int, batch_size: int, device: torch.device, generator: torch.Generator | None) -> None:
        self.count, self.batch_size, self.device, self.generator = count, batch_size, device, generator
        leaves_one_out = generator is not None and count % batch_size == 1
        self.taken = count - leaves_one_out

    def __len__(self) -> int:
        return math.ceil(self.taken / self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        order = torch.arange(self.count)
        if self.generator is not None:
            order = torch.randperm(self.count, generator=self.generator)
        yield from order[: self.taken].to(self.device).split(self.batch_size)


def batch_loader(
    image_set: ImageSet,
    batch_size: int,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of (images uint8 (B, C, H, W), labels (B,)): in random order with a generator, else in order.

    A last batch of a single image is left out of a random order: batch norm cannot train on it.
    """
    device = torch.device(device)
    # An own generator: iter(DataLoader) draws a seed, and the global generator belongs to dropout.
    return DataLoader(
        BatchedImages(image_set, device),
        sampler=BatchesOfIndices(len(image_set.labels), batch_size, device, generator),
        batch_size=None,
        generator=generator or torch.Generator(),
    )


def data_loaders(
    data: TrainData, test: ImageSet, batch_size: int, seed: int = 0
) -> tuple[DataLoader[tuple[Tensor, Tensor]], ...]:
    """(train, val, test) loaders on the CPU, train in random order."""
    train = batch_loader(data.train, batch_size, generator=torch.Generator().manual_seed(seed))
    return train, batch_loader(data.val, batch_size), batch_loader(test, batch_size)


def augmentation(
    config: DataConfig, mean: tuple[float, ...], device: torch.device | str = "cpu"
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """A function (images uint8 (B, C, H, W), generator), both on the device -> augmented images of the same kind."""
    colour = torch.tensor(mean).round().to(torch.uint8).view(1, -1, 1, 1).to(device)

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        if config.crop_padding or config.flip:
            images = _crop_and_flip(images, config, generator)
        if config.cutout:
            images = _cut_out(images, config.cutout, colour, generator)
        return images

    return augment


def _crop_and_flip(images: Tensor, config: DataConfig, generator: torch.Generator) -> Tensor:
    """Shift every image by up to crop_padding pixels, its border reflected, and mirror half of them: one gather."""
    batch, channels, height, width = images.shape
    device = images.device

    def coordinates(
        size: int,
    ) -> Tensor:  # (B, size): the source row or column of each target, reflected at the borders
        reach = min(config.crop_padding, size - 1)
        shifts = torch.randint(-reach, reach + 1, (batch, 1), generator=generator, device=device)
        source = (torch.arange(size, device=device) + shifts).abs()
        return (size - 1) - ((size - 1) - source).abs()

    rows, columns = coordinates(height), coordinates(width)
    if config.flip:
        mirrored = torch.rand((batch, 1), generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    # One index of a pixel for each pixel: several times faster than indices of image, row and column.
    first = torch.arange(batch, device=device) * height
    source = (first[:, None, None] + rows[:, :, None]) * width + columns[:, None, :]
    pixels = images.permute(0, 2, 3, 1).reshape(-1, channels)  # as they lie in memory
    picked = pixels.index_select(0, source.flatten()).view(batch, height, width, channels)
    return picked.permute(0, 3, 1, 2)


def _cut_out(images: Tensor, size: int, colour: Tensor, generator: torch.Generator) -> Tensor:
    """Hide a size x size square of every image, wholly inside it, behind the mean colour (DeVries and Taylor, 2017)."""
    batch, _, height, width = images.shape
    device = images.device

    def inside(length: int) -> Tensor:  # (B, length) bool
        start = torch.randint(0, length - size + 1, (batch, 1), generator=generator, device=device)
        position = torch.arange(length, device=device)
        return (position >= start) & (position < start + size)

    hidden = inside(height)[:, None, :, None] & inside(width)[:, None, None, :]
    return torch.where(hidden, colour, images)
