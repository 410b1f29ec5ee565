"""Checkpoints: complete, checked, and never a program that runs when it is read."""

import contextlib
import json
import math
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from damages import CONTENTS, DAMAGES, FILES, PROGRAMS, replace_content
from made_runs import edited_meta

from training.checkpoint import (
    TENSOR_FILES,
    CheckpointError,
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


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_by_name_and_passed_over(
    saved: Path, few_digits: TrainData, tmp_path: Path, damage: str
):
    older = shutil.copytree(saved, tmp_path / "older")
    with edited_meta(older) as meta:
        del meta["results"][1:]
    assert newest_checkpoint([older, saved]) == (saved, [])
    DAMAGES[damage](saved)
    named = str(saved / damage.partition(":")[0])
    for load in (verify_checkpoint, load_model, lambda place: load_state(place, few_digits)):
        with pytest.raises(CheckpointError, match=re.escape(named)) as refused:
            load(saved)
        assert len(str(refused.value)) < 1000 and str(refused.value).isprintable()
    newest, (problem,) = newest_checkpoint([older, saved])
    assert newest == older and named in problem
    assert newest_checkpoint([saved]) == (None, [problem])


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # such files exist, and anyone may send one
@pytest.mark.parametrize("name", TENSOR_FILES)
@pytest.mark.parametrize("content", CONTENTS)
def test_no_foreign_tensor_file_is_loaded_and_no_program_in_one_runs(
    saved: Path, few_digits: TrainData, name: str, content: str
):
    replace_content(saved / name, CONTENTS[content])
    said = "compressed" if content == "compressed" else r"cannot be read: (?!.*parameters)|do(es)? not fit"
    with pytest.raises(CheckpointError, match=f"saved.*({said})"):
        load_state(saved, few_digits)
    if name == "weights.pt":
        with pytest.raises(CheckpointError, match=said):
            load_model(saved)
    assert not (saved / "canary").exists()
    if content in PROGRAMS:
        with contextlib.suppress(pickle.UnpicklingError, RuntimeError):
            torch.load(saved / name, weights_only=False)
        assert (saved / "canary").exists(), "it was one that acts where it is let through"


def test_newer_and_older_checkpoints_are_read_as_far_as_they_are_known(saved: Path, trained: TrainState, few_digits):
    with edited_meta(saved) as meta:
        meta["author"] = {"name": ["x"]}
        meta["results"][0]["top_5_accuracy"] = None
        del meta["results"][1]["diverged"]
    assert load_state(saved, few_digits).results == trained.results
    with edited_meta(saved) as meta:
        del meta["results"][1]["val_loss"]  # which has no default
    with pytest.raises(CheckpointError, match="val_loss"):
        read_meta(saved)


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
