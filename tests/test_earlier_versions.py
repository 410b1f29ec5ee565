"""A run directory whose configs lack fields, as earlier versions wrote it: all that opens one takes the defaults."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from made_runs import MadeRun, edited_meta, small_config, trained_checkpoints

from analysis import load_search
from search.command_line import parse
from search.config import SearchConfig
from search.plan import plan_search
from search.propose.earlier import map_trial, read_search
from search.record.run_storage import RunStorage
from training import load_data, load_model, load_state, train

FIELDS = {  # of the version before stages
    "data": "dataset data_dir image_size val_fraction split_seed crop_padding flip cutout",
    "model": "depth width width_growth kernel_size stride padding pooling batch_norm activation dropout head",
    "optimizer": "name learning_rate momentum nesterov weight_decay schedule",
    "train": "epochs batch_size label_smoothing seed",
}
SPACE = {
    "model.depth": {"int": [1, 3]},
    "optimizer.name": {"choice": ["sgd", "adamw"]},
    "optimizer.momentum": {"float": [0.5, 0.95], "when": {"optimizer.name": "sgd"}},
}
DEEPER = {"model.depth": 2, "optimizer.name": "sgd", "optimizer.momentum": 0.7}


def as_written_then(config: dict[str, Any]) -> dict[str, Any]:
    return config | {
        name: {field: value for field, value in config[name].items() if field in known.split()}
        for name, known in FIELDS.items()
    }


@pytest.fixture
def config() -> SearchConfig:
    return small_config(space=SPACE, train={"epochs": 3, "batch_size": 64})


@pytest.fixture
def earlier(config: SearchConfig, tmp_path: Path) -> tuple[MadeRun, list[Path]]:
    """A run directory with a COMPLETE trial and one in flight, and the checkpoints of all epochs of the first."""
    run = MadeRun(tmp_path / "runs" / "old", config)
    checkpoints = trained_checkpoints(config.base, tmp_path / "defaults")
    _, complete = run.trained(checkpoints)
    deeper = trained_checkpoints(config.base.override(DEEPER), tmp_path / "deeper", 1)
    run.trained(deeper, state=None, params=DEEPER)
    written = run.path / "search.yaml"
    values = yaml.safe_load(written.read_text())
    written.write_text(yaml.safe_dump(as_written_then(values)))
    for checkpoint in run.path.glob("trial_*/checkpoint_*"):
        with edited_meta(checkpoint) as meta:
            meta["config"] = as_written_then(meta["config"])
    assert as_written_then(values) != values
    return run, complete


def test_it_is_resumed_and_read(earlier: tuple[MadeRun, list[Path]], config: SearchConfig) -> None:
    run, _ = earlier
    resumed = plan_search(parse(["--resume", str(run.path)])).config
    results = load_search(run.path)
    for read in (resumed, results.settings):
        assert (read.model, read.optimizer, read.train) == (config.model, config.optimizer, config.train)
        assert read.space == config.space
    assert results.config_of(1) == config.base.override(DEEPER)
    assert [warning.partition(":")[0] for warning in results.warnings] == ["1 trial is RUNNING"]
    assert results.epochs.groupby("number").size().to_dict() == {0: 3, 1: 1}


def test_its_trainings_go_on_to_the_bit(earlier: tuple[MadeRun, list[Path]], config: SearchConfig) -> None:
    _, checkpoints = earlier
    data = load_data(config.data)
    state = load_state(checkpoints[0], data, config=config.base)
    assert [result.val_accuracy for result in train(state, data)] == MadeRun.recorded(checkpoints[-1])[1:]
    weights = load_model(checkpoints[-1]).state_dict()
    assert all(value.equal(weights[name]) for name, value in state.model.state_dict().items())


def test_its_trials_inform_a_search_of_what_it_did_not_know(earlier: tuple[MadeRun, list[Path]]) -> None:
    """Where a new field acts it has its default; where it does not, the new base's may be another."""
    space = {
        **SPACE,
        "model.layers_per_stage": {"int": [1, 3]},
        "model.residual": {"choice": [True, False], "when": {"model.layers_per_stage": [2, 3]}},
        "model.head": {"choice": ["average", "max"]},
        "model.init": {"choice": ["dirac", "default"]},
        "optimizer.name": {"choice": ["sgd", "adamw", "muon"]},
        "optimizer.other_learning_rate": {"float": [0.1, 1.0], "log": True, "when": {"optimizer.name": "muon"}},
        "optimizer.momentum": {"float": [0.5, 0.95], "when": {"optimizer.name": ["sgd", "muon"]}},
        "optimizer.schedule": {"choice": ["one_cycle", "linear"]},
        "train.loss": {"choice": ["cross_entropy", "mse"]},
    }
    new = small_config(
        space=space,
        model={"depth": 1, "width": 4, "pooling": "none", "residual": True},
        optimizer={"name": "muon", "learning_rate": 0.01, "other_learning_rate": 0.2, "momentum": 0.8},
        train={"epochs": 3, "batch_size": 64},
    )
    search = read_search(RunStorage(str(earlier[0].path)), new)
    assert search.incomparable == ()
    complete, unfinished = (map_trial(trial, search, new, new.search_space, num_classes=10) for trial in search.trials)
    assert complete.reasons == () and unfinished.reasons == ("not finished",)
    assert complete.params == {
        "model.depth": 1,
        "model.layers_per_stage": 1,
        "model.head": "average",
        "model.init": "default",
        "optimizer.name": "adamw",
        "optimizer.schedule": "one_cycle",
        "train.loss": "cross_entropy",
    }
