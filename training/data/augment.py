"""Augmentation as tensor operations on whole batches."""

from collections.abc import Callable

import torch
from torch import Tensor

from training.config import DataConfig


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
