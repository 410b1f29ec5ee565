"""The arithmetic of convolutions, against torch's own forward passes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import conv2d

from training.config import ModelConfig
from training.geometry import InfeasibleError, Shape, conv_output_size, feature_map_shapes
from training.model import ConvNet


def per_axis(values: st.SearchStrategy[int]) -> st.SearchStrategy[int | tuple[int, int]]:
    return values | st.tuples(values, values)


def as_pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


@given(
    input_size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel_size=per_axis(st.integers(1, 6)),
    stride=per_axis(st.integers(1, 5)),
    padding=per_axis(st.integers(0, 4)),
    dilation=per_axis(st.integers(1, 4)),
)
def test_conv_output_size_is_what_torch_computes(input_size, kernel_size, stride, padding, dilation):
    images, weight = torch.zeros(1, 1, *input_size), torch.zeros(1, 1, *as_pair(kernel_size))
    try:
        expected = tuple(conv2d(images, weight, stride=stride, padding=padding, dilation=dilation).shape[2:])
    except RuntimeError:
        with pytest.raises(InfeasibleError):
            conv_output_size(input_size, kernel_size, stride, padding, dilation)
    else:
        assert conv_output_size(input_size, kernel_size, stride, padding, dilation) == expected


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 5), st.integers(0, 4), st.integers(1, 4))
def test_conv_output_size_of_one_axis(input_size, kernel_size, stride, padding, dilation):
    try:
        expected = torch.conv1d(
            torch.zeros(1, 1, input_size), torch.zeros(1, 1, kernel_size), None, stride, padding, dilation
        ).shape[2]
    except RuntimeError:
        with pytest.raises(InfeasibleError):
            conv_output_size(input_size, kernel_size, stride, padding, dilation)
    else:
        assert conv_output_size(input_size, kernel_size, stride, padding, dilation) == expected


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"input_size": 0, "kernel_size": 1}, "input_size"),
        ({"input_size": 5, "kernel_size": 0}, "kernel_size"),
        ({"input_size": 5, "kernel_size": 1, "stride": 0}, "stride"),
        ({"input_size": 5, "kernel_size": 1, "padding": -1}, "padding"),
        ({"input_size": 5, "kernel_size": 1, "dilation": 0}, "dilation"),
        ({"input_size": (5, 5), "kernel_size": (1, 1, 1)}, "one value per axis"),
    ],
)
def test_conv_output_size_refuses_senseless_numbers(arguments: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named) as caught:
        conv_output_size(**arguments)
    assert not isinstance(caught.value, InfeasibleError)


input_shapes = st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24))


def torch_layers(config: ModelConfig, in_channels: int) -> Iterator[tuple[str, nn.Module]]:
    """The convolutions and poolings that a config means, written down once more."""

    def value(field: str, layer: int) -> Any:
        setting = getattr(config, field)
        return setting[layer] if isinstance(setting, tuple) else setting

    for layer in range(config.depth):
        width = config.width
        out_channels = width[layer] if isinstance(width, tuple) else round(width * config.width_growth**layer)
        kernel_size, stride, padding = (value(field, layer) for field in ("kernel_size", "stride", "padding"))
        if padding == "same" and stride > 1:  # which torch refuses to work out
            padding = (kernel_size - 1) // 2
        yield f"conv{layer}", nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        pooling = value("pooling", layer)
        if pooling != "none":
            yield f"pool{layer}", {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[pooling](2, 2)
        in_channels = out_channels


def torch_shapes(config: ModelConfig, input_shape: Shape) -> tuple[list[tuple[str, Shape]], str | None]:
    """(shape after every layer, name of the layer at which torch raises)."""
    images, shapes = torch.zeros(1, *input_shape), []
    for name, layer in torch_layers(config, input_shape[0]):
        try:
            images = layer(images)
        except RuntimeError:
            return shapes, name
        shapes.append((name, tuple(images.shape[1:])))
    return shapes, None


@given(config=..., input_shape=input_shapes)
def test_feature_map_shapes_are_those_of_a_forward_pass(config: ModelConfig, input_shape: Shape):
    expected, impossible = torch_shapes(config, input_shape)
    if impossible:
        for build in (lambda: feature_map_shapes(config, input_shape), lambda: ConvNet(config, input_shape, 2)):
            with pytest.raises(InfeasibleError, match=rf"^{impossible}: .*\d"):
                build()
        return
    assert feature_map_shapes(config, input_shape) == expected

    seen: list[Shape] = []
    model = ConvNet(config, input_shape, num_classes=2).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape[1:])))
    assert model(torch.zeros(2, *input_shape)).shape == (2, 2)
    assert seen == [shape for _, shape in expected]


def test_an_impossible_network_is_named_with_layer_and_reason():
    config = ModelConfig(depth=3, width=8, kernel_size=[3, 3, 7], padding="valid", pooling="max")
    with pytest.raises(InfeasibleError, match=r"^conv2: .*7 pixels.*2 \+ 2\*0.*16 x 2 x 2"):
        feature_map_shapes(config, (1, 14, 14))
