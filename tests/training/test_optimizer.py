"""Optimizers against updates written by hand, schedules against their closed formulas."""

import copy
import math
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, RMSprop

from training.config import USED_BY, ModelConfig, OptimizerConfig
from training.model import ConvNet
from training.optimizer import (
    NEWTON_SCHULZ_STEPS,
    Muon,
    averages_kept,
    build_optimizer,
    build_schedule,
    orthogonalised,
)

NAMES = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "muon": Muon}


def test_every_optimizer_of_the_config_is_tested() -> None:
    assert set(NAMES) == set(get_args(OptimizerConfig.model_fields["name"].annotation))


@pytest.mark.parametrize("name", NAMES)
def test_each_name_gives_its_optimizer_with_the_config_s_numbers(name: str):
    model = ConvNet(ModelConfig(depth=2, width=2), (1, 8, 8), 3)
    rate = "other_learning_rate" if name == "muon" else "learning_rate"
    config = OptimizerConfig(name=name, momentum=0.7, weight_decay=0.3)  # type: ignore[arg-type]
    optimizer = build_optimizer(model, config.model_copy(update={rate: 0.02}))
    assert type(optimizer) is NAMES[name]
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    for group in optimizer.param_groups[name == "muon" :]:  # whose filters have a test of their own
        assert group["lr"] == 0.02
        assert group.get("momentum", 0.7) == 0.7
        assert group.get("betas", (0.9, 0.999)) == (0.9, 0.999)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", get_args(OptimizerConfig.model_fields["name"].annotation))
def test_averages_kept_are_those_of_a_real_state(name: str, momentum: float):
    config = OptimizerConfig(name=name, momentum=momentum)
    layer = nn.Sequential(nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(3, 2))
    optimizer = build_optimizer(layer, config)
    layer(torch.rand(4, 2, 1, 1)).sum().backward()
    optimizer.step()
    for parameter in layer.parameters():
        kept = [value for value in optimizer.state[parameter].values() if value is not None]
        assert sum(value.shape == parameter.shape for value in kept) == averages_kept(config)


@pytest.mark.parametrize("name", NAMES)
def test_every_field_acts_with_the_optimizers_that_are_said_to_use_it(name: str):
    changes = {
        "other_learning_rate": 0.5,
        "momentum": 0.3,
        "nesterov": False,
        "weight_decay": 0.4,
        "learning_rate": 0.2,
    }
    assert {*changes, "name", "schedule"} == set(OptimizerConfig.model_fields)

    def trained(**fields: Any) -> torch.Tensor:
        torch.manual_seed(0)
        model = ConvNet(ModelConfig(depth=1, width=2), (1, 8, 8), 3)
        optimizer = build_optimizer(model, OptimizerConfig.model_validate({"name": name, **fields}))
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.arange(128.0).view(2, 1, 8, 8)).square().sum().backward()
            optimizer.step()
        return nn.utils.parameters_to_vector(model.parameters())

    acting = {field for field, value in changes.items() if not trained(**{field: value}).equal(trained())}
    assert acting == {field for field in changes if name in USED_BY.get(field, NAMES)}


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_acts_on_weights_but_not_on_norms_and_biases(name: str):
    torch.manual_seed(0)
    model = ConvNet(ModelConfig(depth=2, width=4), (1, 8, 8), 3)
    if name == "muon":  # of filters behind which a norm follows only the direction counts
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3), nn.LayerNorm(3))
    for parameter in model.parameters():
        parameter.data.uniform_(0.5, 1.0)
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(name=name, learning_rate=0.01, weight_decay=0.1))
    for _ in range(3):
        optimizer.step()
    undecayed = {
        f"{path}.{kind}"
        for path, module in model.named_modules()
        for kind, _ in module.named_parameters(recurse=False)
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm) or kind == "bias"
    }
    assert len(undecayed) == 5
    for path, parameter in model.named_parameters():
        if path in undecayed:
            assert parameter.equal(before[path]), path
        else:
            assert (parameter < before[path]).all(), path


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, True), (0.9, False), (0.9, True)])
def test_sgd_takes_the_steps_of_the_textbook(momentum: float, nesterov: bool):
    layer = nn.Linear(2, 1, bias=False)
    start, gradients = layer.weight.detach().clone(), [torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5, 3.0]])]
    config = OptimizerConfig(momentum=momentum, nesterov=nesterov, learning_rate=0.1, weight_decay=0.01)
    optimizer = build_optimizer(layer, config)
    expected, velocity = start, torch.zeros_like(start)
    for gradient in gradients:
        layer.weight.grad = gradient.clone()
        optimizer.step()
        decayed = gradient + 0.01 * expected
        velocity = momentum * velocity + decayed
        expected = expected - 0.1 * (decayed + momentum * velocity if nesterov else velocity)
        torch.testing.assert_close(layer.weight.detach(), expected)


@given(st.integers(1, 24), st.integers(1, 24), st.sampled_from([1e-4, 1.0, 1e4]), st.integers(0, 100))
def test_orthogonalised_matrices_keep_their_singular_vectors(rows: int, columns: int, scale: float, seed: int):
    """The singular values follow the polynomial of Newton and Schulz, whatever the size; none grows far above 1."""
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
    expected = singular / singular.square().sum().sqrt()
    for _ in range(NEWTON_SCHULZ_STEPS):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    found = orthogonalised((matrix * scale).float())
    torch.testing.assert_close(found.double(), left * expected @ right, rtol=1e-3, atol=1e-3)
    assert expected.max() < 1.3


def test_a_gradient_of_zero_changes_nothing():
    assert orthogonalised(torch.zeros(3, 5)).equal(torch.zeros(3, 5))


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, True), (0.6, False), (0.6, True)])
@pytest.mark.parametrize("norm", [True, False])
def test_muon_turns_filters_and_leaves_the_rest_to_sgd(norm: bool, momentum: float, nesterov: bool):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), *[nn.BatchNorm2d(3)] * norm, nn.Flatten(), nn.Linear(12, 2))
    twin = copy.deepcopy(model)
    config = OptimizerConfig(
        name="muon",
        learning_rate=0.1,
        other_learning_rate=0.03,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=0.01,
    )
    optimizer = build_optimizer(model, config)
    sgd = build_optimizer(twin, config.model_copy(update={"name": "sgd", "learning_rate": 0.03}))
    expected, velocity = model[0].weight.detach().clone(), torch.zeros(3, 2, 2, 2)
    for _ in range(3):
        gradients = [torch.randn_like(parameter) for parameter in model.parameters()]
        for each in (model, twin):
            for parameter, gradient in zip(each.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
        optimizer.step()
        sgd.step()
        velocity = momentum * velocity + gradients[0]
        direction = gradients[0] + momentum * velocity if nesterov else velocity
        expected = expected * (3**0.5 / expected.norm() if norm else 1 - 0.1 * 0.01)
        expected = expected - 0.1 * orthogonalised(direction.reshape(3, 8)).reshape(3, 2, 2, 2)
        torch.testing.assert_close(model[0].weight.detach(), expected)
    for name, parameter in model.named_parameters():
        assert name == "0.weight" or parameter.equal(twin.get_parameter(name)), name


@pytest.mark.parametrize("name", NAMES)
def test_every_optimizer_reduces_a_convex_loss(name: str):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 3, generator=generator)
    targets = inputs @ torch.tensor([[1.0], [-1.0], [0.5]]) + 0.3

    def loss() -> Tensor:
        return (layer(inputs) - targets).square().mean()

    layer = nn.Linear(3, 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    fields = {"name": name, "learning_rate": 0.02, "other_learning_rate": 0.02, "momentum": 0.5, "weight_decay": 0.0}
    optimizer = build_optimizer(layer, OptimizerConfig(**fields))  # type: ignore[arg-type]
    first = loss().item()
    for _ in range(200):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.01 * first


HIGHEST = 0.2


def between(start: float, end: float, fraction: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))


def constant(step: int, total_steps: int) -> float:
    return HIGHEST


def cosine(step: int, total_steps: int) -> float:
    return between(HIGHEST, 0.0, step / total_steps)


def linear(step: int, total_steps: int) -> float:
    """Straight up in a tenth of the steps, which are one at least, then straight down to zero, after the last step."""
    rise = max(1, math.ceil(0.1 * total_steps))
    if step < rise:
        return HIGHEST * (step + 1) / rise
    return HIGHEST * (total_steps - step) / (total_steps - rise)


def one_cycle(step: int, total_steps: int) -> float:
    """Smith and Topin, 2018, with torch's numbers: from 1/25 in 30 % of the steps, down to 1/250000."""
    peak, last = 0.3 * total_steps - 1, total_steps - 1
    if step <= peak:
        return between(HIGHEST / 25, HIGHEST, step / peak)
    return between(HIGHEST, HIGHEST / 25e4, (step - peak) / (last - peak))


@pytest.mark.parametrize("optimizer_name", NAMES)
@pytest.mark.parametrize("formula", [constant, cosine, one_cycle, linear])
@pytest.mark.parametrize("total_steps", [1, 2, 3, 10, 100])
def test_schedules_follow_their_formulas_from_each_group_s_own_rate(optimizer_name: str, formula, total_steps: int):
    layer = nn.Linear(1, 1)
    fields = {"name": optimizer_name, "learning_rate": HIGHEST, "other_learning_rate": HIGHEST}
    config = OptimizerConfig(**fields, schedule=formula.__name__)  # type: ignore[arg-type]
    optimizer = build_optimizer(layer, config)
    for group in optimizer.param_groups[1:]:
        group["lr"] = HIGHEST / 10
    schedule = build_schedule(optimizer, config, total_steps)
    before = [{**group, "params": None, "lr": None} for group in optimizer.param_groups]
    rates = []
    for _ in range(total_steps):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert [{**group, "params": None, "lr": None} for group in optimizer.param_groups] == before, (
        "only the rate changes"
    )
    for step, (first, *others) in enumerate(rates):
        assert first == pytest.approx(formula(step, total_steps), rel=1e-6), step
        assert others == pytest.approx([formula(step, total_steps) / 10] * len(others), rel=1e-6), step
    if total_steps % 10 == 0 and formula is one_cycle:
        assert max(rates)[0] == rates[int(0.3 * total_steps) - 1][0] == pytest.approx(HIGHEST)
        assert rates[0][0] == pytest.approx(HIGHEST / 25)
        assert rates[-1][0] == pytest.approx(HIGHEST / 25e4)
