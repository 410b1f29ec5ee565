"""Each kind of layer in one place: its shapes, what it costs for one image, and its module.

A network is a list of them, counted before anything is allocated; torch is imported only when a module is made.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from training.config import ModelConfig
from training.geometry import InfeasibleError, Shape, conv_output_size

if TYPE_CHECKING:
    from torch import nn

POOL_SIZE = 2  # window and stride of a pooling layer, pixels


@dataclass(frozen=True)
class Convolution:
    """A convolution; with `batch_norm` a norm follows, which takes the place of the bias and is counted here."""

    name: str  # conv0, conv1, ...
    input_shape: Shape
    channels: int  # of the output
    kernel_size: int  # pixels a side
    stride: int
    padding: int  # zeros on each side
    batch_norm: bool

    @cached_property
    def output_shape(self) -> Shape:
        return (self.channels, *_slide(self))

    @property
    def num_weights(self) -> int:
        return self.input_shape[0] * self.channels * self.kernel_size**2

    @property
    def num_params(self) -> int:
        return self.num_weights + self.channels * (2 if self.batch_norm else 1)

    @property
    def multiply_adds(self) -> int:  # those of norms and activations are left out
        return self.num_weights * prod(self.output_shape[1:])

    def module(self) -> "nn.Conv2d":
        from torch import nn

        window = (self.kernel_size, self.stride, self.padding)
        return nn.Conv2d(self.input_shape[0], self.channels, *window, bias=not self.batch_norm)

    def norm(self) -> "nn.BatchNorm2d":
        from torch import nn

        return nn.BatchNorm2d(self.channels)


@dataclass(frozen=True)
class Pooling:
    """The maximum or the mean of every window, without padding."""

    name: str  # pool0, pool1, ...
    input_shape: Shape
    kind: Literal["max", "avg"]
    kernel_size: ClassVar[int] = POOL_SIZE
    stride: ClassVar[int] = POOL_SIZE
    padding: ClassVar[int] = 0
    num_params: ClassVar[int] = 0
    multiply_adds: ClassVar[int] = 0

    @cached_property
    def output_shape(self) -> Shape:
        return (self.input_shape[0], *_slide(self))

    def module(self) -> "nn.Module":
        from torch import nn

        return {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[self.kind](self.kernel_size, self.stride)


@dataclass(frozen=True)
class Addition:
    """x + f(x), where f is the last `num_layers` convolution layers and x their input."""

    name: str  # add0, add1, ...: by stage
    input_shape: Shape
    num_layers: int
    num_params: ClassVar[int] = 0
    multiply_adds: ClassVar[int] = 0

    @property
    def output_shape(self) -> Shape:
        return self.input_shape


@dataclass(frozen=True)
class Head:
    """Feature maps to features: the mean or the maximum of each channel, or every position."""

    name: Literal["average", "max", "flatten"]
    input_shape: Shape
    num_params: ClassVar[int] = 0
    multiply_adds: ClassVar[int] = 0

    @property
    def output_shape(self) -> tuple[int]:
        return (prod(self.input_shape) if self.name == "flatten" else self.input_shape[0],)

    def module(self) -> "nn.Sequential":
        from torch import nn

        pooling = {"average": nn.AdaptiveAvgPool2d(1), "max": nn.AdaptiveMaxPool2d(1), "flatten": nn.Identity()}
        return nn.Sequential(pooling[self.name], nn.Flatten())


@dataclass(frozen=True)
class Classifier:
    """A linear layer from features to logits."""

    input_shape: tuple[int]
    num_classes: int
    name: ClassVar[str] = "classifier"

    @property
    def output_shape(self) -> tuple[int]:
        return (self.num_classes,)

    @property
    def num_params(self) -> int:
        return self.multiply_adds + self.num_classes

    @property
    def multiply_adds(self) -> int:
        return self.input_shape[0] * self.num_classes

    def module(self) -> "nn.Linear":
        from torch import nn

        return nn.Linear(self.input_shape[0], self.num_classes)


Layer = Convolution | Pooling | Addition | Head | Classifier


def network_layers(config: ModelConfig, input_shape: Shape, num_classes: int) -> list[Layer]:
    """All layers but norms and activations, from (C, H, W) to (num_classes,). Raises InfeasibleError."""
    layers: list[Layer] = []
    shape = branched = input_shape
    for index in range(config.depth):
        stage, place = divmod(index, config.layers_per_stage)
        if place == 1:
            branched = shape
        convolution = Convolution(
            f"conv{index}",
            shape,
            config.at("width", index),
            kernel_size=config.at("kernel_size", index),
            stride=config.at("stride", index),
            padding=config.pixels_padded(index),
            batch_norm=config.batch_norm,
        )
        layers.append(convolution)
        shape = convolution.output_shape
        if config.at("pooling", index) != "none":
            pooling = Pooling(f"pool{index}", shape, config.at("pooling", index))
            layers.append(pooling)
            shape = pooling.output_shape
        stage_ends = place == config.layers_per_stage - 1 or index == config.depth - 1
        if config.residual and place and stage_ends:
            if shape != branched:
                before, after = (" x ".join(map(str, each)) for each in (branched, shape))
                raise InfeasibleError(f"conv{index}: a residual sum needs equal shapes, got {before} and {after}")
            layers.append(Addition(f"add{stage}", shape, num_layers=place))
    head = Head(config.head, shape)
    return [*layers, head, Classifier(head.output_shape, num_classes)]


def count_costs(config: ModelConfig, input_shape: Shape, num_classes: int) -> tuple[int, int]:
    """(trainable parameters, multiply-adds for one image) of a network. Raises InfeasibleError."""
    layers = network_layers(config, input_shape, num_classes)
    return sum(layer.num_params for layer in layers), sum(layer.multiply_adds for layer in layers)


def _slide(layer: Convolution | Pooling) -> tuple[int, int]:
    """Height and width after a window has slid over the input."""
    channels, height, width = layer.input_shape
    try:
        rows, columns = conv_output_size((height, width), layer.kernel_size, layer.stride, layer.padding)
    except InfeasibleError as error:
        raise InfeasibleError(f"{layer.name}: {error} (its input is {channels} x {height} x {width})") from None
    return rows, columns
