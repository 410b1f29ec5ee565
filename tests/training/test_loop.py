"""The training loop: repeatable to the bit, honest in its numbers, and able to learn."""

import dataclasses
import math
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings

from training import loop as loop_module
from training.checkpoint import load_state, save_checkpoint
from training.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig, TrialConfig
from training.data import TrainData, batch_loader
from training.evaluate import evaluate
from training.geometry import InfeasibleError
from training.loop import EpochResult, TrainState, new_state, squared_error, train, train_epoch

TINY = TrialConfig(
    data=DataConfig(dataset="digits", image_size=8, crop_padding=2, flip=True, cutout=2),
    model=ModelConfig(depth=2, width=4, dropout=0.3),
    optimizer=OptimizerConfig(learning_rate=0.01),
    train=TrainConfig(epochs=3, batch_size=32, label_smoothing=0.1, seed=7),
)


def numbers(results: list[EpochResult]) -> list[dict[str, Any]]:
    """All that does not depend on the clock."""
    clock = {"epoch_seconds", "images_per_second", "finished_at"}
    return [{key: value for key, value in vars(result).items() if key not in clock} for result in results]


def assert_same(first: Any, second: Any) -> None:
    """Equality to the bit, through dicts and lists."""
    if isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype
        assert first.equal(second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert_same(value, second[key])
    elif isinstance(first, list | tuple):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


def everything(state: TrainState) -> list[Any]:
    parts = (state.model, state.optimizer, state.schedule)
    return [numbers(state.results), *(part.state_dict() for part in parts)]


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle", "linear"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "muon"])
def test_continued_equals_uninterrupted(name: str, schedule: str, few_digits: TrainData, tmp_path: Path):
    config = TINY.override({"optimizer.name": name, "optimizer.schedule": schedule})
    uninterrupted = new_state(config, few_digits)
    assert [result.epoch for result in train(uninterrupted, few_digits)] == [1, 2, 3]

    state = new_state(config, few_digits)
    save_checkpoint(state, tmp_path / "0")
    for result in train(state, few_digits):
        save_checkpoint(state, tmp_path / str(result.epoch))
        torch.rand(result.epoch)  # whatever a caller draws
    assert_same(everything(state), everything(uninterrupted))

    for epoch in range(4):
        torch.manual_seed(epoch)
        continued = load_state(tmp_path / str(epoch), few_digits)
        assert continued.epoch == epoch
        assert [result.epoch for result in train(continued, few_digits)] == list(range(epoch + 1, 4))
        assert_same(everything(continued), everything(uninterrupted))


def test_a_caller_may_stop_and_go_on_with_the_same_state(few_digits: TrainData):
    whole, parts = new_state(TINY, few_digits), new_state(TINY, few_digits)
    list(train(whole, few_digits))
    while not parts.finished:
        next(train(parts, few_digits))
    assert_same(everything(parts), everything(whole))
    assert list(train(parts, few_digits)) == []


@settings(max_examples=25)
@given(config=...)
def test_any_training_that_is_continued_equals_an_uninterrupted_one(config: TrialConfig, few_digits: TrainData):
    """Every field of model, optimizer and train is drawn, in combination."""
    fixed = {"data": {**TINY.data.model_dump(), "flip": config.data.flip}}
    config = TrialConfig.model_validate(config.model_dump() | fixed).override({"train.epochs": 2})
    config = config.override({"train.batch_size": max(16, min(64, config.train.batch_size))})
    try:
        whole = new_state(config, few_digits)
    except InfeasibleError:
        assume(False)
    list(train(whole, few_digits))
    parts = new_state(config, few_digits)
    next(train(parts, few_digits))
    with tempfile.TemporaryDirectory() as directory:
        save_checkpoint(parts, directory)
        continued = load_state(directory, few_digits)
    list(train(continued, few_digits))
    assert repr(numbers(continued.results)) == repr(numbers(whole.results))  # a NaN does not equal itself
    if not whole.results[-1].diverged:
        assert_same(everything(continued), everything(whole))


def test_the_seed_decides(few_digits: TrainData):
    first, other = new_state(TINY, few_digits), new_state(TINY.override({"train.seed": 8}), few_digits)
    weights = [state.model.classifier.weight.detach().clone() for state in (first, other)]
    assert not weights[0].equal(weights[1])
    assert next(train(first, few_digits)).train_loss != next(train(other, few_digits)).train_loss


def test_the_callers_random_numbers_stay_its_own(few_digits: TrainData):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    for _ in train(new_state(TINY, few_digits), few_digits):
        assert torch.random.get_rng_state().equal(before)
    assert torch.random.get_rng_state().equal(before)


def first_epochs(config: TrialConfig, data: TrainData) -> list[list[bytes]]:
    """The images that the network is trained on in each of two epochs, in their order."""
    state = new_state(config, data)
    seen: list[list[bytes]] = []
    state.model.register_forward_pre_hook(
        lambda model, inputs: (
            seen[-1].extend(image.numpy().tobytes() for image in inputs[0]) if model.training else None
        )
    )
    iteration = train(state, data)
    for _ in range(2):
        seen.append([])
        next(iteration)
    return seen


def test_every_epoch_has_its_own_order_and_augmentation(few_digits: TrainData):
    plain = TINY.override({"data.crop_padding": 0, "data.flip": False, "data.cutout": 0})
    first, second = first_epochs(plain, few_digits)
    original = [image.transpose(2, 0, 1).tobytes() for image in few_digits.train.images]
    assert sorted(first) == sorted(second) == sorted(original)
    assert len({tuple(order) for order in (first, second, original)}) == 3

    first, second = first_epochs(TINY, few_digits)
    assert len(first) == len(second) == 150
    assert len(set(first) & set(second)) < 30


def test_results_say_what_happened(few_digits: TrainData):
    state = new_state(TINY, few_digits)
    rates: list[float] = []
    state.optimizer.register_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    started = datetime.now(UTC)
    for epoch, result in enumerate(train(state, few_digits), start=1):
        assert result.epoch == state.epoch == epoch
        assert state.results[-1] is result
        assert state.finished == (epoch == 3)
        val_loss, val_accuracy = evaluate(state.model, batch_loader(few_digits.val, 256))
        assert (result.val_loss, result.val_accuracy) == (val_loss, val_accuracy)
        assert result.learning_rate == rates[-1]
        assert len(rates) == epoch * math.ceil(150 / 32)
        assert 0 < 150 / result.images_per_second < result.epoch_seconds
        finished_at = datetime.fromisoformat(result.finished_at)
        assert finished_at.utcoffset() == timedelta(0)
        assert started - timedelta(milliseconds=1) <= finished_at <= datetime.now(UTC)
        assert not result.diverged
    # One cycle over all three epochs: up from 1/25, the peak once, down to almost nothing.
    assert rates[0] == pytest.approx(0.01 / 25)
    assert rates[-1] == pytest.approx(0.01 / 25e4)
    assert 0.9 * 0.01 < max(rates) <= 0.01


def test_train_loss_and_accuracy_are_sums_over_the_batches(few_digits: TrainData):
    config = TINY.override(
        {"data.crop_padding": 0, "data.flip": False, "data.cutout": 0, "optimizer.learning_rate": 0.1}
    )
    state = new_state(config, few_digits)
    images = torch.tensor(few_digits.train.images).permute(0, 3, 1, 2)
    labels = torch.tensor(few_digits.train.labels)
    batches = [(images[part], labels[part]) for part in torch.arange(150).split([64, 64, 20, 2])]
    logits: list[torch.Tensor] = []
    state.model.register_forward_hook(lambda _model, _inputs, output: logits.append(output.detach().double()))
    loss, accuracy, _ = train_epoch(state, few_digits, batches)  # type: ignore[arg-type]
    log_probabilities = torch.cat(logits).log_softmax(1)
    right = log_probabilities[torch.arange(150), labels]
    expected = -(0.9 * right + 0.1 * log_probabilities.mean(1))  # label smoothing of 0.1
    assert [len(part) for part in logits] == [64, 64, 20, 2]
    assert loss == pytest.approx(float(expected.mean()), rel=1e-6)
    assert accuracy == float((log_probabilities.argmax(1) == labels).double().mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mse_is_minimised_and_cross_entropy_is_reported(smoothing: float):
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 1, 1])
    wanted = torch.full((6, 4), smoothing / 4, dtype=torch.float64)
    wanted[torch.arange(6), labels] += 1 - smoothing
    probabilities = logits.exp() / logits.exp().sum(1, keepdim=True)
    expected = ((probabilities - wanted) ** 2).sum() / 24
    torch.testing.assert_close(squared_error(logits, labels, smoothing), expected)


def test_the_loss_that_is_chosen_trains_the_network(few_digits: TrainData):
    results = {}
    for loss in ("cross_entropy", "mse"):
        config = TINY.override({"train.loss": loss, "train.epochs": 1, "train.batch_size": 150, "model.dropout": 0.0})
        state = new_state(config, few_digits)
        results[loss] = next(train(state, few_digits)), state.model.classifier.weight.detach()
    (first, weights), (other, other_weights) = results.values()
    assert first.train_loss == other.train_loss > 1.5  # both cross-entropy, of the one batch before its step
    assert not weights.equal(other_weights)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_diverged_training_ends_with_the_worst_value(batch_norm: bool, few_digits: TrainData):
    config = TINY.override(
        {"optimizer.learning_rate": 1e20, "optimizer.schedule": "constant", "model.batch_norm": batch_norm}
    )
    state = new_state(config, few_digits)
    results = list(train(state, few_digits))
    assert len(results) < 3
    assert [result.diverged for result in results] == [False] * (len(results) - 1) + [True]
    assert results[-1].val_accuracy == 0.0
    assert math.isnan(results[-1].val_loss)
    assert state.finished
    assert list(train(state, few_digits)) == []


def test_a_diverged_epoch_ends_early(few_digits: TrainData, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(loop_module, "STEPS_BETWEEN_LOSS_CHECKS", 2)
    state = new_state(TINY.override({"train.batch_size": 2}), few_digits)
    torch.nn.init.constant_(state.model.classifier.bias, math.nan)
    steps: list[int] = []
    state.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    (result,) = train(state, few_digits)
    assert len(steps) == 2
    assert result.diverged


def test_a_lone_last_image_does_no_harm(few_digits: TrainData):
    train_set = few_digits.train.subset(torch.arange(65).numpy())
    data = dataclasses.replace(few_digits, train=train_set)
    state = new_state(TINY, data)
    assert len(list(train(state, data))) == 3
    assert state.schedule.last_epoch == 6


def test_a_small_network_learns_digits(digits: TrainData):
    config = TrialConfig(
        data=DataConfig(dataset="digits", image_size=8, crop_padding=0, flip=False),
        model=ModelConfig(depth=2, width=16),
        train=TrainConfig(epochs=5, batch_size=64),
    )
    *_, last = train(new_state(config, digits), digits)
    assert last.val_accuracy > 0.9
    assert last.train_accuracy > 0.9
