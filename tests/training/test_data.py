"""Data sets, the split, batches and augmentation, against numpy, PIL and torchvision's own archive layout."""

import contextlib
import dataclasses
import hashlib
import http.server
import os
import pickle
import socket
import tarfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100

from training import data as data_module
from training.config import DataConfig, validate
from training.data import (
    ImageSet,
    TrainData,
    augmentation,
    batch_loader,
    channel_statistics,
    cifar_is_available,
    data_loaders,
    decode_image,
    load_data,
    load_official_train,
    load_test,
    split_train,
)
from training.errors import ConfigError, DataError

# Split and statistics


def numbered_images(labels: np.ndarray) -> ImageSet:
    """Images whose first two pixels hold their own number."""
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 4, 4, 3), dtype=np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = np.arange(len(labels)) // 256, np.arange(len(labels)) % 256
    return ImageSet(images, labels.astype(np.int64), tuple(str(label) for label in np.unique(labels)))


def numbers(images: np.ndarray | Tensor) -> list[int]:
    pixels = np.asarray(images).reshape(len(images), -1, 3)[:, 0].astype(int)
    return (pixels[:, 0] * 256 + pixels[:, 1]).tolist()


@settings(max_examples=30)
@given(counts=st.lists(st.integers(8, 40), min_size=2, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_split_is_stratified_disjoint_and_whole(counts: list[int], seed: int):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    data = split_train(numbered_images(labels), DataConfig(split_seed=seed))
    assert sorted(numbers(data.train.images) + numbers(data.val.images)) == list(range(len(labels)))
    for part, fraction in ((data.train, 0.75), (data.val, 0.25)):
        assert part.labels.tolist() == labels[numbers(part.images)].tolist()
        assert abs(len(part.labels) - fraction * len(labels)) < 1
        for label, count in enumerate(counts):
            assert abs((part.labels == label).sum() - fraction * count) <= 1


def test_split_follows_from_the_seed_alone():
    official = numbered_images(np.arange(200) % 4)
    first, again, other = (numbers(split_train(official, DataConfig(split_seed=s)).val.images) for s in (3, 3, 4))
    assert first == again
    assert set(first) != set(other)
    larger = split_train(official, DataConfig(split_seed=3, val_fraction=0.4))
    assert len(larger.val.labels) == 80


def test_a_split_that_cannot_be_is_refused():
    with pytest.raises(DataError, match=r"data\.val_fraction=0\.25.*5 training images.*4 classes"):
        split_train(numbered_images(np.array([0, 1, 2, 3, 3])), DataConfig())


def test_statistics_are_those_of_the_train_part_only():
    official = numbered_images(np.arange(100) % 2)
    data = split_train(official, DataConfig())
    np.testing.assert_allclose(data.mean, data.train.images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, data.train.images.std((0, 1, 2)), rtol=1e-12)
    assert not np.allclose(data.mean, official.images.mean((0, 1, 2)), rtol=1e-6)
    assert data.num_bytes == official.images.nbytes


def test_a_constant_channel_can_be_divided_by():
    mean, std = channel_statistics(np.full((2, 4, 4, 3), 7, dtype=np.uint8))
    assert mean == (7.0, 7.0, 7.0)
    assert std == (1.0, 1.0, 1.0)


# Digits


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


# Image folders

RED, BLUE = (255, 0, 0), (0, 0, 255)


def write_folder(root: Path, splits: tuple[str, ...] = ("train", "test"), count: int = 8) -> DataConfig:
    """Two classes of plain images, `count` each: apples are red, plums are blue; 6 pixels a side."""
    for split in splits:
        for name, colour in (("apple", RED), ("plum", BLUE)):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (6, 6), colour).save(root / split / name / f"{number}.png", compress_level=0)
    return folder_config(root)


def folder_config(root: Path) -> DataConfig:
    return DataConfig(dataset=f"folder:{root}", data_dir=str(root.parent / "data"), image_size=6, crop_padding=0)


def test_a_folder_becomes_a_data_set(tmp_path: Path):
    config = write_folder(tmp_path / "fruit")
    for hidden in ("train/.DS_Store", "train/apple/.hidden.png"):
        (tmp_path / "fruit" / hidden).write_bytes(b"no image")
    (tmp_path / "fruit/train/.thumbnails").mkdir()
    data, test = load_data(config), load_test(config)
    assert data.train.class_names == test.class_names == ("apple", "plum")
    assert (len(data.train.labels), len(data.val.labels), len(test.labels)) == (12, 4, 16)
    for part in (data.train, data.val, test):
        assert part.images.dtype == np.uint8
        assert (part.images == np.array([RED, BLUE], dtype=np.uint8)[part.labels][:, None, None, :]).all()


def grey_ramp(dtype: type, highest: int) -> np.ndarray:
    return np.linspace(0, highest, 35).round().astype(dtype).reshape(5, 7)


RAMP = grey_ramp(np.uint8, 255)
COLOURS = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("name", "image", "expected", "tolerance"),
    [
        ("rgb.png", Image.fromarray(COLOURS), COLOURS, 0),
        ("rgb.bmp", Image.fromarray(COLOURS), COLOURS, 0),
        ("rgb.webp", Image.new("RGB", (7, 5), BLUE), np.full((5, 7, 3), BLUE), 4),
        ("rgb.jpeg", Image.new("RGB", (7, 5), BLUE), np.full((5, 7, 3), BLUE), 4),
        ("cmyk.jpg", Image.new("CMYK", (7, 5), (0, 255, 255, 0)), np.full((5, 7, 3), RED), 4),
        ("grey.png", Image.fromarray(RAMP), RAMP, 0),
        ("grey_alpha.png", Image.fromarray(RAMP).convert("LA"), RAMP, 0),
        ("palette.gif", Image.fromarray(RAMP).convert("P"), RAMP, 0),
        ("palette.png", Image.fromarray(RAMP).convert("P"), RAMP, 0),
        ("rgba.png", Image.fromarray(COLOURS).convert("RGBA"), COLOURS, 0),
        ("bits.png", Image.fromarray(RAMP > 127), np.where(RAMP > 127, 255, 0), 0),
        ("grey16.png", Image.fromarray(grey_ramp(np.uint16, 65535)), RAMP, 1),
        ("grey16.tiff", Image.fromarray(grey_ramp(np.uint16, 65535)), RAMP, 1),
        ("grey32.tiff", Image.fromarray(grey_ramp(np.int32, 65535)), RAMP, 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_format_and_mode_is_decoded(tmp_path: Path, name, image, expected, tolerance):
    image.save(tmp_path / name)
    decoded = decode_image(tmp_path / name, 7)
    assert decoded.shape == (7, 7, 3)
    assert decoded.dtype == np.uint8
    expected = np.broadcast_to(expected[..., None] if expected.ndim == 2 else expected, (5, 7, 3))
    resized = np.asarray(Image.fromarray(expected.astype(np.uint8)).resize((7, 7), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(decoded.astype(int), resized.astype(int), atol=tolerance)


def test_a_transparent_palette_is_decoded_without_a_word(tmp_path: Path):
    image = Image.fromarray(RAMP).convert("P")
    image.save(tmp_path / "palette.png", transparency=bytes([0, 128] * 128))
    assert decode_image(tmp_path / "palette.png", 7).shape == (7, 7, 3)


def test_orientation_is_obeyed(tmp_path: Path):
    image = Image.new("RGB", (8, 8), BLUE)
    image.paste(RED, (0, 0, 8, 4))  # red above blue
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: red on the right
    image.save(tmp_path / "turned.png", exif=exif)
    decoded = decode_image(tmp_path / "turned.png", 8)
    assert (decoded[:, 4:] == RED).all()
    assert (decoded[:, :4] == BLUE).all()


def break_png(root: Path) -> None:
    (root / "train/plum/broken.png").write_bytes((root / "train/plum/0.png").read_bytes()[:50])


def write_text(root: Path) -> None:
    (root / "train/apple/notes.txt").write_text("no image")


def empty_class(root: Path) -> None:
    (root / "train/quince").mkdir()
    (root / "train/quince/.hidden").touch()


def remove(root: Path, *parts: str) -> None:
    for part in parts:
        for file in sorted((root / part).rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        (root / part).rmdir()


@pytest.mark.parametrize(
    ("spoil", "named"),
    [
        (break_png, r"plum.broken\.png cannot be read.*remove"),
        (write_text, r"apple.notes\.txt cannot be read.*remove"),
        (empty_class, r"'quince' has no images"),
        (lambda root: remove(root, "train/plum", "test/plum"), r"1 class.*two or more"),
        (lambda root: remove(root, "train/plum", "train/apple"), r"0 class.*two or more"),
        (lambda root: remove(root, "test/plum"), r"only in train/ or only in test/: plum\."),
        (lambda root: (root / "test/plum").rename(root / "test/plums"), r"plum, plums"),
        (lambda root: remove(root, "test"), r"test is not a folder.*PATH/train/<class>"),
        (lambda root: remove(root, "train", "test"), r"train is not a folder.*PATH/train/<class>"),
    ],
    ids=[
        "truncated",
        "text",
        "empty class",
        "one class",
        "no class",
        "missing class",
        "renamed class",
        "no test",
        "none",
    ],
)
def test_a_folder_with_a_fault_is_refused(tmp_path: Path, spoil: Callable[[Path], None], named: str):
    config = write_folder(tmp_path / "fruit")
    spoil(tmp_path / "fruit")
    with pytest.raises(DataError, match=named):
        load_data(config)


def test_a_decompression_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = write_folder(tmp_path / "fruit")
    for limit in (25, 10):  # below 36 pixels Pillow warns, below half of that it raises
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=r"\.png cannot be read"):
            load_data(config)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 36)
    assert len(load_official_train(config).labels) == 16


def test_every_decompression_bomb_is_refused_also_by_many_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The filters of the warnings module belong to the whole process: threads must not take turns in setting them."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    Image.new("RGB", (20, 16)).save(tmp_path / "bomb.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = list(warnings.filters)

        def decode(_: int) -> int:
            try:
                decode_image(tmp_path / "bomb.png", 4)
            except DataError:
                return 1
            return 0

        with ThreadPoolExecutor(16) as pool:
            refused = sum(pool.map(decode, range(300)))
        assert warnings.filters == before
    assert refused == 300


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(data_module, "decode_image", refuse)


def test_decoded_folders_are_kept_until_a_file_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = tmp_path / "fruit"
    config = write_folder(root)
    first = load_official_train(config)
    load_test(config)
    with monkeypatch.context() as patch:
        forbid_decoding(patch)
        again = load_official_train(config)
    assert (again.images == first.images).all()
    assert (again.labels == first.labels).all()
    assert len(list((tmp_path / "data/.cache").iterdir())) == 2  # train and test

    changed, content = root / "train/apple/0.png", (root / "train/plum/0.png").read_bytes()
    assert len(content) == changed.stat().st_size, "a change that only the time tells"
    changed.write_bytes(content)
    os.utime(changed, ns=(1, 1))
    assert (load_official_train(config).images[0] == BLUE).all()
    (root / "train/apple/1.png").rename(root / "train/apple/9.png")
    Image.new("RGB", (6, 6), BLUE).save(root / "train/plum/8.png")
    assert len(load_official_train(config).labels) == 17
    assert len(list((tmp_path / "data/.cache").iterdir())) == 2, "outdated ones must be gone"

    smaller = load_official_train(config.model_copy(update={"image_size": 5}))
    assert smaller.images.shape == (17, 5, 5, 3)
    assert load_official_train(config).images.shape == (17, 6, 6, 3)


@pytest.mark.parametrize("length", [0, 3, 100, 400])
def test_a_damaged_cache_is_made_again(tmp_path: Path, length: int):
    config = write_folder(tmp_path / "fruit")
    expected = load_official_train(config)
    (cached,) = (tmp_path / "data/.cache").iterdir()
    cached.write_bytes(cached.read_bytes()[:length])
    assert (load_official_train(config).images == expected.images).all()


# CIFAR, from a server on this machine


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


# Batches


@given(count=st.integers(2, 70), batch_size=st.integers(2, 20), seed=st.integers(0, 2**63))
def test_a_loader_yields_every_image_once_an_epoch(count: int, batch_size: int, seed: int):
    image_set = numbered_images(np.arange(count) % 2)
    loader = batch_loader(image_set, batch_size)
    sizes = [min(batch_size, count - start) for start in range(0, count, batch_size)]
    assert [len(labels) for _, labels in loader] == sizes
    assert len(loader) == len(sizes)
    images, labels = (torch.cat(parts) for parts in zip(*loader, strict=True))
    assert images.equal(torch.from_numpy(image_set.images).permute(0, 3, 1, 2))
    assert labels.tolist() == image_set.labels.tolist()

    shuffled = batch_loader(image_set, batch_size, generator=torch.Generator().manual_seed(seed))
    batches = list(shuffled)
    lone = count % batch_size == 1
    assert len(shuffled) == len(batches) == len(sizes) - lone
    order = [number for images, _ in batches for number in numbers(images.permute(0, 2, 3, 1))]
    assert len(set(order)) == len(order) == count - lone
    assert [label for _, labels in batches for label in labels.tolist()] == [number % 2 for number in order]


def epoch_order(loader) -> list[int]:
    return [number for images, _ in loader for number in numbers(images.permute(0, 2, 3, 1))]


def test_the_order_follows_from_the_generator():
    image_set = numbered_images(np.arange(100) % 2)
    first, again, other = (
        batch_loader(image_set, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    order = epoch_order(first)
    assert order == epoch_order(again)
    assert order != epoch_order(other)
    assert order != sorted(order)
    assert epoch_order(first) != order, "the next epoch must have another order"


def test_batches_are_images_of_their_own():
    image_set = numbered_images(np.arange(20) % 2)
    image_set.images.setflags(write=False)
    before = image_set.images.copy()
    for images, _ in batch_loader(image_set, 8):
        assert images.dtype == torch.uint8
        assert images.is_contiguous(memory_format=torch.channels_last)
        images.zero_()
    assert (image_set.images == before).all()


def test_data_loaders_are_train_val_and_test(digits: TrainData):
    test = load_test(DataConfig(dataset="digits", image_size=8))
    loaders = data_loaders(digits, test, batch_size=100, seed=5)
    parts = (digits.train, digits.val, test)
    for loader, part in zip(loaders, parts, strict=True):
        labels = torch.cat([labels for _, labels in loader])
        assert sorted(labels.tolist()) == sorted(part.labels.tolist())
    assert torch.cat([labels for _, labels in loaders[1]]).tolist() == digits.val.labels.tolist()
    assert torch.cat([labels for _, labels in loaders[2]]).tolist() == test.labels.tolist()
    orders = [
        torch.cat([labels for _, labels in data_loaders(digits, test, 100, seed)[0]]).tolist() for seed in (5, 5, 6)
    ]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert orders[0] != digits.train.labels.tolist()


# Augmentation


def random_batch(count: int, height: int = 8, width: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)
    return images.contiguous(memory_format=torch.channels_last)


def augmented(images: Tensor, seed: int = 0, **fields: int | bool) -> Tensor:
    config = DataConfig(**{"image_size": 8, "crop_padding": 0, "flip": False, **fields})
    return augmentation(config, (10.4, 20.6, 30.0))(images, torch.Generator().manual_seed(seed))


def windows(image: Tensor, padding: int) -> dict[tuple[int, int], np.ndarray]:
    """Every window of an image's size out of the image with a reflected border, by its corner."""
    _, height, width = image.shape
    padded = np.pad(image.numpy(), ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    return {
        (top, left): padded[:, top : top + height, left : left + width]
        for top in range(2 * padding + 1)
        for left in range(2 * padding + 1)
    }


@pytest.mark.parametrize(("padding", "flip"), [(3, False), (0, True), (2, True)])
def test_crops_are_shifted_windows_of_the_reflected_image_and_flips_mirror_images(padding: int, flip: bool):
    images = random_batch(600)
    seen = []
    for before, after in zip(images, augmented(images, crop_padding=padding, flip=flip), strict=True):
        choices = {
            (*corner, mirrored): window[:, :, ::-1] if mirrored else window
            for corner, window in windows(before, padding).items()
            for mirrored in range(1 + flip)
        }
        (choice,) = [choice for choice, window in choices.items() if (window == after.numpy()).all()]
        seen.append(choice)
    # Every choice is drawn, image by image, about equally often: 12 times where there are most.
    possible = (2 * padding + 1) ** 2 * (1 + flip)
    assert len(set(seen)) >= 0.95 * possible
    assert max(seen.count(choice) for choice in set(seen)) < 600 / possible + 5 * (600 / possible) ** 0.5
    for top in range(2 * padding + 1):
        assert any(choice[0] == top for choice in seen)
    if flip:
        assert 230 < sum(mirrored for *_, mirrored in seen) < 370


@pytest.mark.parametrize("size", [1, 3, 5])
def test_cutout_hides_a_square_of_every_image(size: int):
    images = torch.full((300, 3, 8, 6), 200, dtype=torch.uint8)
    result = augmented(images, cutout=size)
    hidden = (result != images).all(1)  # (B, H, W)
    assert ((result != images).any(1) == hidden).all()
    assert (hidden.sum((1, 2)) == size * size).all()
    assert (hidden.any(1).sum(1) == size).all()
    assert (hidden.any(2).sum(1) == size).all()
    assert (result.permute(0, 2, 3, 1)[hidden] == torch.tensor([10, 21, 30])).all()  # the mean colour, rounded
    corners = {tuple(square.nonzero()[0].tolist()) for square in hidden}
    assert corners == {(top, left) for top in range(8 - size + 1) for left in range(6 - size + 1)}


ALL = {"crop_padding": 2, "flip": True, "cutout": 2}


@pytest.mark.parametrize("fields", [{}, {"crop_padding": 2}, {"flip": True}, {"cutout": 2}, ALL], ids=str)
def test_augmentation_keeps_kind_and_input(fields: dict[str, int | bool]):
    images = random_batch(64)
    before = images.clone()
    result = augmented(images, **fields)
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert images.equal(before)
    assert result.equal(images) == (not fields)


def test_augmentation_follows_from_the_generator_alone():
    images = random_batch(64)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = augmented(images, seed=3, **ALL)
        torch.manual_seed(2)
        assert augmented(images, seed=3, **ALL).equal(first)
    assert not augmented(images, seed=4, **ALL).equal(first)


def test_every_image_is_augmented_in_its_own_way():
    same = random_batch(1).expand(50, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    assert len({image.numpy().tobytes() for image in augmented(same, **ALL)}) > 30


@contextlib.contextmanager
def global_generator_unchanged() -> Iterator[None]:
    before = torch.random.get_rng_state()
    yield
    assert torch.random.get_rng_state().equal(before)


def test_loaders_and_augmentation_leave_the_global_generator_alone():
    image_set = numbered_images(np.arange(20) % 2)
    with global_generator_unchanged():
        list(batch_loader(image_set, 8))
        list(batch_loader(image_set, 8, generator=torch.Generator()))
        augmented(random_batch(4), **ALL)
