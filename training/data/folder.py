"""Image folders, PATH/train/<class>/* and PATH/test/<class>/*: decoded once, by threads, and kept in data_dir."""

import contextlib
import hashlib
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.console import Console
from rich.progress import track

from training.config import DataConfig
from training.data.sets import ImageSet
from training.errors import DataError
from training.files import new_file


def load_folder(config: DataConfig, split: str, may_write: bool) -> ImageSet:
    """The images of one split, their classes in alphabetical order. Raises DataError."""
    listed = _list_folder(config)
    class_names = tuple(sorted(listed[split]))
    files = [file for name in class_names for file in listed[split][name]]
    labels = np.repeat(np.arange(len(class_names)), [len(listed[split][name]) for name in class_names])
    return ImageSet(_decode_cached(files, config, split, may_write), labels.astype(np.int64), class_names)


def _list_folder(config: DataConfig) -> dict[str, dict[str, list[Path]]]:
    """Files by split and class, both splits with the same two or more classes. Raises DataError."""
    root = Path(config.dataset.removeprefix("folder:")).expanduser()
    listed = {name: _list_classes(root / name) for name in ("train", "test")}
    if len(listed["train"]) < 2:
        raise DataError(
            f"{root / 'train'} holds {len(listed['train'])} class folder(s); a classifier needs two or more"
        )
    if listed["train"].keys() != listed["test"].keys():
        differing = ", ".join(sorted(listed["train"].keys() ^ listed["test"].keys()))
        raise DataError(f"{root}: classes that are only in train/ or only in test/: {differing}. Make the two agree.")
    return listed


def _list_classes(folder: Path) -> dict[str, list[Path]]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; images belong in PATH/train/<class>/* and PATH/test/<class>/*")
    classes = {
        entry.name: sorted(file for file in entry.iterdir() if file.is_file() and not file.name.startswith("."))
        for entry in folder.iterdir()
        if entry.is_dir() and not entry.name.startswith(".")
    }
    for name in sorted(classes):
        if not classes[name]:
            raise DataError(f"class {name!r} has no images: {folder / name} is empty. Add images or remove the folder.")
    return classes


def _decode_cached(files: list[Path], config: DataConfig, split: str, may_write: bool) -> NDArray[np.uint8]:
    """Decoded images (N, H, W, 3), from data_dir/.cache if no name, size or time of a file has changed."""
    fingerprint = hashlib.sha256(str(config.image_size).encode())
    for file in files:
        status = file.stat()
        fingerprint.update(os.fsencode(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0"))
    place = hashlib.sha256(os.fsencode(f"{config.dataset}\0{split}\0{config.image_size}")).hexdigest()[:16]
    cached = Path(config.data_dir) / ".cache" / f"{place}-{fingerprint.hexdigest()[:16]}.npy"
    with contextlib.suppress(OSError, ValueError, EOFError):
        kept = np.lib.format.open_memmap(cached, mode="r")  # which takes no memory for what a header claims
        if (kept.shape, kept.dtype) == ((len(files), config.image_size, config.image_size, 3), np.uint8):
            return np.array(kept)
    images = _decode(files, config.image_size, f"Decoding {len(files)} {split} images")
    if not may_write:
        return images
    try:
        _keep(images, cached, outdated=f"{place}-*.npy")
    except OSError as error:
        raise DataError(
            f"decoded images cannot be kept in {cached.parent} ({error}). Choose another --data-dir."
        ) from None
    return images


def _keep(images: NDArray[np.uint8], cached: Path, outdated: str) -> None:
    cached.parent.mkdir(parents=True, exist_ok=True)
    unfinished = cached.with_name(f"{cached.name}.{os.getpid()}")
    with new_file(unfinished) as stream:
        np.save(stream, images)
    for other in cached.parent.glob(outdated):
        other.unlink(missing_ok=True)
    unfinished.rename(cached)


def _decode(files: list[Path], image_size: int, description: str) -> NDArray[np.uint8]:
    images = np.empty((len(files), image_size, image_size, 3), dtype=np.uint8)
    console = Console(stderr=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        decoded = pool.map(lambda file: decode_image(file, image_size), files)
        for index, image in enumerate(
            track(decoded, description, total=len(files), console=console, disable=not console.is_terminal)
        ):
            images[index] = image
    return images


def decode_image(file: Path, image_size: int) -> NDArray[np.uint8]:
    """One image file of any format and mode that Pillow opens as (image_size, image_size, 3). Raises DataError."""
    try:
        with Image.open(file) as opened:
            if opened.width * opened.height > (Image.MAX_IMAGE_PIXELS or math.inf):  # at which Pillow only warns
                raise Image.DecompressionBombError(f"{opened.width} x {opened.height} pixels, too many")
            if opened.format == "EPS":  # Pillow would have Ghostscript run it
                raise ValueError("PostScript is a program, which is not run")
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 and 32 bits a pixel, which convert() would clip at 255
                values = np.asarray(image, dtype=np.int64)
                image = Image.fromarray((values >> 8 if values.max() > 255 else values).clip(0, 255).astype(np.uint8))
            if "transparency" in image.info:  # convert() warns of it unless it may keep it
                image = image.convert("RGBA")
            return resized(image.convert("RGB"), image_size)
    except Exception as error:  # Pillow's decoders raise what they like
        raise DataError(f"{file} cannot be read as an image ({error}). Mend or remove it.") from error


def resized(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """An RGB image as (size, size, 3)."""
    if image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.uint8)  # (H, W, 3)
