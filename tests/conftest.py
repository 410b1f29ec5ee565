"""What all tests share: one thread, no Ray ahead of time, and property tests that do not fail on a busy machine."""

import contextlib
import os
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
os.environ.update(RAY_worker_niceness="0")  # of searches in tests: else the trials of one starve beside another

settings.register_profile("default", deadline=None, max_examples=50)
settings.load_profile("default")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless -m names it: so `-m "not ray"` does not bring it in."""
    kept_out = [name for name in ("slow", "benchmark") if name not in config.option.markexpr]
    left_out = [item for item in items if any(item.get_closest_marker(name) for name in kept_out)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session", autouse=True)
def ray_starts_only_when_it_is_used() -> Iterator[None]:
    """Tests that call main() in their own process end before that; those that run programs leave it as it is."""
    with mock.patch("search.workers.local_ray.starting_meanwhile", lambda *_: contextlib.nullcontext()):
        yield
