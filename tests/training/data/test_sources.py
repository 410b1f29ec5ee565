"""Digits against scikit-learn's own, and CIFAR in torchvision's layout, from a server on this machine."""

import contextlib
import dataclasses
import hashlib
import http.server
import pickle
import socket
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR10, CIFAR100

from training.config import NUM_CLASSES, DataConfig, validate
from training.data import cifar_is_available, load_data, load_official_train, load_test
from training.errors import ConfigError, DataError


def test_digits_are_those_of_scikit_learn():
    config = DataConfig(dataset="digits", image_size=8)
    train, test = load_official_train(config), load_test(config)
    original = load_digits()
    assert train.class_names == test.class_names == tuple("0123456789")
    assert len(train.labels) + len(test.labels) == len(original.target) == 1797
    assert abs(len(test.labels) - 0.2 * 1797) < 1

    def content(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
        return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))

    grey = np.round(original.images / 16 * 255).astype(np.uint8)
    both = np.concatenate([train.images, test.images])
    assert (both == both[..., :1]).all()
    assert content(both[..., 0], np.concatenate([train.labels, test.labels])) == content(grey, original.target)


def test_digits_are_resized_and_their_test_split_is_always_the_same():
    first = load_test(DataConfig(dataset="digits", split_seed=0))
    other = load_test(DataConfig(dataset="digits", split_seed=1, val_fraction=0.5))
    assert first.images.shape == (360, 32, 32, 3)
    assert first.images.dtype == np.uint8
    assert first.image_shape == (3, 32, 32)
    assert (first.images == other.images).all()
    assert (first.labels == other.labels).all()
    for digit in range(10):
        assert abs((first.labels == digit).sum() - 36) <= 2


@pytest.mark.parametrize("name", ["auto", "imagenet", "folder:", "CIFAR10", ""])
def test_only_known_data_sets_make_a_config(name):
    with pytest.raises(ConfigError, match=r"dataset"):
        validate(DataConfig, {"dataset": name})


@dataclasses.dataclass
class Server:
    url: str
    folder: Path
    downloads: list[str]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Serves a folder and takes down what is fetched."""
    folder, downloads = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):  # type: ignore[no-untyped-def]
            super().__init__(*arguments, directory=str(folder))

        def do_GET(self) -> None:
            downloads.append(self.path)
            with contextlib.suppress(BrokenPipeError):  # torchvision looks for redirections first, and reads no further
                super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Server(f"http://127.0.0.1:{running.server_port}", folder, downloads)
        running.shutdown()
        thread.join()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(
    request: pytest.FixtureRequest, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[DataConfig, type[CIFAR10], np.ndarray]:
    """A config, torchvision's class, and the 40 training images of a small archive in its layout, on the server."""
    monkeypatch.setenv("no_proxy", "*")
    dataset_class, key = (CIFAR10, "labels") if request.param == "cifar10" else (CIFAR100, "fine_labels")
    images = np.random.default_rng(2).integers(0, 256, (48, 3, 32, 32), dtype=np.uint8)
    rows = images.reshape(48, -1)
    parts = np.array_split(rows[:40], len(dataset_class.train_list))
    contents = {
        name: pickle.dumps({"data": part, key: [number % 4 for number in range(len(part))]})
        for (name, _), part in zip(
            [*dataset_class.train_list, *dataset_class.test_list], [*parts, rows[40:]], strict=True
        )
    }
    meta_name = dataset_class.meta["filename"]
    contents[meta_name] = pickle.dumps({dataset_class.meta["key"]: [f"kind {number}" for number in range(10)]})
    for name, content in contents.items():
        file = tmp_path / "packed" / dataset_class.base_folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    archive = server.folder / dataset_class.filename
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(tmp_path / "packed" / dataset_class.base_folder, dataset_class.base_folder)
    for attribute, value in {
        "url": f"{server.url}/{dataset_class.filename}",
        "tgz_md5": md5(archive.read_bytes()),
        "train_list": [[name, md5(contents[name])] for name, _ in dataset_class.train_list],
        "test_list": [[name, md5(contents[name])] for name, _ in dataset_class.test_list],
        "meta": {**dataset_class.meta, "md5": md5(contents[meta_name])},
    }.items():
        monkeypatch.setattr(dataset_class, attribute, value)
    config = DataConfig(dataset=request.param, data_dir=str(tmp_path / "data"))
    return config, dataset_class, images[:40].transpose(0, 2, 3, 1)


def test_cifar_is_downloaded_once(cifar, server: Server):
    config, dataset_class, images = cifar
    train = load_official_train(config)
    assert (train.images == images).all()
    per_file = 40 // len(dataset_class.train_list)
    assert train.labels.tolist() == [number % per_file % 4 for number in range(40)]
    if config.dataset == "cifar10":
        assert train.class_names[:3] == ("plane", "car", "bird")
        assert len(train.class_names) == 10
    else:
        assert train.class_names == tuple(f"kind {number}" for number in range(10))
    fetched = len(server.downloads)
    assert set(server.downloads) == {f"/{dataset_class.filename}"}
    assert len(load_test(config).labels) == 8
    assert (load_official_train(config).images == images).all()
    assert len(server.downloads) == fetched
    assert load_test(config.model_copy(update={"image_size": 16})).images.shape == (8, 16, 16, 3)


def test_a_damaged_archive_on_disk_is_fetched_again(cifar, server: Server):
    config, dataset_class, images = cifar
    Path(config.data_dir).mkdir()
    (Path(config.data_dir) / dataset_class.filename).write_bytes(b"half an archive")
    assert (load_official_train(config).images == images).all()
    assert server.downloads


def test_a_damaged_archive_on_the_server_is_an_error_with_the_remedy(cifar, server: Server):
    config, dataset_class, _ = cifar
    (server.folder / dataset_class.filename).write_bytes(b"half an archive")
    with pytest.raises(DataError) as caught:
        load_data(config)
    for named in (config.data_dir, dataset_class.url, dataset_class.tgz_md5, "delete it", "--dataset digits"):
        assert named in str(caught.value)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_unreachable_server_is_an_error_with_the_remedy(cifar, monkeypatch: pytest.MonkeyPatch):
    config, dataset_class, _ = cifar
    monkeypatch.setattr(dataset_class, "url", f"http://127.0.0.1:{free_port()}/{dataset_class.filename}")
    with pytest.raises(DataError, match=r"Check the connection, or put the archive at .*--dataset digits"):
        load_data(config)


@pytest.mark.parametrize("cifar", ["cifar10"], indirect=True)
def test_cifar_is_available(cifar, server: Server, monkeypatch: pytest.MonkeyPatch):
    config, dataset_class, _ = cifar
    assert cifar_is_available(config, timeout_seconds=5.0)
    assert server.downloads == [], "asking must not download"
    with socket.socket() as silent:  # takes connections, never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.perf_counter()
        for port, path in ((silent.getsockname()[1], "x"), (free_port(), "x"), (server.url.split(":")[-1], "missing")):
            monkeypatch.setattr(dataset_class, "url", f"http://127.0.0.1:{port}/{path}")
            assert not cifar_is_available(config, timeout_seconds=0.2)
        assert time.perf_counter() - started < 3
    (Path(config.data_dir) / dataset_class.base_folder).mkdir(parents=True)
    assert cifar_is_available(config, timeout_seconds=0.2)


@pytest.mark.parametrize("name", NUM_CLASSES)
def test_every_data_set_that_a_config_may_name_can_be_loaded(name: str, tmp_path: Path) -> None:
    config = DataConfig(dataset=name, data_dir=str(tmp_path))
    try:
        assert len(load_test(config, may_write=False).class_names) == NUM_CLASSES[name]
    except DataError as error:
        assert f"{name} is not in {tmp_path}" in str(error)
