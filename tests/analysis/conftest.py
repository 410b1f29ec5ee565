"""Run directories made by hand: an Optuna journal, and checkpoints of small networks trained on digits."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from made_runs import MadeRun
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from training import load_data, new_state, save_checkpoint, train
from training.config import TrialConfig
from training.data import TrainData

optuna.logging.set_verbosity(optuna.logging.WARNING)

EPOCHS = 2
SETTINGS: dict[str, Any] = {
    "data": {"dataset": "digits", "image_size": 8, "split_seed": 3, "crop_padding": 0, "flip": False},
    "model": {"depth": 1, "width": 4, "pooling": "none"},
    "optimizer": {"learning_rate": 0.1},
    "train": {"epochs": EPOCHS, "batch_size": 64},
    "search": {"num_samples": 8, "seed": 3, "notice": None},
    "sampler": {"name": "tpe"},
    "scheduler": {"name": "asha", "grace_epochs": 1, "reduction_factor": 3},
    "resources": {"cpus_per_trial": 1.0},
    "space": {
        "model.depth": {"int": [1, 2]},
        "model.kernel_size": {"choice": [1, 3], "per_layer": True},
        "optimizer.name": {"choice": ["sgd", "adam"]},
        "optimizer.momentum": {"float": [0.5, 0.95], "when": {"optimizer.name": "sgd"}},
    },
}
DISTRIBUTIONS = {
    "model.depth": IntDistribution(1, 2),
    "model.kernel_size.0": CategoricalDistribution([1, 3]),
    "model.kernel_size.1": CategoricalDistribution([1, 3]),
    "optimizer.name": CategoricalDistribution(["sgd", "adam"]),
    "optimizer.momentum": FloatDistribution(0.5, 0.95),
}
DEFAULTS = {"model.depth": 1, "model.kernel_size.0": 3, "optimizer.name": "sgd", "optimizer.momentum": 0.9}
DEEPER = {"model.depth": 2, "model.kernel_size.0": 3, "model.kernel_size.1": 1, "optimizer.name": "adam"}
ENVIRONMENT = [
    {
        "started_at": "2030-01-01T00:00:00+00:00",
        "command": "run_search.py --num-samples 8",
        "git_commit": None,
        "versions": {"torch": "2.11"},
        "hardware": {"cpu": "A CPU", "cores": 2, "gpus": [], "memory_gib": 4.0},
    }
]


def base_config() -> TrialConfig:
    return TrialConfig.model_validate({name: SETTINGS[name] for name in ("data", "model", "optimizer", "train")})


@pytest.fixture(scope="session")
def digits() -> TrainData:
    return load_data(base_config().data)


@pytest.fixture(scope="session")
def trained(digits: TrainData, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Checkpoints after each epoch of two trainings: of the defaults, and of a deeper network."""
    places: dict[str, list[Path]] = {}
    for name, number, params in (("defaults", 0, DEFAULTS), ("deeper", 1, DEEPER)):
        state = new_state(base_config().override(params), digits)
        for result in train(state, digits):
            place = tmp_path_factory.mktemp("trained") / f"{name}_{result.epoch}"
            save_checkpoint(state, place, number)
            places.setdefault(name, []).append(place)
    return places


class Run(MadeRun):
    """A run directory under construction."""

    DEFAULTS, DEEPER, SETTINGS = DEFAULTS, DEEPER, SETTINGS

    def __init__(self, path: Path, settings: Mapping[str, Any] = SETTINGS) -> None:
        self.path, self.defaults, self.distributions = path, DEFAULTS, DISTRIBUTIONS
        path.mkdir(parents=True)
        (path / "search.yaml").write_text(yaml.safe_dump(dict(settings), sort_keys=False))
        (path / "environment.json").write_text(json.dumps(ENVIRONMENT))
        storage = JournalStorage(JournalFileBackend(str(path / "study.journal")))
        self.study = optuna.create_study(storage=storage, study_name="any name", direction="maximize")

    @staticmethod
    def edit_meta(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
        meta = json.loads((checkpoint / "meta.json").read_text())
        change(meta)
        (checkpoint / "meta.json").write_text(json.dumps(meta))

    def with_flips(self) -> "Run":
        """The run as if its networks had been trained with horizontal flips."""
        for place in self.path.rglob("checkpoint_*"):
            self.edit_meta(place, lambda meta: meta["config"]["data"].update(flip=True))
        return self


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    def make(name: str = "run", **search: Any) -> Run:
        return Run(tmp_path / "runs" / name, {**SETTINGS, "search": {**SETTINGS["search"], **search}})

    return make


@pytest.fixture
def search_run(make_run: Callable[..., Run], trained: dict[str, list[Path]]) -> Run:
    """A finished search: trial 0 and 2 COMPLETE (whichever was better wins), 1 infeasible, 3 stopped at a rung."""
    run = make_run()
    run.trial(run.recorded(trained["defaults"][-1]), num_params=100, multiply_adds=2000)
    run.trial([], TrialState.PRUNED, DEEPER, constraint=1.0, stopped_by="infeasible", reason="impossible network")
    run.trial(run.recorded(trained["deeper"][-1]), params=DEEPER)
    run.trial([0.05], TrialState.PRUNED, stopped_by="asha")
    run.checkpoint(0, trained["defaults"][-1], 1)
    run.checkpoint(2, trained["deeper"][-1], 1)
    run.checkpoint(3, trained["defaults"][0])
    return run
