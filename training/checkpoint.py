"""A self-describing checkpoint directory: weights.pt, state.pt, and meta.json with the whole learning curve.

Nothing in it is unpickled: tensors are read with weights_only, everything else is JSON, and meta.json, written last,
holds the SHA-256 of both files.
"""

import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from training.config import OptimizerConfig, TrialConfig, validate
from training.data import TrainData
from training.layers import count_costs
from training.loop import EpochResult, TrainState, state_of_model
from training.messages import shortened
from training.model import ConvNet
from training.optimizer import averages_kept

FORMAT = 1
TENSOR_FILES = ("weights.pt", "state.pt")
CHECKPOINT_OVERHEAD_BYTES = 20_000  # archive headers of both tensor files, and meta.json
# More than any of ours takes: what is larger is not even read.
MOST_META_BYTES = 2**24
LARGEST_IMAGE = 512  # pixels a side, as data.image_size
MOST_BYTES_OF_A_PARAM = 16  # in one tensor file
MOST_OVERHEAD_BYTES = 2**24


class CheckpointError(Exception):
    """A checkpoint that is missing, truncated or not ours: names the file and what is wrong."""


def save_checkpoint(state: TrainState, directory: Path | str, number: int | None = None) -> None:
    """Write a state into a directory, which is made; `number` is the trial's."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    torch.save(state.model.state_dict(), directory / "weights.pt")
    torch.save(
        {"optimizer": state.optimizer.state_dict(), "schedule": state.schedule.state_dict()},
        directory / "state.pt",
    )
    meta = {
        "format": FORMAT,
        "number": number,
        "config": state.config.model_dump(mode="json"),
        "image_shape": state.image_shape,
        "class_names": state.class_names,
        "results": [_finite(asdict(result)) for result in state.results],
        "sha256": {name: _sha256(directory / name) for name in TENSOR_FILES},
    }
    (directory / "meta.json").write_text(json.dumps(meta, indent=1, allow_nan=False))


def checkpoint_bytes(optimizer: OptimizerConfig, num_params: int) -> int:
    """About what a checkpoint takes on disk: the weights in float32, and each average that the optimizer keeps."""
    return 4 * num_params * (1 + averages_kept(optimizer)) + CHECKPOINT_OVERHEAD_BYTES


def read_meta(directory: Path | str) -> dict[str, Any]:
    """meta.json of a checkpoint, with `config` and `results` as objects. Raises CheckpointError."""
    path = Path(directory) / "meta.json"
    try:
        if path.exists() and (not path.is_file() or path.stat().st_size > MOST_META_BYTES):
            raise OSError(f"no file, or larger than {MOST_META_BYTES:,} bytes")
        meta = json.loads(path.read_text())
        if meta["format"] != FORMAT:
            raise CheckpointError(f"{path}: format {meta['format']}, but this version reads format {FORMAT}")
        meta["config"] = validate(TrialConfig, meta["config"])
        meta["results"] = [_read_result(result) for result in meta["results"]]
        check_curve(meta["results"])
        shape, names = meta["image_shape"], meta["class_names"]
        if len(shape) != 3 or not all(type(size) is int and 0 < size <= LARGEST_IMAGE for size in shape):
            raise ValueError(f"image_shape must hold three sizes from 1 to {LARGEST_IMAGE}")
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names must hold at least one name")
        if not all(isinstance(meta["sha256"][name], str) for name in TENSOR_FILES):
            raise ValueError("sha256 must hold the SHA-256 of both tensor files")
        meta["image_shape"], meta["class_names"] = tuple(shape), tuple(names)
        meta["num_params"] = count_costs(meta["config"].model, meta["image_shape"], len(names))[0]
        return dict(meta)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        why = shortened(repr(error), 500)  # without the megabytes that a hostile file can put into it
        raise CheckpointError(f"{path} is not a readable checkpoint of convsearch: {why}") from error


def check_curve(results: list[EpochResult]) -> None:
    """Make sure that training can have yielded these results. Raises ValueError, TypeError or OverflowError."""
    for epoch, result in enumerate(results, start=1):
        numbers = [value for name, value in vars(result).items() if name not in ("finished_at", "diverged")]
        if not all(type(number) in (int, float) and not abs(float(number)) > 1e39 for number in numbers):
            raise ValueError(f"results of epoch {epoch}: losses, shares and times must be finite numbers or null")
        if type(result.epoch) is not int or result.epoch != epoch or not 0 <= result.val_accuracy <= 1:
            raise ValueError(f"results of epoch {epoch}: epochs must count from 1, and val_accuracy be in [0, 1]")
        finished_at = datetime.fromisoformat(result.finished_at)
        if type(result.diverged) is not bool or finished_at.tzinfo is None or not 1970 <= finished_at.year < 2262:
            raise ValueError(f"results of epoch {epoch}: finished_at must be a time in UTC, and diverged true or false")


def verify_checkpoint(directory: Path | str) -> dict[str, Any]:
    """read_meta, after making sure that both tensor files are what was written. Raises CheckpointError."""
    meta = read_meta(directory)
    for name in TENSOR_FILES:
        path = Path(directory) / name
        try:
            check_size(path, meta["num_params"])
            intact = _sha256(path) == meta["sha256"][name]
        except (OSError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} cannot be read: {error!r}") from error
        if not intact:
            raise CheckpointError(
                f"{path} is not the file that was written (its SHA-256 differs): truncated or replaced"
            )
    return meta


def check_size(path: Path, num_params: int) -> None:
    """Make sure that a tensor file can be that of a network, before it is read. Raises OSError."""
    most = MOST_BYTES_OF_A_PARAM * num_params + MOST_OVERHEAD_BYTES
    least = 4 * num_params if path.name == "weights.pt" else 0
    if not path.is_file():
        raise FileNotFoundError("not there, or no file")
    if not least <= path.stat().st_size <= most:
        raise OSError(f"{path.stat().st_size:,} bytes cannot be those of {num_params:,} parameters")


def newest_checkpoint(
    directories: Iterable[Path], fetch: Callable[[Path], None] | None = None
) -> tuple[Path | None, list[str]]:
    """The intact checkpoint that got furthest, and what is wrong with those that were passed over.

    `fetch` brings the tensor files of a checkpoint to its directory before they are read.
    """
    candidates, problems = [], []
    for directory in directories:
        try:
            epochs = len(read_meta(directory)["results"])
            if epochs == 0:
                raise CheckpointError(f"{directory} was saved before the first epoch")
            candidates.append((epochs, directory))
        except CheckpointError as error:
            problems.append(str(error))
    for _, directory in sorted(candidates, reverse=True):
        if fetch is not None:
            fetch(directory)
        try:
            verify_checkpoint(directory)
            return directory, problems
        except CheckpointError as error:
            problems.append(str(error))
    return None, problems


def load_model(directory: Path | str, device: torch.device | str = "cpu") -> ConvNet:
    """The trained network of a checkpoint, ready to take uint8 images. Raises CheckpointError."""
    meta = verify_checkpoint(directory)
    try:
        model = ConvNet(meta["config"].model, meta["image_shape"], len(meta["class_names"]))
        model.load_state_dict(_load_tensors(Path(directory) / "weights.pt"))
    except (RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(f"{directory}: weights do not fit the network of meta.json: {error}") from error
    return model.to(device).eval()


def load_state(
    directory: Path | str,
    data: TrainData,
    device: torch.device | str = "cpu",
    config: TrialConfig | None = None,
) -> TrainState:
    """The state to go on training from. Raises CheckpointError, also if data or `config` are other ones."""
    meta = read_meta(directory)
    elsewhere = {"data": {"data_dir"}}
    if config is not None and meta["config"].model_dump(exclude=elsewhere) != config.model_dump(exclude=elsewhere):
        raise CheckpointError(f"{directory} is another trial's: it was trained with another configuration or seed")
    if (data.train.image_shape, data.train.class_names) != (meta["image_shape"], meta["class_names"]):
        raise CheckpointError(f"{directory} was trained on other data: classes or image shape differ")
    model = load_model(directory, device)
    state = state_of_model(meta["config"], model, data.train, torch.device(device))
    saved = _load_tensors(Path(directory) / "state.pt")  # the optimizer moves it to its parameters' device
    try:
        state.optimizer.load_state_dict(saved["optimizer"])
        state.schedule.load_state_dict(saved["schedule"])
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{directory}/state.pt does not fit its optimizer: {error!r}") from error
    state.results.extend(meta["results"])
    return state


def _load_tensors(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:  # an older format is none that was ever written here
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("compressed, as torch.save never does")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for damaged files
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _finite(result: dict[str, Any]) -> dict[str, Any]:  # JSON has no NaN
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in result.items()
    }


def _read_result(result: dict[str, Any]) -> EpochResult:
    """What this version knows of an epoch: an older one may have written less, a newer one more."""
    known = [field.name for field in fields(EpochResult) if field.name in result]
    values: dict[str, Any] = {name: math.nan if result[name] is None else result[name] for name in known}
    return EpochResult(**values)
