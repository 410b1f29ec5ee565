"""A loss that is not finite, wherever and whenever it comes from, ends training."""

import math
from typing import Any
from unittest import mock

import torch
from hypothesis import given
from hypothesis import strategies as st

import training.loop
from training.config import DataConfig, ModelConfig, TrainConfig, TrialConfig
from training.data import TrainData
from training.loop import new_state, train
from training.model import ConvNet

TINY = TrialConfig(
    data=DataConfig(dataset="digits", image_size=8, crop_padding=1),
    model=ModelConfig(depth=1, width=4),
    train=TrainConfig(epochs=3, batch_size=32, label_smoothing=0.1),
)


@given(
    where=st.sampled_from(["loss", "gradients", "weights", "images", "val images"]),
    poison=st.sampled_from([math.nan, math.inf, -math.inf]),
    step=st.integers(1, 15),  # three epochs of five steps
    optimizer=st.sampled_from(["sgd", "adam", "adamw", "rmsprop"]),
    batch_norm=st.booleans(),
    checked_after=st.sampled_from([1, 50]),
)
def test_a_loss_that_is_not_finite_at_any_step_ends_training_as_diverged(
    where: str, poison: float, step: int, optimizer: str, batch_norm: bool, checked_after: int, few_digits: TrainData
) -> None:
    config = TINY.override({"optimizer.name": optimizer, "model.batch_norm": batch_norm})
    state = new_state(config, few_digits)
    loss, forward, steps = training.loop.cross_entropy, ConvNet.forward, 0
    epoch = (step - 1) // 5 + 1

    def poisoned_loss(logits: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        nonlocal steps
        steps += 1
        if steps == step and where == "gradients":
            logits.register_hook(lambda gradient: gradient * poison)  # the loss itself is finite
        value = loss(logits, *arguments, **options)
        return value * poison if steps == step and where == "loss" else value

    def poisoned_forward(model: ConvNet, images: torch.Tensor) -> torch.Tensor:
        now = where if steps == (step - 1 if model.training else 5 * epoch) else None
        if model.training and now == "weights":
            torch.nn.init.constant_(next(model.parameters()), poison)
        if now == ("images" if model.training else "val images"):
            images = torch.full_like(images, poison, dtype=torch.float32)
        return forward(model, images)

    with (
        mock.patch.object(training.loop, "cross_entropy", poisoned_loss),
        mock.patch.object(ConvNet, "forward", poisoned_forward),
        mock.patch.object(training.loop, "STEPS_BETWEEN_LOSS_CHECKS", checked_after),
    ):
        results = list(train(state, few_digits))
    assert [result.epoch for result in results] == list(range(1, epoch + 1)), "nothing is trained on from it"
    last = results.pop()
    assert last.diverged and math.isnan(last.val_loss) and last.val_accuracy == 0.0
    assert not any(result.diverged for result in results)
    assert all(math.isfinite(value) for result in results for value in (result.train_loss, result.val_loss))
    assert list(train(state, few_digits)) == [] and state.finished
