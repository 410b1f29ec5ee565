"""Evaluation, against a loop over single images."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from training.config import ModelConfig
from training.data import ImageSet, TrainData, batch_loader
from training.evaluate import Mirrored, evaluate, predict
from training.model import ConvNet


@pytest.fixture
def model(digits: TrainData) -> ConvNet:
    """An untrained network whose norms have seen data, in training mode and with dropout."""
    torch.manual_seed(0)
    model = ConvNet(ModelConfig(depth=2, width=8, dropout=0.5), (3, 8, 8), 10, mean=digits.mean, std=digits.std).train()
    for images, _ in batch_loader(digits.train, 100):
        model(images)
    return model


@pytest.fixture
def images(digits: TrainData) -> ImageSet:
    return ImageSet(digits.val.images[:61], digits.val.labels[:61], digits.val.class_names)


def logits_one_by_one(model: ConvNet, image_set: ImageSet) -> Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(torch.tensor(image).permute(2, 0, 1)[None]) for image in image_set.images])


@pytest.mark.parametrize("batch_size", [7, 20, 60, 61, 100])  # of 61 images: uneven last batches, also of one image
def test_evaluate_is_the_mean_over_single_images(model: ConvNet, images: ImageSet, batch_size: int):
    logits = logits_one_by_one(model, images).double()
    losses = [row.exp().sum().log() - row[label] for row, label in zip(logits, images.labels, strict=True)]
    hits = [int(row.argmax()) == label for row, label in zip(logits, images.labels, strict=True)]
    loss, accuracy = evaluate(model.train(), batch_loader(images, batch_size))
    assert loss == pytest.approx(float(sum(losses)) / 61, rel=1e-5)
    assert accuracy == sum(hits) / 61
    assert 0 < sum(hits) < 61


@pytest.mark.parametrize("batch_size", [7, 61])
def test_predict_keeps_the_order(model: ConvNet, images: ImageSet, batch_size: int):
    logits, labels = predict(model.train(), batch_loader(images, batch_size))
    assert labels.tolist() == images.labels.tolist()
    assert (logits.shape, logits.dtype) == ((61, 10), torch.float32)
    torch.testing.assert_close(logits, logits_one_by_one(model, images))


def test_mirrored_logits_are_the_mean_of_those_of_each_image_and_its_mirror_image(model: ConvNet, images: ImageSet):
    mirror_images = ImageSet(np.ascontiguousarray(images.images[:, :, ::-1]), images.labels, images.class_names)
    plain, mirror = logits_one_by_one(model, images), logits_one_by_one(model, mirror_images)
    assert not torch.allclose(plain, mirror, atol=0.1)
    for image_set in (images, mirror_images):
        logits, _ = predict(Mirrored(model.train()), batch_loader(image_set, 20))
        torch.testing.assert_close(logits, (plain + mirror) / 2)


@pytest.mark.parametrize("measure", [evaluate, predict])
def test_the_model_stays_what_it_was_and_can_be_trained_on(model: ConvNet, images: ImageSet, measure):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure(model, batch_loader(images, 20))
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert not any(value.is_inference() for value in model.state_dict().values())
    assert all(parameter.grad is None for parameter in model.parameters())

    model.train()(torch.tensor(images.images[:4]).permute(0, 3, 1, 2)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert not model.state_dict()["blocks.0.2.running_mean"].equal(before["blocks.0.2.running_mean"])


def test_a_model_that_knows_nothing_has_the_loss_of_guessing(images: ImageSet):
    model = ConvNet(ModelConfig(depth=1, width=2), (3, 8, 8), 10)
    torch.nn.init.zeros_(model.classifier.weight)
    torch.nn.init.zeros_(model.classifier.bias)
    assert evaluate(model, batch_loader(images, 20))[0] == pytest.approx(math.log(10))
