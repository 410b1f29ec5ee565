"""Layers: their shapes and costs, against torch's own forward passes, counts and flop counter."""

import tracemalloc
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.config import ModelConfig
from training.geometry import InfeasibleError, Shape
from training.layers import Addition, Layer, count_costs, network_layers
from training.model import ConvNet, Residual

input_shapes = st.tuples(st.integers(1, 3), st.integers(1, 24), st.integers(1, 24))


def torch_layers(config: ModelConfig, in_channels: int) -> Iterator[tuple[str, nn.Module]]:
    """The convolutions and poolings that a config means, written down once more; a sum's module is the identity."""

    def value(field: str, layer: int, in_later_layers: Any = None) -> Any:
        setting = getattr(config, field)
        if isinstance(setting, tuple):
            return setting[layer]
        starts_a_stage = layer in range(0, config.depth, config.layers_per_stage)
        return setting if starts_a_stage or in_later_layers is None else in_later_layers

    for layer in range(config.depth):
        width, stage = config.width, layer // config.layers_per_stage
        out_channels = width[layer] if isinstance(width, tuple) else round(width * config.width_growth**stage)
        kernel_size, stride, padding = value("kernel_size", layer), value("stride", layer, 1), value("padding", layer)
        if padding == "same" and stride > 1:  # which torch refuses to work out
            padding = (kernel_size - 1) // 2
        yield f"conv{layer}", nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        pooling = value("pooling", layer, "none")
        if pooling != "none":
            yield f"pool{layer}", {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[pooling](2, 2)
        in_channels = out_channels
        last = min((stage + 1) * config.layers_per_stage, config.depth) - 1
        if config.residual and layer == last and layer > stage * config.layers_per_stage:
            yield f"add{stage}", nn.Identity()


def torch_shapes(config: ModelConfig, input_shape: Shape) -> tuple[list[tuple[str, Shape]], str | None]:
    """(shape after every layer, name of the layer at which torch raises)."""
    images, shapes = torch.zeros(1, *input_shape), list[tuple[str, Shape]]()
    for name, layer in torch_layers(config, input_shape[0]):
        try:
            images = layer(images)
        except RuntimeError:
            return shapes, name
        if name.startswith("add"):
            first = int(name[3:]) * config.layers_per_stage  # with its pooling, if there is one
            summand = [shape for name, shape in shapes if name in (f"conv{first}", f"pool{first}")][-1]
            if summand != images.shape[1:]:
                return shapes, [name for name, _ in shapes if name.startswith("conv")][-1]
        shapes.append((name, tuple(images.shape[1:])))
    return shapes, None


@given(config=..., input_shape=input_shapes)
def test_shapes_are_those_of_a_forward_pass(config: ModelConfig, input_shape: Shape):
    expected, impossible = torch_shapes(config, input_shape)
    if impossible:
        for build in (network_layers, ConvNet):
            with pytest.raises(InfeasibleError, match=rf"^{impossible}: .*\d"):
                build(config, input_shape, 2)
        return
    layers = network_layers(config, input_shape, num_classes=2)
    assert [(layer.name, layer.output_shape) for layer in layers[:-2]] == expected

    seen: list[Shape] = []
    model = ConvNet(config, input_shape, num_classes=2).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | Residual):
            module.register_forward_hook(lambda _module, _inputs, output: seen.append(tuple(output.shape[1:])))
    assert model(torch.zeros(2, *input_shape)).shape == (2, 2)
    assert seen == [shape for _, shape in expected]


def test_an_impossible_network_is_named_with_layer_and_reason():
    config = ModelConfig(depth=3, width=8, kernel_size=[3, 3, 7], padding="valid", pooling="max")
    with pytest.raises(InfeasibleError, match=r"^conv2: .*7 pixels.*2 \+ 2\*0.*16 x 2 x 2"):
        network_layers(config, (1, 14, 14), num_classes=2)


@pytest.mark.parametrize(
    "fields",
    [
        {"head": "max"},
        {"batch_norm": False, "head": "flatten"},
        {"pooling": "avg", "kernel_size": 4, "padding": 1, "stride": 2},
    ],
    ids=str,
)
def test_each_kind_of_layer_costs_what_its_module_does(fields: dict[str, Any]):
    layers = network_layers(ModelConfig(depth=2, width=4, **fields), (3, 24, 20), num_classes=5)
    assert {type(layer) for layer in layers} == {*get_args(Layer)} - {Addition}  # which costs nothing
    for layer in layers:
        module = layer.module()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            output = module(torch.zeros(1, *layer.input_shape))
        assert tuple(output.shape[1:]) == layer.output_shape
        assert 2 * layer.multiply_adds == counter.get_total_flops()
        parts = [module, layer.norm()] if getattr(layer, "batch_norm", False) else [module]
        assert layer.num_params == sum(parameter.numel() for part in parts for parameter in part.parameters())


def test_a_stage_that_changes_its_shape_has_no_residual_sum():
    fields: dict[str, Any] = {"depth": 5, "layers_per_stage": 2, "width": 8, "residual": True}
    names = [layer.name for layer in network_layers(ModelConfig(**fields), (3, 32, 32), num_classes=2)]
    assert [name for name in names if not name.startswith("pool")] == (
        ["conv0", "conv1", "add0", "conv2", "conv3", "add1", "conv4", "average", "classifier"]
    )
    for later, message in (
        ({"padding": "valid"}, "conv1: a residual sum needs equal shapes, got 8 x 15 x 15 and 8 x 13 x 13"),
        ({"width": [8, 8, 16, 8, 8]}, "conv3: .* got 16 x 8 x 8 and 8 x 8 x 8"),
    ):
        with pytest.raises(InfeasibleError, match=message):
            network_layers(ModelConfig(**{**fields, **later}), (3, 32, 32), num_classes=2)


def test_costs_are_counted_without_allocating():
    depth, width = 40, 10**6
    config = ModelConfig(depth=depth, width=width, width_growth=1.0, pooling="none", batch_norm=False)
    tracemalloc.start()
    num_params, multiply_adds = count_costs(config, (3, 32, 32), num_classes=10)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    convolutions = 3 * width * 9 + (depth - 1) * width**2 * 9  # 1.4 petabytes in float32
    assert num_params == convolutions + depth * width + width * 10 + 10
    assert multiply_adds == convolutions * 32 * 32 + width * 10
    assert peak < 1e6


def test_the_former_name_of_the_module_can_be_imported():
    from training.costs import count_costs as found

    assert found is count_costs
