"""How trials share the nodes of a cluster, and what is asked of it before it is joined."""

import os
import socket
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from ray.exceptions import RayError
from rich.console import Console

import search.workers.cluster
import search.workers.gpu_share
from search.config import SearchConfig, parse_config
from search.record.run_directory import SearchError
from search.workers.cluster import check_memory, count_slots, ray_started, trial_resources
from search.workers.gpu_share import activations, count_fitting, hungriest, trials_that_fit
from training.data import ImageSet, TrainData


def config_with(**resources: float) -> SearchConfig:
    return parse_config({"resources": resources}, {})


@pytest.mark.parametrize(
    ("asked", "node", "wanted"),
    [  # where a GPU holds four trials
        ({}, {"CPU": 2.0}, {"CPU": 1.0}),
        ({"cpus_per_trial": 2.0}, {"CPU": 2.0}, {"CPU": 2.0}),
        ({}, {"CPU": 16.0, "GPU": 1.0}, {"CPU": 1.0, "GPU": 0.25}),
        ({}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 0.5}),
        ({}, {"CPU": 1.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 1.0}),
        ({"gpus_per_trial": 0.0}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 1.0}),
        ({"gpus_per_trial": 0.5}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 1.0, "GPU": 0.5}),
    ],
)
def test_resources_follow_from_the_cluster_unless_given(
    asked: dict[str, float], node: dict[str, float], wanted: dict[str, float]
) -> None:
    assert trial_resources(config_with(**asked), [node], fit_on_gpu=4) == wanted


def test_a_gpu_takes_as_many_trials_as_its_memory_holds() -> None:
    gib = 2**30
    assert [count_fitting(3 * gib, memory * gib) for memory in (2, 3, 7, 10, 80)] == [1, 1, 2, 3, 4]
    node = {"CPU": 16.0, "GPU": 1.0}
    for fit, share in ((1, 1.0), (2, 0.5), (4, 0.25)):
        assert trial_resources(config_with(), [node], fit)["GPU"] == share


def test_the_hungriest_network_of_a_space_is_the_one_that_is_measured() -> None:
    """The largest feature maps at the largest batch size, whatever its parameters."""
    space = {
        "model.stride": {"choice": [1, 2]},
        "model.width": {"choice": [8, 16, 32]},
        "train.batch_size": {"choice": [32, 128, 256]},
        "optimizer.learning_rate": {"float": [0.001, 0.1], "log": True},
    }
    config = hungriest(parse_config({"space": space}, {}), 10)
    assert (config.model.stride, config.model.width, config.train.batch_size) == (1, 32, 256)
    default = parse_config({"space": {"optimizer.learning_rate": {"float": [0.001, 0.1]}}}, {})
    batch, (_, height, width) = default.train.batch_size, (3, 32, 32)
    assert activations(default.base, 10) > batch * default.model.at("width", 0) * height * width


def test_a_gpu_that_cannot_be_measured_takes_one_trial_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    images = ImageSet(np.zeros((100, 32, 32, 3), np.uint8), np.zeros(100, np.int64), ("a", "b"))
    data = TrainData(images, images, (0.0,) * 3, (1.0,) * 3)
    with mock.patch.object(search.workers.gpu_share, "ray") as no_ray:
        no_ray.get.side_effect = RayError("CUDA is out of memory")
        assert trials_that_fit(config_with(), data, Console()) == 1
    assert "CUDA is out of memory): one trial" in capsys.readouterr().out


def test_more_than_there_is_is_refused_instead_of_waited_for() -> None:
    with pytest.raises(SearchError, match=r"resources.cpus_per_trial=4, but Ray has 2 CPU"):
        trial_resources(config_with(cpus_per_trial=4.0), [{"CPU": 2.0}])
    with pytest.raises(SearchError, match=r"resources.gpus_per_trial=1, but Ray has 0 GPU"):
        trial_resources(config_with(gpus_per_trial=1.0), [{"CPU": 2.0}])


def test_data_beyond_the_object_store_are_refused() -> None:
    images = ImageSet(np.zeros((100, 32, 32, 3), np.uint8), np.zeros(100, np.int64), ("a", "b"))
    data = TrainData(images, images, (0.0,) * 3, (1.0,) * 3)
    check_memory(data, [{"object_store_memory": 2.0 * data.num_bytes}])
    with pytest.raises(SearchError, match=r"object store"):
        check_memory(
            data, [{"object_store_memory": 2.0 * data.num_bytes}, {"object_store_memory": 0.5 * data.num_bytes}]
        )


def test_a_trial_must_fit_on_one_node() -> None:
    nodes = [{"CPU": 2.0}, {"CPU": 3.0}]
    assert trial_resources(config_with(cpus_per_trial=3.0), nodes) == {"CPU": 3.0}
    with pytest.raises(SearchError, match=r"resources.cpus_per_trial=4, but Ray has 3 CPU\(s\) on any one node"):
        trial_resources(config_with(cpus_per_trial=4.0), nodes)
    with pytest.raises(SearchError, match="no node of the cluster has what one trial gets"):
        count_slots(config_with(), {"CPU": 2.0, "GPU": 1.0}, [{"CPU": 1.0, "GPU": 1.0}, {"CPU": 8.0}], joined=True)


@pytest.mark.parametrize(
    ("asked", "resources", "joined", "slots"),
    [
        ({}, {"CPU": 1.0}, False, 5),
        ({}, {"CPU": 2.0}, True, 2),  # two nodes of 2 and 3 cores: one trial each, none across both
        ({"max_concurrent": 2}, {"CPU": 1.0}, True, 5),  # the searcher holds back the others
        ({"max_concurrent": 9}, {"CPU": 1.0}, True, 9),  # asks a cluster that can to grow
        ({"max_concurrent": 9}, {"CPU": 1.0}, False, 5),
        ({}, {"CPU": 0.5}, True, 10),
    ],
)
def test_slots_are_counted_node_by_node(
    asked: dict[str, float], resources: dict[str, float], joined: bool, slots: int
) -> None:
    assert count_slots(config_with(**asked), resources, [{"CPU": 2.0}, {"CPU": 3.0}], joined) == slots


def test_an_address_where_nothing_answers_is_one_sentence_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_init(**_: Any) -> None:
        raise AssertionError("Ray tries for a quarter of an hour")

    monkeypatch.setattr(search.workers.cluster.ray, "init", no_init)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        with (
            pytest.raises(SearchError, match=r"no Ray cluster answers at 127\.0\.0\.1:"),
            ray_started(config_with(address=f"127.0.0.1:{free.getsockname()[1]}")),
        ):
            pass
    with (
        pytest.raises(SearchError, match="is Ray Client, through which no search runs"),
        ray_started(config_with(address="ray://head:10001")),
    ):
        pass


@pytest.mark.parametrize(
    ("environment", "has_file", "expected"),
    [
        ({}, False, None),
        ({}, True, "token"),
        ({"RAY_AUTH_TOKEN": "t"}, False, "token"),
        ({"RAY_AUTH_TOKEN_PATH": "/t"}, False, "token"),
        ({"RAY_AUTH_TOKEN": "t", "RAY_AUTH_MODE": "disabled"}, True, "disabled"),
    ],
)
def test_a_token_that_is_there_is_shown(
    environment: dict[str, str],
    has_file: bool,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {**environment, "HOME": str(tmp_path)})
    if has_file:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("t")
    search.workers.use_token()
    assert os.environ.get("RAY_AUTH_MODE") == expected
