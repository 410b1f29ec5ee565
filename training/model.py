"""ConvNet, built from a ModelConfig."""

from typing import assert_never

import torch
from torch import Tensor, nn

from training.config import ModelConfig
from training.geometry import Shape
from training.layers import Addition, Classifier, Convolution, Head, Pooling, network_layers

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


class Residual(nn.Sequential):
    """x + f(x), f being its blocks."""

    def forward(self, features: Tensor) -> Tensor:
        return features + super().forward(features)


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
        self.blocks = nn.Sequential()
        for layer in network_layers(config, input_shape, num_classes):
            match layer:
                case Convolution():
                    norm = [layer.norm()] if layer.batch_norm else []
                    convolution = layer.module()
                    block = nn.Sequential(convolution, *norm, ACTIVATIONS[config.activation]())
                    self.blocks.append(block)
                    if config.init == "dirac":
                        pass_on(convolution.weight)
                case Pooling():
                    block.insert(1, layer.module())
                case Addition():
                    blocks = list(self.blocks[-layer.num_layers :])
                    del self.blocks[-layer.num_layers :]
                    self.blocks.append(Residual(*blocks))
                case Head():
                    self.head = nn.Sequential(*layer.module(), nn.Dropout(config.dropout))
                case Classifier():
                    self.classifier = layer.module()
                case _:
                    assert_never(layer)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:  # (N, C, H, W) -> (N, num_classes)
        if tuple(images.shape[1:]) != self.input_shape:
            raise ValueError(f"images must be (N, {', '.join(map(str, self.input_shape))}), got {tuple(images.shape)}")
        normalised = (images.float() - self.mean) / self.std
        return self.classifier(self.head(self.blocks(normalised)))


def pass_on(filters: Tensor) -> None:
    """Make the first filters (O, C, K, K) of a convolution pass channel 0, 1, ... on; the others stay as they are."""
    with torch.no_grad():
        nn.init.dirac_(filters[: filters.shape[1]])
