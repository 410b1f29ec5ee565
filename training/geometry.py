"""The arithmetic of convolutions: sizes of layers and of whole networks, before anything is allocated.

Formula: Dumoulin and Visin, "A guide to convolution arithmetic for deep learning", 2016, relationship 15.
"""

from dataclasses import dataclass
from typing import overload

from training.config import ModelConfig

Shape = tuple[int, int, int]  # (C, H, W)
POOL_SIZE = 2  # window and stride of a pooling layer, pixels


class InfeasibleError(ValueError):
    """A network that cannot exist for this input: names the layer and the reason."""


@overload
def conv_output_size(
    input_size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int: ...
@overload
def conv_output_size(
    input_size: tuple[int, ...],
    kernel_size: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    padding: int | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
) -> tuple[int, ...]: ...
def conv_output_size(input_size, kernel_size, stride=1, padding=0, dilation=1):  # type: ignore[no-untyped-def]
    """Pixels along one axis after a convolution: O = floor((I + 2P - D(K - 1) - 1) / S) + 1.

    With dilation D = 1 this is O = floor((I + 2P - K) / S) + 1. Give tuples for one value per axis.
    Raises ValueError for a size, kernel, stride or dilation below 1 or a negative padding, and InfeasibleError
    where the kernel does not fit into the padded input.
    """
    if isinstance(input_size, tuple):
        axes = len(input_size)
        per_axis = [v if isinstance(v, tuple) else (v,) * axes for v in (kernel_size, stride, padding, dilation)]
        if any(len(values) != axes for values in per_axis):
            raise ValueError(f"one value per axis must be given, got {per_axis} for input_size={input_size}")
        return tuple(conv_output_size(*values) for values in zip(input_size, *per_axis, strict=True))
    sizes = {"input_size": input_size, "kernel_size": kernel_size, "stride": stride, "dilation": dilation}
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{name} >= 1 must hold, got {value}")
    if padding < 0:
        raise ValueError(f"padding >= 0 must hold, got {padding}")
    extent = dilation * (kernel_size - 1) + 1
    if extent > input_size + 2 * padding:
        raise InfeasibleError(
            f"a kernel that spans {extent} pixels does not fit into {input_size} + 2*{padding} pixels"
        )
    return (input_size + 2 * padding - extent) // stride + 1


@dataclass(frozen=True)
class LayerShape:
    """One layer of a network: what goes in, what comes out, and the formula's numbers."""

    name: str  # conv0, pool0, conv1, ..., average | flatten, classifier
    input_shape: tuple[int, ...]  # (C, H, W), or (features,)
    output_shape: tuple[int, ...]
    kernel_size: int = 0  # 0 where the layer slides no window
    stride: int = 0
    padding: int = 0


def network_layers(config: ModelConfig, input_shape: Shape, num_classes: int) -> list[LayerShape]:
    """Every layer that changes the shape, from (C, H, W) to (num_classes,). Raises InfeasibleError."""
    layers: list[LayerShape] = []
    shape = input_shape
    for index in range(config.depth):
        window = (config.at("kernel_size", index), config.at("stride", index), config.pixels_padded(index))
        layers.append(_slide(f"conv{index}", shape, config.channels(index), *window))
        shape = layers[-1].output_shape  # type: ignore[assignment]
        if config.at("pooling", index) != "none":
            layers.append(_slide(f"pool{index}", shape, shape[0], POOL_SIZE, POOL_SIZE, 0))
            shape = layers[-1].output_shape  # type: ignore[assignment]
    channels, height, width = shape
    features = channels if config.head == "average" else channels * height * width
    layers.append(LayerShape(config.head, shape, (features,)))
    layers.append(LayerShape("classifier", (features,), (num_classes,)))
    return layers


def feature_map_shapes(config: ModelConfig, input_shape: Shape) -> list[tuple[str, Shape]]:
    """(name, (C, H, W)) after every convolution and pooling layer. Raises InfeasibleError, naming the layer."""
    layers = network_layers(config, input_shape, num_classes=1)
    return [(layer.name, layer.output_shape) for layer in layers if layer.kernel_size]  # type: ignore[misc]


def _slide(name: str, shape: Shape, channels: int, kernel_size: int, stride: int, padding: int) -> LayerShape:
    try:
        height, width = conv_output_size(shape[1:], kernel_size, stride, padding)
    except InfeasibleError as error:
        raise InfeasibleError(f"{name}: {error} (its input is {shape[0]} x {shape[1]} x {shape[2]})") from None
    return LayerShape(name, shape, (channels, height, width), kernel_size, stride, padding)
