"""Whole batches by index, as tensors (B, C, H, W) in channels_last memory."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from training.data.sets import ImageSet, TrainData


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
