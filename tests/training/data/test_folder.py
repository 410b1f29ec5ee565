"""Image folders, against PIL; hostile and damaged files; the cache."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.config import DataConfig
from training.data import decode_image, folder, load_data, load_official_train, load_test
from training.errors import DataError

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

    monkeypatch.setattr(folder, "decode_image", refuse)


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
