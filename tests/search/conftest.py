"""A quick search's config, and checkpoints of its trial 0 after one and two epochs."""

from pathlib import Path

import pytest
import torch

from search.config import SearchConfig, load_config
from training import load_data, new_state, save_checkpoint, train
from training.data import TrainData

QUICK = Path(__file__).parents[2] / "configs" / "quick.yaml"


@pytest.fixture(scope="session")
def quick() -> SearchConfig:
    return load_config(QUICK)


@pytest.fixture(scope="session")
def quick_data(quick: SearchConfig) -> TrainData:
    return load_data(quick.base.data)


@pytest.fixture(scope="session")
def trained_checkpoints(
    quick: SearchConfig, quick_data: TrainData, tmp_path_factory: pytest.TempPathFactory
) -> list[Path]:
    torch.set_num_threads(1)
    state = new_state(quick.base, quick_data)
    paths = []
    for result in train(state, quick_data):
        paths.append(tmp_path_factory.mktemp("checkpoint") / str(result.epoch))
        save_checkpoint(state, paths[-1], number=7)
        if result.epoch == 2:
            break
    return paths
