"""ConvNet: what it computes and what it costs, against torch's own operations, counts and flop counter."""

from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.config import ModelConfig
from training.geometry import InfeasibleError, Shape
from training.layers import count_costs
from training.model import ConvNet

SHAPE = (3, 16, 12)


def feasible_model(config: ModelConfig, input_shape: Shape = SHAPE, num_classes: int = 5) -> ConvNet:
    try:
        return ConvNet(config, input_shape, num_classes).eval()
    except InfeasibleError:
        assume(False)
        raise


@given(config=...)
def test_costs_are_those_of_a_counted_forward_pass(config: ModelConfig):
    model = feasible_model(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *SHAPE))
    num_params, multiply_adds = count_costs(config, SHAPE, num_classes=5)
    assert num_params == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert 2 * multiply_adds == counter.get_total_flops()


def plain_forward(
    weights: dict[str, torch.Tensor], config: ModelConfig, images: torch.Tensor, stages: list[list[str]]
) -> torch.Tensor:
    """What a ConvNet of equal layers in eval mode should compute, as one reads it in the config.

    `stages` holds the name of every block in the state dict, stage by stage.
    """

    def block(features: torch.Tensor, name: str, pooling: str) -> torch.Tensor:
        names = [key for key in weights if key.startswith(f"{name}.")]
        convolution = [weights[key] for key in names if key.startswith(f"{name}.0.")]
        features = F.conv2d(features, *convolution, padding="same")
        if pooling != "none":
            features = {"max": F.max_pool2d, "avg": F.avg_pool2d}[pooling](features, 2)
        if config.batch_norm:
            norm = {key.rpartition(".")[2]: weights[key] for key in names if not key.startswith(f"{name}.0.")}
            features = F.batch_norm(
                features, norm["running_mean"], norm["running_var"], norm["weight"], norm["bias"], training=False
            )
        return {"relu": F.relu, "gelu": F.gelu, "silu": F.silu}[config.activation](features)

    features = (images.float() - weights["mean"]) / weights["std"]
    for first, *others in stages:
        summand = features = block(features, first, config.pooling)
        for name in others:
            features = block(features, name, "none")
        if others and config.residual:
            features = summand + features
    features = {
        "average": lambda: features.mean((2, 3)),
        "max": lambda: features.amax((2, 3)),
        "flatten": lambda: features.flatten(1),
    }[config.head]()
    return F.linear(features, weights["classifier.weight"], weights["classifier.bias"])


FLAT = [["blocks.0"], ["blocks.1"], ["blocks.2"]]
IN_PAIRS = [["blocks.0", "blocks.1"], ["blocks.2"]]
WITH_SUM = [["blocks.0", "blocks.1.0"], ["blocks.2"]]


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(
    ("fields", "stages"),
    [
        ({"activation": "relu", "pooling": "max", "head": "average"}, FLAT),
        ({"activation": "gelu", "pooling": "avg", "head": "flatten", "layers_per_stage": 2}, IN_PAIRS),
        ({"pooling": "max", "head": "max", "layers_per_stage": 2, "residual": True}, WITH_SUM),
        ({"activation": "silu", "pooling": "none", "head": "max", "dropout": 0.5, "residual": True}, FLAT),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_forward_computes_what_the_config_says(fields: dict[str, Any], stages: list[list[str]], batch_norm: bool):
    torch.manual_seed(0)
    config = ModelConfig(depth=3, width=4, batch_norm=batch_norm, **fields)
    model = ConvNet(config, SHAPE, 5, mean=(120.0, 110.0, 100.0), std=(60.0, 50.0, 70.0)).eval()
    for name, value in model.named_parameters():
        value.data = torch.randn_like(value) * 0.3 if "weight" in name else torch.randn_like(value)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    images = torch.randint(0, 256, (6, *SHAPE), dtype=torch.uint8)
    torch.testing.assert_close(model(images), plain_forward(model.state_dict(), config, images, stages))
    torch.testing.assert_close(model(images), model(images.float()), rtol=0, atol=0)


def test_dropout_acts_in_training_only():
    model = ConvNet(ModelConfig(depth=1, width=64, dropout=0.5, batch_norm=False), SHAPE, 5)
    images = torch.randint(0, 256, (4, *SHAPE), dtype=torch.uint8)
    assert not model.train()(images).equal(model(images))
    assert model.eval()(images).equal(model(images))


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_dirac_filters_pass_their_channels_on_and_leave_the_others_random(C: int, O: int, K: int):  # noqa: E741
    fields: dict[str, Any] = {"depth": 1, "width": O, "kernel_size": K, "padding": "valid"}
    models = {}
    for init in ("default", "dirac"):
        torch.manual_seed(0)
        models[init] = ConvNet(ModelConfig(**fields, init=init), (C, 9, 9), 2)
    images = torch.rand(2, C, 9, 9)
    output = models["dirac"].blocks[0][0](images)
    passed, size = min(C, O), 9 - K + 1
    first = K // 2  # the centre, or for an even kernel the pixel behind it
    assert output[:, :passed].equal(images[:, :passed, first : first + size, first : first + size])
    assert output[:, passed:].equal(models["default"].blocks[0][0](images)[:, passed:])


def test_weights_lie_channels_last_and_biases_only_where_no_norm_follows():
    for batch_norm in (True, False):
        model = ConvNet(ModelConfig(depth=3, width=4, batch_norm=batch_norm), (3, 32, 32), 10)
        convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
        assert [(first.out_channels, second.in_channels) for first, second in pairwise(convolutions)] == [
            (4, 4),
            (8, 8),
        ]
        for convolution in convolutions:
            assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
            assert (convolution.bias is None) == batch_norm


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 16, 16), (3, 32, 32)])
def test_images_of_another_shape_are_refused(shape):
    model = ConvNet(ModelConfig(depth=1), (3, 32, 32), 10)
    with pytest.raises(ValueError, match=r"images must be \(N, 3, 32, 32\), got"):
        model(torch.zeros(shape))


UNEQUAL = {"width": (4, 6, 8), "kernel_size": (3, 4, 1), "stride": (1, 2, 1), "padding": ("same", 1, "valid")}


# Written when checkpoints had format 1 and no other: state dict, sum of the weights of seed 0, next random number.
@pytest.mark.parametrize(
    ("config", "shape", "state", "total", "next_draw"),
    [
        (
            ModelConfig(depth=2, width=4, pooling=("none", "max")),
            (3, 8, 8),
            "mean:1,3,1,1 std:1,3,1,1 blocks.0.0.weight:4,3,3,3 blocks.0.1.weight:4 blocks.0.1.bias:4 "
            "blocks.0.1.running_mean:4 blocks.0.1.running_var:4 blocks.0.1.num_batches_tracked: "
            "blocks.1.0.weight:8,4,3,3 blocks.1.2.weight:8 blocks.1.2.bias:8 blocks.1.2.running_mean:8 "
            "blocks.1.2.running_var:8 blocks.1.2.num_batches_tracked: classifier.weight:5,8 classifier.bias:5",
            10.936259000533028,
            0.014169692993164062,
        ),
        (
            ModelConfig(**UNEQUAL, pooling=("none", "avg", "max"), batch_norm=False, head="flatten"),
            (1, 20, 18),
            "mean:1,1,1,1 std:1,1,1,1 blocks.0.0.weight:4,1,3,3 blocks.0.0.bias:4 blocks.1.0.weight:6,4,4,4 "
            "blocks.1.0.bias:6 blocks.2.0.weight:8,6,1,1 blocks.2.0.bias:8 classifier.weight:5,32 classifier.bias:5",
            -2.510165339888772,
            0.29570966958999634,
        ),
    ],
    ids=["norms", "biases"],
)
def test_checkpoints_load_and_seeds_give_the_same_weights_as_ever(config, shape, state, total, next_draw):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ConvNet(config, shape, num_classes=5)
        assert torch.rand(1).item() == next_draw
    shapes = {name: ",".join(map(str, value.shape)) for name, value in model.state_dict().items()}
    assert " ".join(f"{name}:{sizes}" for name, sizes in shapes.items()) == state
    assert sum(parameter.detach().double().sum().item() for parameter in model.parameters()) == pytest.approx(total)
