"""Batches: every image once an epoch, in an order of their own."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numbered_images import numbered_images, numbers

from training.config import DataConfig
from training.data import TrainData, batch_loader, data_loaders, load_test


@given(count=st.integers(2, 70), batch_size=st.integers(2, 20), seed=st.integers(0, 2**63))
def test_a_loader_yields_every_image_once_an_epoch(count: int, batch_size: int, seed: int):
    image_set = numbered_images(np.arange(count) % 2)
    loader = batch_loader(image_set, batch_size)
    sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
    assert [len(labels) for _, labels in loader] == sizes
    assert len(loader) == len(sizes)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert images.equal(torch.from_numpy(image_set.images).permute(0, 3, 1, 2))
    assert labels.tolist() == image_set.labels.tolist()

    shuffled = batch_loader(image_set, batch_size, generator=torch.Generator().manual_seed(seed))
    batches = list(shuffled)
    lone = count % batch_size == 1
    assert len(shuffled) == len(batches) == len(sizes) - lone
    order = [number for images, _ in batches for number in numbers(images.permute(0, 2, 3, 1))]
    assert len(set(order)) == len(order) == count - lone
    assert [label for _, labels in batches for label in labels.tolist()] == [number % 2 for number in order]


def epoch_order(loader) -> list[int]:
    return [number for images, _ in loader for number in numbers(images.permute(0, 2, 3, 1))]


def test_the_order_follows_from_the_generator():
    image_set = numbered_images(np.arange(100) % 2)
    first, again, other = (
        batch_loader(image_set, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    order = epoch_order(first)
    assert order == epoch_order(again)
    assert order != epoch_order(other)
    assert order != sorted(order)
    assert epoch_order(first) != order, "the next epoch must have another order"


def test_batches_are_images_of_their_own():
    image_set = numbered_images(np.arange(20) % 2)
    image_set.images.setflags(write=False)
    before = image_set.images.copy()
    for images, _ in batch_loader(image_set, 8):
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        images.zero_()
    assert (image_set.images == before).all()


def test_data_loaders_are_train_val_and_test(digits: TrainData):
    test = load_test(DataConfig(dataset="digits", image_size=8))
    loaders = data_loaders(digits, test, batch_size=100, seed=5)
    parts = (digits.train, digits.val, test)
    for loader, part in zip(loaders, parts, strict=True):
        labels = torch.cat([labels for _, labels in loader])
        assert sorted(labels.tolist()) == sorted(part.labels.tolist())
    assert torch.cat([labels for _, labels in loaders[1]]).tolist() == digits.val.labels.tolist()
    assert torch.cat([labels for _, labels in loaders[2]]).tolist() == test.labels.tolist()
    orders = [
        torch.cat([labels for _, labels in data_loaders(digits, test, 100, seed)[0]]).tolist() for seed in (5, 5, 6)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != digits.train.labels.tolist()


def test_loaders_leave_the_global_generator_alone():
    image_set = numbered_images(np.arange(20) % 2)
    before = torch.random.get_rng_state()
    list(batch_loader(image_set, 8))
    list(batch_loader(image_set, 8, generator=torch.Generator()))
    assert torch.random.get_rng_state().equal(before)
