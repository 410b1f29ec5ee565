"""A quick search's config, and checkpoints of its trial 0 after one and two epochs."""

from pathlib import Path

import made_runs
import pytest

from search.config import SearchConfig, load_config
from training import load_data
from training.data import TrainData

QUICK = Path(__file__).parents[2] / "configs" / "quick.yaml"


@pytest.fixture(scope="session")
def quick() -> SearchConfig:
    return load_config(QUICK)


@pytest.fixture(scope="session")
def quick_data(quick: SearchConfig) -> TrainData:
    return load_data(quick.base.data)


@pytest.fixture(scope="session")
def trained_checkpoints(quick: SearchConfig, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return made_runs.trained_checkpoints(quick.base, tmp_path_factory.mktemp("checkpoints"), epochs=2)
