"""Augmentation, against windows cut out by numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training.config import DataConfig
from training.data import augmentation


def random_batch(count: int, height: int = 8, width: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def augmented(images: Tensor, seed: int = 0, **fields: int | bool) -> Tensor:
    config = DataConfig(**{"image_size": 8, "crop_padding": 0, "flip": False, **fields})
    return augmentation(config, (10.4, 20.6, 30.0))(images, torch.Generator().manual_seed(seed))


def windows(image: Tensor, padding: int) -> dict[tuple[int, int], np.ndarray]:
    """Every window of an image's size out of the image with a reflected border, by its corner."""
    _, height, width = image.shape
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    return {
        (top, left): padded[:, top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }


@pytest.mark.parametrize(("padding", "flip"), [(3, False), (0, True), (2, True)])
def test_crops_are_shifted_windows_of_the_reflected_image_and_flips_mirror_images(padding: int, flip: bool):
    images = random_batch(600)
    seen = []
    for before, after in zip(images, augmented(images, crop_padding=padding, flip=flip), strict=True):
        choices = {
            (*corner, mirrored): window[:, :, ::-1] if mirrored else window
            for corner, window in windows(before, padding).items()
            for mirrored in range(1 + flip)
        }
        (choice,) = [choice for choice, window in choices.items() if (window == after.numpy()).all()]
        seen.append(choice)
    # Every choice is drawn, image by image, about equally often: 12 times where there are most.
    possible = (2 * padding + 1) ** 2 * (1 + flip)
    assert len(set(seen)) >= 0.95 * possible
    assert max(seen.count(choice) for choice in set(seen)) < 600 / possible + 5 * (600 / possible) ** 0.5
    for top in range(2 * padding + 1):
        assert any(choice[0] == top for choice in seen)
    if flip:
        assert 230 < sum(mirrored for *_, mirrored in seen) < 370


@pytest.mark.parametrize("size", [1, 3, 5])
def test_cutout_hides_a_square_of_every_image(size: int):
    images = torch.full((300, 3, 8, 6), 200, dtype=torch.uint8)
    result = augmented(images, cutout=size)
    hidden = (result != images).all(1)  # (B, H, W)
    assert ((result != images).any(1) == hidden).all()
    assert (hidden.sum((1, 2)) == size * size).all()
    assert (hidden.any(1).sum(1) == size).all()
    assert (hidden.any(2).sum(1) == size).all()
    assert (result.permute(0, 2, 3, 1)[hidden] == torch.tensor([10, 21, 30])).all()  # the mean colour, rounded
    corners = {tuple(square.nonzero()[0].tolist()) for square in hidden}
    assert corners == {(top, left) for top in range(8 - size + 1) for left in range(6 - size + 1)}


ALL = {"crop_padding": 2, "flip": True, "cutout": 2}


@pytest.mark.parametrize("fields", [{}, {"crop_padding": 2}, {"flip": True}, {"cutout": 2}, ALL], ids=str)
def test_augmentation_keeps_kind_and_input(fields: dict[str, int | bool]):
    images = random_batch(64)
    before = images.clone()
    result = augmented(images, **fields)
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert images.equal(before)
    assert result.equal(images) == (not fields)


def test_without_augmentation_images_stay_as_they_are():
    images = random_batch(64)
    config = DataConfig(image_size=8, **ALL).without_augmentation()
    assert augmentation(config, (0.0, 0.0, 0.0))(images, torch.Generator()).equal(images)


def test_augmentation_follows_from_the_generator_alone():
    images = random_batch(64)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first = augmented(images, seed=3, **ALL)
        assert torch.random.get_rng_state().equal(before)
        torch.manual_seed(2)
        assert augmented(images, seed=3, **ALL).equal(first)
    assert not augmented(images, seed=4, **ALL).equal(first)


def test_every_image_is_augmented_in_its_own_way():
    same = random_batch(1).expand(50, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    assert len({image.numpy().tobytes() for image in augmented(same, **ALL)}) > 30
