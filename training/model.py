"""ConvNet, built from a ModelConfig."""

import torch
from torch import Tensor, nn

from training.config import ModelConfig
from training.geometry import POOL_SIZE, Shape, network_layers

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
POOLINGS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}


class ConvNet(nn.Module):
    """Blocks of convolution, pooling, batch norm and activation, then a linear classifier.

    Takes images as (N, C, H, W), uint8 or float in [0, 255], and returns logits (N, num_classes). The normalisation
    with the train split's mean and std is part of the network, so that a checkpoint needs nothing else. Pooling comes
    before norm and activation, which then cost a quarter (as in cifar10-airbench). Raises InfeasibleError for a network
    that does not fit the input.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        config: ModelConfig,
        input_shape: Shape,
        num_classes: int,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
    ) -> None:
        super().__init__()
        self.input_shape = tuple(input_shape)  # (C, H, W)
        channels = input_shape[0]
        self.register_buffer("mean", torch.tensor(mean or (0.0,) * channels).view(1, channels, 1, 1))
        self.register_buffer("std", torch.tensor(std or (1.0,) * channels).view(1, channels, 1, 1))
        features = network_layers(config, input_shape, num_classes)[-1].input_shape[0]
        blocks = []
        for layer in range(config.depth):
            blocks.append(conv_block(config, layer, channels))
            channels = config.channels(layer)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1) if config.head == "average" else nn.Identity(),
            nn.Flatten(),
            nn.Dropout(config.dropout),
        )
        self.classifier = nn.Linear(features, num_classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, num_classes)
        if tuple(images.shape[1:]) != self.input_shape:
            raise ValueError(f"images must be (N, {', '.join(map(str, self.input_shape))}), got {tuple(images.shape)}")
        normalised = (images.float() - self.mean) / self.std
        return self.classifier(self.head(self.blocks(normalised)))


def conv_block(config: ModelConfig, layer: int, in_channels: int) -> nn.Sequential:
    """Convolution, pooling, batch norm and activation of one layer; a bias only where no norm follows."""
    out_channels = config.channels(layer)
    parts: list[nn.Module] = [
        nn.Conv2d(
            in_channels,
            out_channels,
            config.at("kernel_size", layer),
            stride=config.at("stride", layer),
            padding=config.pixels_padded(layer),
            bias=not config.batch_norm,
        )
    ]
    if config.at("pooling", layer) != "none":
        parts.append(POOLINGS[config.at("pooling", layer)](POOL_SIZE))
    if config.batch_norm:
        parts.append(nn.BatchNorm2d(out_channels))
    parts.append(ACTIVATIONS[config.activation]())
    return nn.Sequential(*parts)
