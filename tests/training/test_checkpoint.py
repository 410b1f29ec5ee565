"""Checkpoints: complete, checked, and never a program that runs when it is read."""

import json
import math
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.checkpoint import (
    TENSOR_FILES,
    CheckpointError,
    _sha256,
    load_model,
    load_state,
    newest_checkpoint,
    read_meta,
    save_checkpoint,
    verify_checkpoint,
)
from training.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig, TrialConfig
from training.data import ImageSet, TrainData
from training.loop import TrainState, new_state, train

CONFIG = TrialConfig(
    data=DataConfig(dataset="digits", image_size=8, crop_padding=2),
    model=ModelConfig(depth=2, width=4, kernel_size=[3, 5]),
    optimizer=OptimizerConfig(name="adamw", learning_rate=0.01),
    train=TrainConfig(epochs=3, batch_size=32),
)
FILES = (*TENSOR_FILES, "meta.json")


@pytest.fixture(scope="session")
def trained(few_digits: TrainData) -> TrainState:
    """After two epochs of three."""
    state = new_state(CONFIG, few_digits)
    iteration = train(state, few_digits)
    next(iteration), next(iteration)
    return state


@pytest.fixture
def saved(trained: TrainState, tmp_path: Path) -> Path:
    save_checkpoint(trained, tmp_path / "saved", number=12)
    return tmp_path / "saved"


def test_everything_comes_back(saved: Path, trained: TrainState, few_digits: TrainData):
    assert sorted(file.name for file in saved.iterdir()) == sorted(FILES)
    images = torch.tensor(few_digits.val.images).permute(0, 3, 1, 2)
    model = load_model(saved)
    assert not model.training
    assert model(images).equal(trained.model.eval()(images))

    state = load_state(saved, few_digits)
    assert (state.config, state.results, state.epoch) == (trained.config, trained.results, 2)
    for part in ("model", "optimizer"):
        ours, theirs = getattr(state, part).state_dict(), getattr(trained, part).state_dict()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert state.schedule.state_dict() == trained.schedule.state_dict()


def test_meta_json_describes_the_trial(saved: Path, trained: TrainState):
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    meta = json.loads((saved / "meta.json").read_text(), parse_constant=refuse)
    assert meta["number"] == 12
    assert meta["config"]["train"]["seed"] == 0
    assert meta["config"]["model"]["kernel_size"] == [3, 5]
    assert meta["class_names"] == list("0123456789")
    assert meta["image_shape"] == [3, 8, 8]
    assert [result["epoch"] for result in meta["results"]] == [1, 2]
    read = read_meta(saved)
    assert (read["config"], read["results"]) == (CONFIG, trained.results)
    assert verify_checkpoint(saved) == read


def test_a_checkpoint_may_be_written_over_an_older_one(saved: Path, few_digits: TrainData):
    state = load_state(saved, few_digits)
    list(train(state, few_digits))
    save_checkpoint(state, saved)
    assert load_state(saved, few_digits).results == state.results


def assert_refused(directory: Path, data: TrainData, match: str) -> None:
    for load in (verify_checkpoint, load_model, lambda place: load_state(place, data)):
        with pytest.raises(CheckpointError, match=match):
            load(directory)


def cut_at(share: float) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(file.read_bytes()[: int(share * (file.stat().st_size - 1))])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "damage",
    [
        cut_at(0.0),
        cut_at(0.5),
        cut_at(1.0),
        Path.unlink,
        lambda file: (file.unlink(), file.mkdir()),
        lambda file: (file.unlink(), os.mkfifo(file)),
        lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
        lambda file: os.truncate(file, 2**42),  # 4 TiB of nothing, which no disk has to hold
        lambda file: file.write_bytes(np.random.default_rng(0).bytes(file.stat().st_size)),
        lambda file: file.write_bytes(b"\x00" * file.stat().st_size),
    ],
    ids=["empty", "half", "a byte short", "missing", "folder", "pipe", "device", "endless", "noise", "zeros"],
)
def test_a_damaged_file_is_named(saved: Path, few_digits: TrainData, name: str, damage: Callable[[Path], Any]):
    damage(saved / name)
    assert_refused(saved, few_digits, match=name.replace(".", r"\."))


def test_one_changed_bit_is_noticed(saved: Path, few_digits: TrainData):
    content = bytearray((saved / "weights.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (saved / "weights.pt").write_bytes(content)
    assert_refused(saved, few_digits, match=r"weights\.pt.*truncated or replaced")


def test_a_missing_directory_is_named(tmp_path: Path, few_digits: TrainData):
    assert_refused(tmp_path / "nowhere", few_digits, match="nowhere")


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "{}", "3", "NaN", "\0", '{"format": 1}', "\ufeff{}", "\ud800", "1" * 10**4, "[" * 10**5],
    ids=lambda content: ascii(content[:20]),
)
def test_foreign_json_is_refused(saved: Path, few_digits: TrainData, content: str):
    (saved / "meta.json").write_bytes(content.encode(errors="surrogatepass"))
    assert_refused(saved, few_digits, match=r"meta\.json is not a readable checkpoint")


def change_meta(directory: Path, **values: Any) -> None:
    meta = json.loads((directory / "meta.json").read_text())
    (directory / "meta.json").write_text(json.dumps({**meta, **values}))


def test_another_format_is_named(saved: Path, few_digits: TrainData):
    change_meta(saved, format=99)
    assert_refused(saved, few_digits, match="format 99.*reads format 1")


def test_newer_and_older_checkpoints_are_read_as_far_as_they_are_known(saved: Path, trained: TrainState, few_digits):
    written = [asdict(result) for result in trained.results]
    change_meta(saved, author={"name": ["x"]}, results=[{**result, "top_5_accuracy": None} for result in written])
    assert load_state(saved, few_digits).results == trained.results
    for result in written:
        del result["diverged"]
    change_meta(saved, results=written)
    assert load_state(saved, few_digits).results == trained.results
    del written[1]["val_loss"]  # which has no default
    change_meta(saved, results=written)
    assert_refused(saved, few_digits, match="val_loss")


STRANGE_META = [
    ("format", {}),
    ("config", []),
    ("config", {}),  # the defaults, which these weights do not fit
    ("config.model.width", 10**9),
    ("config.model.width", 10**400),
    ("image_shape", 3),
    ("image_shape", [3, 10**9, 10**9]),
    ("image_shape", [3, -8, 0]),
    ("image_shape", ["3", "8", "8"]),
    ("class_names", None),
    ("class_names", "0123456789"),
    ("class_names", [[]] * 10),
    ("class_names", [str(index) for index in range(10**5)]),
    ("results", None),
    ("results", {"0": {}}),
    ("results.0.epoch", "1"),
    ("results.0.epoch", 10**12),
    ("results.1.val_accuracy", [0.9]),
    ("results.1.val_accuracy", math.inf),
    ("results.1.val_accuracy", 1.5),
    ("results.1.epoch_seconds", math.inf),
    ("results.1.finished_at", 5),
    ("results.1.finished_at", "<script>"),
    ("results.1.finished_at", "2030-01-01T00:00:00"),  # in no time zone
    ("results.1.finished_at", "0001-01-01T00:00:00+23:00"),
    ("results.1.diverged", 7),
    ("sha256", ["weights.pt"]),
    ("sha256", dict.fromkeys(TENSOR_FILES, 5)),
]


@pytest.mark.parametrize(("path", "value"), STRANGE_META, ids=lambda part: f"{part!r:.30}")
def test_a_strange_meta_json_never_gets_past(saved: Path, few_digits: TrainData, path: str, value: Any):
    meta = place = json.loads((saved / "meta.json").read_text())
    *parents, last = path.split(".")
    for name in parents:
        place = place[int(name)] if isinstance(place, list) else place[name]
    place[last] = value
    (saved / "meta.json").write_text(json.dumps(meta))
    assert_refused_to_load(saved, few_digits)


def assert_refused_to_load(directory: Path, data: TrainData) -> None:
    with pytest.raises(CheckpointError):
        load_model(directory)
    with pytest.raises(CheckpointError):
        load_state(directory, data)


def replace_file(directory: Path, name: str, write: Callable[[Path], None]) -> None:
    """Replace a tensor file and its SHA-256, as someone would who knows the format."""
    write(directory / name)
    change_meta(directory, sha256={file: _sha256(directory / file) for file in TENSOR_FILES})


class Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.victim,)


PICKLES: dict[str, Callable[[Any, Path], Any]] = {
    "torch": torch.save,
    "torch before 1.6": lambda value, file: torch.save(value, file, _use_new_zipfile_serialization=False),
    "pickle": lambda value, file: file.write_bytes(pickle.dumps(value, protocol=0)),
}


@pytest.mark.parametrize("name", TENSOR_FILES)
@pytest.mark.parametrize("container", PICKLES)
def test_no_pickled_program_runs(saved: Path, few_digits: TrainData, name: str, container: str):
    victim = saved / "it ran"
    content = {"weight": torch.zeros(10**4), "optimizer": Malicious(victim)}  # large enough to be weights
    replace_file(saved, name, lambda file: PICKLES[container](content, file))
    refused = rf"{name} cannot be read: (?!.*parameters)"
    with pytest.raises(CheckpointError, match=refused):
        load_state(saved, few_digits)
    if name == "weights.pt":
        with pytest.raises(CheckpointError, match=refused):
            load_model(saved)
    assert not victim.exists()
    # The trap does work where a program is let through.
    if container == "pickle":
        pickle.loads((saved / name).read_bytes())
    else:
        torch.load(saved / name, weights_only=False)
    assert victim.exists()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # such files exist, and may be sent by anyone
def test_a_torchscript_program_is_not_loaded(saved: Path):
    replace_file(saved, "weights.pt", lambda file: torch.jit.script(torch.nn.Linear(90, 90)).save(file))
    with pytest.raises(CheckpointError, match=r"weights\.pt cannot be read: (?!.*parameters)"):
        load_model(saved)


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_compressed_tensor_file_is_not_inflated(saved: Path, few_digits: TrainData, tmp_path: Path, name: str):
    """Torch would inflate it a thousandfold."""
    torch.save({"x": torch.zeros(2**22)}, tmp_path / "large")

    def write(file: Path) -> None:
        with zipfile.ZipFile(tmp_path / "large") as plain, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as small:
            for entry in plain.namelist():
                small.writestr(entry, plain.read(entry))

    replace_file(saved, name, write)
    assert (saved / name).stat().st_size < 2**18
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read: compressed"):
        load_state(saved, few_digits)


@pytest.mark.parametrize(
    "content", [[1], {}, {"optimizer": {}, "schedule": {}}, {"optimizer": 1, "schedule": 1}], ids=str
)
@pytest.mark.parametrize("name", TENSOR_FILES)
def test_tensor_files_with_other_content_are_refused(saved: Path, few_digits: TrainData, name: str, content: Any):
    replace_file(saved, name, lambda file: torch.save(content, file))
    with pytest.raises(CheckpointError, match="saved"):
        load_state(saved, few_digits)


def test_weights_of_another_network_are_refused(saved: Path, few_digits: TrainData):
    other = new_state(CONFIG.override({"model.width": 5}), few_digits)
    replace_file(saved, "weights.pt", lambda file: torch.save(other.model.state_dict(), file))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_model(saved)


def with_train(data: TrainData, images: np.ndarray, class_names: tuple[str, ...]) -> TrainData:
    return TrainData(ImageSet(images, data.train.labels, class_names), data.val, data.mean, data.std)


def test_other_data_are_refused(saved: Path, few_digits: TrainData):
    images, class_names = few_digits.train.images, few_digits.train.class_names
    load_state(saved, with_train(few_digits, images, class_names))
    for other in (
        with_train(few_digits, images, tuple("abcdefghij")),
        with_train(few_digits, images, (*class_names, "ten")),
        with_train(few_digits, images[:, 1:, 1:], class_names),
        with_train(few_digits, images[..., :1], class_names),
    ):
        with pytest.raises(CheckpointError, match="other data"):
            load_state(saved, other)


def test_a_diverged_trial_can_be_saved(few_digits: TrainData, tmp_path: Path):
    state = new_state(CONFIG, few_digits)
    torch.nn.init.constant_(state.model.classifier.bias, math.nan)
    list(train(state, few_digits))
    save_checkpoint(state, tmp_path)
    (written,) = json.loads((tmp_path / "meta.json").read_text())["results"]
    assert written["train_loss"] is None
    assert written["val_loss"] is None
    assert written["val_accuracy"] == 0.0
    (read,) = load_state(tmp_path, few_digits).results
    assert math.isnan(read.train_loss)
    assert math.isnan(read.val_loss)
    assert read.diverged
    assert load_state(tmp_path, few_digits).finished


def test_the_newest_intact_checkpoint_is_found(few_digits: TrainData, tmp_path: Path):
    state = new_state(CONFIG, few_digits)
    for result in train(state, few_digits):
        save_checkpoint(state, tmp_path / f"{'bca'[result.epoch - 1]}")  # whatever their names
    places = sorted(tmp_path.iterdir())
    assert newest_checkpoint(places) == (tmp_path / "a", [])

    cut_at(0.5)(tmp_path / "a/weights.pt")
    newest, problems = newest_checkpoint(places)
    assert newest == tmp_path / "c"
    assert len(problems) == 1
    assert "weights.pt" in problems[0]

    (tmp_path / "c/meta.json").unlink()
    shutil.rmtree(tmp_path / "b")
    newest, problems = newest_checkpoint(places)
    assert newest is None
    assert len(problems) == 3
    assert newest_checkpoint([]) == (None, [])
