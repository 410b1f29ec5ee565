"""The space against Optuna's own distributions, and the configs that come of it."""

from typing import Any

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from search.config import parse_config
from search.space import SearchSpace, SpaceEntry, contains, differences, value_by_path
from training.config import TrialConfig
from training.model import ConvNet

optuna.logging.set_verbosity(optuna.logging.WARNING)


def space_of(entries: dict[str, Any], **sections: dict[str, Any]) -> SearchSpace:
    return parse_config({"space": entries, **sections}, {}).search_space


@pytest.mark.parametrize(
    ("entry", "distribution"),
    [
        ({"int": [1, 5]}, IntDistribution(1, 5)),
        ({"int": [8, 64], "log": True}, IntDistribution(8, 64, log=True)),
        ({"int": [8, 64], "step": 8}, IntDistribution(8, 64, step=8)),
        ({"float": [0.0, 1.0]}, FloatDistribution(0.0, 1.0)),
        ({"float": [1e-4, 1.0], "log": True}, FloatDistribution(1e-4, 1.0, log=True)),
        ({"float": [0.0, 0.3], "step": 0.1}, FloatDistribution(0.0, 0.3, step=0.1)),
        ({"choice": ["a", True, 3]}, CategoricalDistribution(("a", True, 3))),
    ],
)
def test_entries_are_optuna_distributions(entry: dict[str, Any], distribution: Any) -> None:
    assert SpaceEntry.model_validate(entry).distribution() == distribution


def test_the_defaults_are_a_point_of_the_space() -> None:
    space = space_of(
        {
            "model.depth": {"int": [2, 4]},
            "model.kernel_size": {"choice": [3, 5], "per_layer": True},
            "optimizer.name": {"choice": ["adam", "sgd"]},
            "optimizer.momentum": {"float": [0.5, 0.95], "when": {"optimizer.name": "sgd"}},
            "model.dropout": {"float": [0.0, 0.5], "when": {"model.batch_norm": False}},
        }
    )
    params = space.default_params()
    assert space.suggest(FixedTrial(params)) == params
    assert {path for path in params if "kernel" in path} == {f"model.kernel_size.{layer}" for layer in range(3)}
    assert "model.dropout" not in params  # inactive
    applied = space.apply(params)
    assert [applied.model.at("kernel_size", layer) for layer in range(3)] == [3, 3, 3]
    assert applied.optimizer == space.base.optimizer


ENTRIES = {
    # Conditions come before what they name, to show that the order of writing does not matter.
    "optimizer.momentum": {"float": [0.5, 0.95], "when": {"optimizer.name": ["sgd", "rmsprop"]}},
    "model.stride": {"choice": [1, 2], "per_layer": True},
    "model.width": {"int": [4, 128], "step": 4, "per_layer": True},
    "model.depth": {"int": [1, 6]},
    "optimizer.name": {"choice": ["sgd", "adam", "rmsprop"]},
    "model.batch_norm": {"choice": [True, False]},
    "optimizer.learning_rate": {"float": [1e-4, 1.0], "log": True},
}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_every_suggestion_is_inside_complete_and_applied(seed: int) -> None:
    space = space_of(ENTRIES)
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
    params = space.suggest(trial)
    assert params == trial.params
    depth = params["model.depth"]
    layers = [f"model.{field}.{layer}" for field in ("stride", "width") for layer in range(depth)]
    active = {"model.depth", "optimizer.name", "model.batch_norm", "optimizer.learning_rate", *layers}
    if params["optimizer.name"] != "adam":
        active.add("optimizer.momentum")
    assert set(params) == active
    config = space.apply(params)
    for path, value in params.items():
        section, field, *layer = path.split(".")
        got = getattr(getattr(config, section), field)
        assert (got[int(layer[0])] if layer else got) == value
    untouched = set(value_by_path(config)) - {path.rsplit(".", 1)[0] if path[-1].isdigit() else path for path in active}
    assert all(value_by_path(config)[path] == value_by_path(space.base)[path] for path in untouched)


def test_true_is_not_one() -> None:
    assert not contains(CategoricalDistribution((1, 2)), True)
    assert not contains(CategoricalDistribution((True, False)), 1)
    assert not contains(IntDistribution(0, 5), True)
    assert contains(IntDistribution(0, 5), 5) and not contains(IntDistribution(0, 5), 6)


def test_layers_follow_the_drawn_depth_also_where_depth_has_a_condition() -> None:
    space = space_of(
        {
            "model.kernel_size": {"choice": [3, 5], "per_layer": True},
            "model.depth": {"int": [1, 5], "when": {"optimizer.name": "sgd"}},
            "optimizer.name": {"choice": ["sgd", "adam"]},
        }
    )
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        params = space.suggest(study.ask())
        depth = params.get("model.depth", space.base.model.depth)
        assert [path for path in params if "kernel" in path] == [f"model.kernel_size.{layer}" for layer in range(depth)]


def test_a_value_of_zero_lies_outside_of_a_logarithmic_range() -> None:
    for entry in ({"float": [1e-6, 1e-2], "log": True}, {"int": [1, 9], "log": True}):
        distribution = SpaceEntry.model_validate(entry).distribution()
        assert not contains(distribution, 0) and not contains(distribution, -1.0)
        assert contains(distribution, entry.get("int", entry.get("float"))[0])


@pytest.mark.parametrize(
    ("fields", "change", "acts"),
    [
        ({}, {"residual": True}, False),
        ({"depth": 1, "layers_per_stage": 2}, {"residual": True}, False),
        ({"layers_per_stage": 2}, {"residual": True}, True),
        ({}, {"layers_per_stage": 2}, True),
        ({"pooling": "none", "width_growth": 1.0}, {"layers_per_stage": 2}, False),
        ({"pooling": "none", "width_growth": 1.0, "residual": True}, {"layers_per_stage": 2}, True),
        ({"layers_per_stage": 3, "residual": True}, {"layers_per_stage": 5}, False),
        ({"layers_per_stage": 2}, {"pooling": ["max", "none", "max"]}, False),
        ({"layers_per_stage": 2}, {"pooling": ["max", "max", "max"]}, True),
        ({"layers_per_stage": 2}, {"width": [8, 8, 16]}, False),
    ],
)
def test_configs_differ_where_their_networks_do(fields: dict[str, Any], change: dict[str, Any], acts: bool) -> None:
    one = TrialConfig().override({"model.width": 8, **{f"model.{field}": value for field, value in fields.items()}})
    other = one.override({f"model.{field}": value for field, value in change.items()})

    def answer(config: TrialConfig) -> list[float]:
        torch.manual_seed(0)
        model = ConvNet(config.model, (3, 16, 16), 5).eval()
        return model(torch.arange(768).view(1, 3, 16, 16)).flatten().tolist()

    assert (answer(one) != answer(other)) == acts
    assert differences(one, other) == [f"model.{field}" for field in change if acts]


@pytest.mark.parametrize(
    ("name", "change", "acts"),
    [
        ("sgd", {"other_learning_rate": 0.3}, False),
        ("muon", {"other_learning_rate": 0.3}, True),
        ("adam", {"momentum": 0.5}, False),
        ("sgd", {"momentum": 0.5}, True),
        ("rmsprop", {"nesterov": False}, False),
    ],
)
def test_what_an_optimizer_does_not_use_is_no_difference(name: str, change: dict[str, Any], acts: bool) -> None:
    one = TrialConfig().override({"optimizer.name": name})
    other = one.override({f"optimizer.{field}": value for field, value in change.items()})
    assert differences(one, other) == [f"optimizer.{field}" for field in change if acts]
