"""SearchConfig: what loads, what is refused, and in which words."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from search.config import (
    contradictions,
    load_config,
    parse_config,
    written_config,
)
from search.feasibility import check_defaults, first_params, why_infeasible
from search.record.endings import Infeasible
from training.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def errors_of(values: dict[str, Any], overrides: dict[str, Any] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(values, overrides or {})
    return caught.value.errors


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_shipped_configs_load_and_say_their_command_cost_and_result(file: Path) -> None:
    config = load_config(file)
    check_defaults(config, num_classes=10)
    params, left_out = first_params(config, num_classes=10)
    assert left_out == [] and len(params) == len(config.search.first)
    text = file.read_text()
    assert "command   python run_search.py" in text and "cost  " in text and "expect  " in text
    assert "TODO" not in text


def test_the_default_space_covers_what_is_promised() -> None:
    space = load_config(CONFIGS / "cifar10.yaml").space
    model = {"depth", "layers_per_stage", "residual", "width", "kernel_size", "stride", "padding", "pooling"}
    model |= {"activation"}
    optimizer = {"name", "learning_rate", "momentum", "weight_decay"}
    wanted = {f"model.{field}" for field in model} | {f"optimizer.{field}" for field in optimizer}
    assert wanted | {"train.batch_size", "train.label_smoothing"} == set(space)


def test_a_saved_config_loads_as_what_it_was() -> None:
    config = load_config(
        CONFIGS / "cifar10.yaml",
        {"model.width": [8, 16, 16, 32], "space.model.width": None, "search.notice": "a: 'b' \n <c>"},
    )
    assert parse_config(yaml.safe_load(config.to_yaml()), {}) == config


@pytest.mark.parametrize(
    ("section", "budget"),
    [
        ({"num_samples": 5}, "5 trials"),
        ({"num_samples": 5, "time_budget": "2h"}, "5 trials or 2h"),
        ({"num_samples": None, "time_budget": "2h"}, "trials for 2h"),
    ],
)
def test_a_search_ends_by_trials_or_by_time(section: dict[str, Any], budget: str) -> None:
    config = parse_config({"search": section}, {})
    assert config.search.budget == budget and parse_config(yaml.safe_load(config.to_yaml()), {}) == config


def test_all_errors_are_listed_at_once() -> None:
    errors = errors_of(
        {"model": {"depht": 3, "width": 0}, "train": {"epochs": 2}, "schedular": {}, "data": {"split_seed": 1}},
        {"optimizer.lr": 0.1, "optimizer.learning_rate": -1.0},
    )
    text = "\n".join(errors)
    assert len(errors) == 6
    assert "model.depht: unknown key; did you mean model.depth?" in errors
    assert "model.width: should be greater than or equal to 1" in text and "got 0" in text
    assert "schedular: unknown key; did you mean scheduler?" in errors
    assert "data.split_seed: follows from search.seed" in text
    assert "optimizer.lr: unknown key" in text
    assert "optimizer.learning_rate: should be greater than 0, got -1.0" in errors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": {"time_budget": "30"}}, "search.time_budget: must be a number and a unit"),
        ({"search": {"num_samples": None}}, "search: num_samples and time_budget must not both be null"),
        (
            {"scheduler": {"reduction_factor": 1.0}},
            "scheduler.reduction_factor: should be greater than or equal to 1.1",
        ),
        ({"scheduler": {"grace_epochs": 11}}, "scheduler.grace_epochs: must be at most train.epochs, got 11 > 10"),
        ({"sampler": {"name": "grid"}}, "sampler.name: should be 'gp', 'tpe'"),
        ({"space": {"model.depth": {"int": [4, 6]}}}, "model.depth: the default must lie in its own space, got 3"),
        ({"space": {"model.depth": {"int": [5, 4]}}}, "low <= high must hold, got [5, 4]"),
        ({"space": {"model.depth": {"int": [0, 4]}}}, "space.model.depth: should be greater than or equal to 1, got 0"),
        ({"space": {"model.kernl_size": {"choice": [3]}}}, "did you mean model.kernel_size?"),
        ({"space": {"train.epochs": {"int": [1, 20]}}}, "all trials of a search share this value"),
        ({"space": {"model.dropout": {"float": [0.0, 0.5], "log": True}}}, "low > 0 must hold with log: true"),
        ({"space": {"model.dropout": {"float": [0.0, 0.5], "choice": [0]}}}, "exactly one of int, float and choice"),
        (
            {"space": {"model.dropout": {"float": [0, 1], "perlayer": True}}},
            "takes int, float, choice, step, log, per_layer",
        ),
        ({"space": {"model.dropout": {}}}, "exactly one of int, float and choice"),
        ({"space": {"model.dropout": {"float": [0.0, 0.5], "per_layer": True}}}, "per_layer must be one of"),
        ({"model": {"kernel_size": 2}}, "padding 'same' needs an odd kernel_size, got 2"),
        ({"model": {"depth": 6}}, "pool5: a kernel that spans 2 pixels does not fit into 1"),
        ({"search": {"max_params": 10}}, "num_params 94,762 > search.max_params 10"),
        ({"model": [1]}, "model: "),
        ({"search": {"time_budget": "9" * 400 + "d"}}, "must be at most a year"),
        ({"resources": {"gpus_per_trial": 1.5}}, "a fraction below 1 or a whole number of GPUs, got 1.5"),
        ({"space": {"model.depth": {"int": [1, 4], "step": float("inf")}}}, "should be a finite number"),
        ({"space": {"model.depth": 3}}, "space.model.depth"),
        (
            {
                "optimizer": {"weight_decay": 0.0},
                "space": {"optimizer.weight_decay": {"float": [1e-6, 1e-2], "log": True}},
            },
            "optimizer.weight_decay: the default must lie in its own space, got 0.0",
        ),
        (
            {"search": {"first": [{"model.dpth": 3}]}},
            "search.first.0: model.dpth: unknown key; did you mean",
        ),
        (
            {"search": {"first": [{}, {"model.depth": 0}]}},
            "search.first.1: model.depth: should be greater",
        ),
    ],
)
def test_each_error_names_key_constraint_and_value(values: dict[str, Any], message: str) -> None:
    assert message in "\n".join(errors_of(values))


def test_conditions_are_checked() -> None:
    name = {"choice": ["sgd", "adam"]}

    def with_condition(when: dict[str, Any]) -> str:
        space = {"optimizer.name": name, "optimizer.momentum": {"float": [0.8, 0.99], "when": when}}
        return "\n".join(errors_of({"space": space}))

    assert "optimizer.name is never 'adamw'" in with_condition({"optimizer.name": "adamw"})
    assert "did you mean optimizer.name?" in with_condition({"optimizer.nam": "sgd"})
    assert "must not depend on itself" in with_condition({"optimizer.momentum": 0.9})
    circle = {
        "model.dropout": {"float": [0.0, 0.5], "when": {"model.batch_norm": True}},
        "model.batch_norm": {"choice": [True, False], "when": {"model.dropout": 0.0}},
    }
    assert "in a circle" in "\n".join(errors_of({"space": circle}))


def test_overrides_reach_every_section_and_the_space() -> None:
    values = {"space": {"model.depth": {"int": [1, 4]}, "model.dropout": {"float": [0.0, 0.5]}}}
    config = parse_config(values, {"model.depth": 2, "space.model.dropout": None, "sampler.name": "random"})
    assert (config.model.depth, config.sampler.name, set(config.space)) == (2, "random", {"model.depth"})


def test_files_that_are_no_config(tmp_path: Path) -> None:
    for name, text in {"a.yaml": "[1, 2]", "b.yaml": "a: [", "c.yaml": "\x00", "d.yaml": "1: {}"}.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=name):
            load_config(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "missing.yaml")


def test_resume_may_change_the_budget_and_the_place_but_nothing_else() -> None:
    saved = load_config(CONFIGS / "digits.yaml")
    free = {"search.num_samples": 99, "search.time_budget": "1h", "data.data_dir": "x", "resources.max_concurrent": 7}
    assert contradictions(saved, load_config(CONFIGS / "digits.yaml", free)) == []
    fixed = {"train.epochs": 5, "search.seed": 7, "space.model.depth": {"int": [1, 4]}, "sampler.name": "random"}
    errors = contradictions(saved, load_config(CONFIGS / "digits.yaml", fixed))
    assert len(errors) == len(fixed)
    assert all(any(error.startswith(f"{path}: this search was started with") for error in errors) for path in fixed)


def test_bounds_make_networks_infeasible_by_how_much() -> None:
    config = parse_config({}, {})
    assert why_infeasible(config.base, config.search, 10) is None
    bounded = parse_config({"search": {"max_multiply_adds": 20_000_000}}, {}).search.model_copy(
        update={"max_multiply_adds": 5_000_000}
    )
    problem = why_infeasible(config.base, bounded, 10)
    assert problem == Infeasible("max_multiply_adds", problem.reason, 10_323_200, 5_000_000)
    assert problem.violation == pytest.approx(1.06464)


def test_first_configurations_are_points_of_the_space_and_those_that_do_not_fit_are_named() -> None:
    values = {
        "search": {
            "max_multiply_adds": 20_000_000,
            "first": [
                {"model.depth": 2, "optimizer.name": "adam"},
                {"model.depth": 9},
                {"model.dropout": 0.1},
                {},
                {"model.width": 512},
            ],
        },
        "space": {
            "model.depth": {"int": [1, 4]},
            "model.width": {"choice": [32, 512]},
            "optimizer.name": {"choice": ["sgd", "adam"]},
            "optimizer.momentum": {"float": [0.8, 0.99], "when": {"optimizer.name": "sgd"}},
        },
    }
    params, left_out = first_params(parse_config(values, {}), num_classes=10)
    defaults = {"model.depth": 3, "model.width": 32, "optimizer.name": "sgd", "optimizer.momentum": 0.9}
    assert params == [{"model.depth": 2, "model.width": 32, "optimizer.name": "adam"}, defaults]
    assert left_out[:2] == [
        "search.first.1 is left out: its model.depth cannot be drawn in this space",
        "search.first.2 is left out: its model.dropout cannot be drawn in this space",
    ]
    assert len(left_out) == 3 and left_out[2].startswith("search.first.4 is left out: multiply_adds")


def test_first_configurations_fit_spaces_per_layer_and_values_that_are_the_defaults_now() -> None:
    values = {
        "optimizer": {"name": "adamw"},
        "search": {"first": [{"model.kernel_size": 5}, {"optimizer.name": "adamw", "model.depth": 2}]},
        "space": {"model.depth": {"int": [1, 4]}, "model.kernel_size": {"choice": [3, 5], "per_layer": True}},
    }
    params, left_out = first_params(parse_config(values, {}), num_classes=10)
    assert left_out == [] and params[0] == {"model.depth": 3, **{f"model.kernel_size.{layer}": 5 for layer in range(3)}}
    assert params[1]["model.depth"] == 2


def test_the_seed_that_cut_val_is_written_and_searches_that_lack_it_keep_their_split() -> None:
    config = parse_config({"search": {"seed": 3}}, {})
    config = config.model_copy(update={"data": config.base.data})  # as a search does when it begins
    written = yaml.safe_load(config.to_yaml())
    assert written["data"]["split_seed"] == 3 and parse_config(written, {}) == config
    assert errors_of(written, {"data.split_seed": 4}) == errors_of({"data": {"split_seed": 4}})
    del written["data"]["split_seed"]  # a version that cut val by seed 0, whatever search.seed was
    kept = parse_config(written, {})
    assert kept.data.split_seed == 0 and parse_config(yaml.safe_load(kept.to_yaml()), {}) == kept


def test_readers_take_what_they_know_of_a_config_of_another_version() -> None:
    config = parse_config({"space": {"model.depth": {"int": [1, 4]}}}, {})
    written = yaml.safe_load(config.to_yaml())
    assert written_config(written) == (config.model_copy(update={"data": config.base.data}), [])
    written["search"]["patience"] = 3
    written["space"]["model.width"] = {"normal": [0, 1]}
    read, warnings = written_config(written)
    assert read.space == config.space and read.search == config.search
    assert [line.partition(" ")[0] for line in warnings] == ["search.patience", "space.model.width"]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("search", 3, "search: must be a mapping, got 3"),
        ("search.notice", [1], "search.notice: should be a valid string, got [1]"),
        (
            "scheduler.reduction_factor",
            0.5,
            "scheduler.reduction_factor: should be greater than or equal to 1.1, got 0.5",
        ),
        ("model.depht", 3, "model.depht: unknown key; did you mean model.depth?"),
    ],
)
def test_what_a_reader_cannot_do_without_is_an_error(path: str, value: Any, message: str) -> None:
    written = yaml.safe_load(parse_config({}, {}).to_yaml())
    section, _, field = path.partition(".")
    written[section] = {**written[section], field: value} if field else value
    with pytest.raises(ConfigError) as caught:
        written_config(written)
    assert caught.value.errors == [message]
