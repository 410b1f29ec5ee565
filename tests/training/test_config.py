"""Configs: what is accepted, what is refused and in which words, and that nothing is lost in JSON."""

import json
from typing import Any

import pytest
from hypothesis import given
from pydantic import ValidationError

from training.config import (
    AUGMENTATION_OFF,
    PER_LAYER_FIELDS,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    TrialConfig,
    config_paths,
    validate,
)
from training.errors import ConfigError


@given(config=...)
def test_json_keeps_everything(config: TrialConfig):
    text = json.dumps(config.model_dump(mode="json"), allow_nan=False)
    assert validate(TrialConfig, json.loads(text)) == config


def test_the_property_tests_draw_every_field():
    seen: dict[str, set[Any]] = {path: set() for path in config_paths(TrialConfig)}

    @given(config=...)
    def collect(config: TrialConfig) -> None:
        for path, values in seen.items():
            section, field = path.split(".")
            values.add(getattr(getattr(config, section), field))

    collect()
    assert [path for path, values in seen.items() if len(values) < 2] == []
    for field in PER_LAYER_FIELDS:
        assert len({isinstance(value, tuple) for value in seen[f"model.{field}"]}) == 2


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (TrialConfig(), "model", ModelConfig(depth=1)),
        (DataConfig(), "image_size", 8),
        (ModelConfig(), "depth", 1),
        (OptimizerConfig(), "learning_rate", 1.0),
        (TrainConfig(), "epochs", 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_configs_are_frozen(config: Any, field: str, value: Any):
    before = config.model_dump()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(config, field, value)
    assert config.model_dump() == before


def test_configs_are_values():
    assert TrialConfig(model=ModelConfig(kernel_size=[3, 5, 3])) == TrialConfig(
        model=ModelConfig(kernel_size=(3, 5, 3))
    )
    assert len({TrialConfig(), TrialConfig(), TrialConfig(train=TrainConfig(seed=1))}) == 2


@pytest.mark.parametrize(
    ("values", "fragments"),
    [
        ({"model": {"kernel_siz": 3}}, ["model.kernel_siz", "unknown", "model.kernel_size"]),
        ({"optimizer": {"learning_rte": 0.1}}, ["optimizer.learning_rte", "unknown", "optimizer.learning_rate"]),
        ({"modle": {}}, ["modle", "unknown", "did you mean model?"]),
        ({"model": {"depth": 0}}, ["model.depth", "1", "got 0"]),
        ({"model": {"depth": 3.0}}, ["model.depth", "integer", "got 3.0"]),
        ({"model": {"depth": True}}, ["model.depth", "integer", "got True"]),
        ({"model": {"depth": "3"}}, ["model.depth", "integer", "got '3'"]),
        ({"model": {"width": 0}}, ["model.width", "1", "got 0"]),
        ({"model": {"width": []}}, ["model.width", "got []"]),
        ({"model": {"width_growth": float("nan")}}, ["model.width_growth", "got nan"]),
        ({"model": {"kernel_size": [3, 0, 3]}}, ["model.kernel_size", "1", "0"]),
        ({"model": {"kernel_size": [3, 3]}}, ["model", "kernel_size", "depth=3", "2"]),
        ({"model": {"padding": "sme"}}, ["model.padding", "'valid'", "'same'", "got 'sme'"]),
        ({"model": {"padding": -1}}, ["model.padding", "0", "got -1"]),
        ({"model": {"padding": "same", "kernel_size": 4}}, ["model", "same", "odd", "kernel_size", "4"]),
        ({"model": {"padding": ["valid", 0, "same"], "kernel_size": [4, 4, 4]}}, ["same", "odd", "4", "layer 2"]),
        ({"model": {"pooling": "mean"}}, ["model.pooling", "'none'", "'max'", "'avg'", "got 'mean'"]),
        ({"model": {"dropout": 1.0}}, ["model.dropout", "less than 1", "got 1.0"]),
        ({"data": {"dataset": "folder:"}}, ["data.dataset", "folder:"]),
        ({"data": {"dataset": "imagenet"}}, ["data.dataset", "cifar10", "got 'imagenet'"]),
        ({"data": {"val_fraction": 0.0}}, ["data.val_fraction", "greater than 0", "got 0.0"]),
        ({"data": {"crop_padding": 32}}, ["data", "crop_padding", "32", "image_size"]),
        ({"data": {"image_size": 16, "cutout": 20}}, ["data", "cutout", "20", "image_size", "16"]),
        ({"data": {"split_seed": 2**32}}, ["data.split_seed", "less than"]),
        ({"train": {"seed": -1}}, ["train.seed", "0", "got -1"]),
        ({"train": {"batch_size": 1}}, ["train.batch_size", "2", "got 1"]),
        ({"optimizer": {"learning_rate": 0.0}}, ["optimizer.learning_rate", "greater than 0", "got 0.0"]),
        ({"optimizer": {"learning_rate": float("inf")}}, ["optimizer.learning_rate", "finite", "got inf"]),
        ({"optimizer": {"name": "sdg"}}, ["optimizer.name", "'sgd'", "got 'sdg'"]),
        ({"model": 5}, ["model", "got 5"]),
    ],
)
def test_an_error_names_key_constraint_and_value(values: dict[str, Any], fragments: list[str]):
    with pytest.raises(ConfigError) as caught:
        validate(TrialConfig, values)
    (line,) = caught.value.errors  # one mistake, one line
    assert [fragment for fragment in fragments if fragment not in line] == []


def test_all_errors_are_listed_at_once():
    mistakes = {
        "model": {"kernel_size": [3, 3], "stride": [1]},
        "data": {"crop_padding": 40, "cutout": 50},
        "optimizer": {"momentum": 1.5, "nmae": "sgd"},
        "train": {"epochs": 0, "label_smoothing": -0.5},
        "serach": {},
    }
    with pytest.raises(ConfigError) as caught:
        validate(TrialConfig, mistakes)
    for named in [
        *("kernel_size", "stride", "crop_padding", "cutout", "optimizer.momentum", "optimizer.nmae"),
        *("train.epochs", "train.label_smoothing", "serach"),
    ]:
        assert named in str(caught.value)
    assert str(caught.value) == "\n".join(caught.value.errors)


def test_config_paths_are_those_of_a_dump():
    dump = TrialConfig().model_dump()
    expected = {f"{section}.{field}" for section, fields in dump.items() for field in fields}
    paths = list(config_paths(TrialConfig))
    assert set(paths) == expected
    assert len(paths) == len(expected)


def test_every_field_of_data_changes_either_loading_or_augmentation():
    loading = {"dataset", "data_dir", "image_size", "val_fraction", "split_seed"}
    assert DataConfig.model_fields.keys() - AUGMENTATION_OFF.keys() == loading
    assert DataConfig(crop_padding=1, flip=True, cutout=2).without_augmentation() == DataConfig(**AUGMENTATION_OFF)


THREE_KERNELS = TrialConfig(model=ModelConfig(kernel_size=(3, 5, 7), width=(8, 16, 24)))


@pytest.mark.parametrize(
    ("base", "values", "path", "expected"),
    [
        (TrialConfig(), {"model.depth": 5}, "model.depth", 5),
        (TrialConfig(), {"optimizer.learning_rate": 1}, "optimizer.learning_rate", 1.0),
        (TrialConfig(), {"model.kernel_size": [1, 3, 5]}, "model.kernel_size", (1, 3, 5)),
        (TrialConfig(), {"model.kernel_size.1": 5}, "model.kernel_size", (3, 5, 3)),
        (THREE_KERNELS, {"model.kernel_size.1": 1}, "model.kernel_size", (3, 1, 7)),
        (TrialConfig(), {"model.kernel_size.0": 1, "model.kernel_size.2": 7}, "model.kernel_size", (1, 3, 7)),
        (TrialConfig(), {"model.padding.2": 0}, "model.padding", ("same", "same", 0)),
        (TrialConfig(), {"model.pooling.0": "none"}, "model.pooling", ("none", "max", "max")),
        # a whole field and one of its layers, in either order
        (TrialConfig(), {"model.kernel_size": 5, "model.kernel_size.1": 3}, "model.kernel_size", (5, 3, 5)),
        (TrialConfig(), {"model.kernel_size.1": 3, "model.kernel_size": 5}, "model.kernel_size", (5, 3, 5)),
        (TrialConfig(), {"model.kernel_size": [1, 3, 5], "model.kernel_size.1": 7}, "model.kernel_size", (1, 7, 5)),
        # widths go on growing by the factor in force
        (TrialConfig(), {"model.width.0": 16}, "model.width", (16, 64, 128)),
        (TrialConfig(), {"model.width": 10, "model.width.0": 16}, "model.width", (16, 20, 40)),
        (TrialConfig(), {"model.width_growth": 1.0, "model.width.1": 7}, "model.width", (32, 7, 32)),
        # another depth: the last layer is repeated, layers beyond are ignored
        (THREE_KERNELS, {"model.depth": 2, "model.kernel_size.2": 1, "model.width.0": 4}, "model.kernel_size", (3, 5)),
        (TrialConfig(), {"model.depth": 5, "model.stride.4": 2}, "model.stride", (1, 1, 1, 1, 2)),
        (TrialConfig(), {"model.stride.9": 2}, "model.stride", (1, 1, 1)),
    ],
)
def test_override(base: TrialConfig, values: dict[str, Any], path: str, expected: Any):
    given, before = json.dumps(values), base.model_dump()
    section, field = path.split(".")
    changed = base.override(values)
    assert getattr(getattr(changed, section), field) == expected
    assert json.dumps(values) == given, "the caller's values must stay as they are"
    assert base.model_dump() == before
    touched = {".".join(key.split(".")[:2]) for key in values}
    for other in set(config_paths(TrialConfig)) - touched:
        section, field = other.split(".")
        assert getattr(getattr(changed, section), field) == before[section][field]


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model.kernel_sise": 3}, ["model.kernel_sise", "did you mean model.kernel_size?"]),
        ({"model.kernel_sise": 3, "train.epoch": 1}, ["model.kernel_sise", "train.epoch", "train.epochs"]),
        ({"model": {}}, ["model: unknown"]),
        ({"model.depth.0": 3}, ["model.depth.0: unknown"]),
        ({"model.kernel_size.x": 3}, ["model.kernel_size.x: unknown"]),
        ({"model.kernel_size.1": 0}, ["model.kernel_size", "1"]),
        ({"model.kernel_size.1": 4}, ["same", "layer 1"]),
        ({"model.depth": "x", "model.kernel_size.1": 3}, ["model.depth", "got 'x'"]),
        ({"model.depth": 10**9, "model.kernel_size.1": 3}, ["model.depth", "got 1000000000"]),
        ({"model.width": "x", "model.width.1": 3, "train.epochs": 0}, ["model.width", "got 'x'", "train.epochs"]),
        ({"model.width": [], "model.width.1": 3}, ["model.width", "got []"]),
    ],
)
def test_override_refuses(values: dict[str, Any], named: list[str]):
    with pytest.raises(ConfigError) as caught:
        TrialConfig().override(values)
    assert [fragment for fragment in named if fragment not in str(caught.value)] == []


@given(config=...)
def test_override_with_every_value_of_a_config_gives_that_config(config: TrialConfig):
    dump = config.model_dump(mode="json")
    values = {f"{section}.{field}": value for section, fields in dump.items() for field, value in fields.items()}
    assert TrialConfig().override(values) == config
