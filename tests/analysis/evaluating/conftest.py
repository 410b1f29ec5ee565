"""Pictures and networks at random, and a test split that nobody may open."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from analysis.evaluating.predict import BestModel
from training.config import ModelConfig
from training.model import ConvNet

MEAN, STD = (125.3, 123.0, 113.9), (63.0, 62.1, 66.7)


@pytest.fixture
def shut_test_split(monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(config: Any) -> None:
        raise AssertionError("the test split was opened")

    monkeypatch.setattr("analysis.evaluating.test_split.load_test", opened)
    monkeypatch.setattr("training.data.load_test", opened)


@pytest.fixture
def random_model() -> Callable[[dict[str, Any]], BestModel]:
    def make(config: dict[str, Any]) -> BestModel:
        """A network with random weights and batch norm statistics that are not those of a new one."""
        torch.manual_seed(0)
        model = ConvNet(ModelConfig.model_validate(config), (3, 10, 10), 4, MEAN, STD).eval()
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.uniform_(0.5, 1.5)
        return BestModel(0, False, 1, 0.5, ("a", "b", "c", "d"), model)

    return make


@pytest.fixture
def picture() -> Callable[[tuple[int, ...]], np.ndarray]:
    return lambda shape: np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
