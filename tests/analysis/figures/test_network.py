"""A network as it is drawn: its layers, what an image excites in it, and a batch of its images."""

import numpy as np
import pytest
import torch

from analysis import figures, load_search
from analysis.evaluating.evaluation import evaluate_search
from training.config import ModelConfig
from training.data import batch_loader
from training.layers import count_costs
from training.model import ConvNet


def test_layer_table_adds_up_and_its_formula_is_right():
    config = ModelConfig(depth=3, width=4, kernel_size=(3, 5, 2), stride=(1, 2, 1), padding=(1, 0, 1), pooling="none")
    layers = figures.layer_table(config, (3, 16, 16), 7)
    assert sum(layer["num_params"] for layer in layers) == count_costs(config, (3, 16, 16), 7)[0]
    assert layers[1]["formula"] == "⌊(16 + 2·0 − 5)/2⌋ + 1 = 6"
    maps = figures.feature_maps_data(config, (3, 16, 16), 7)
    assert [box["name"] for box in maps] == ["input", *(layer["name"] for layer in layers)]
    assert (maps[0]["shape"], maps[2]["shape"][1:], maps[-1]["shape"]) == ((3, 16, 16), (6, 6), (7,))
    names = [text.get_text() for axes in figures.plot_feature_maps(maps).axes for text in axes.texts[::3]]
    assert names == [box["name"] for box in maps]


STAGES = ModelConfig(depth=5, layers_per_stage=3, width=4, residual=True)


def test_a_residual_sum_says_what_it_adds():
    layers = figures.layer_table(STAGES, (3, 16, 16), 7)
    sums = {layer["name"]: layer["formula"] for layer in layers if layer["name"].startswith("add")}
    assert sums == {"add0": "x + f(x), f the last 2 convolutions", "add1": "x + f(x), f the last convolution"}
    maps = figures.feature_maps_data(STAGES, (3, 16, 16), 7)
    assert {box["name"]: box["shape"] for box in maps if box["window"] == "x + f(x)"} == {
        "add0": (4, 8, 8),
        "add1": (8, 4, 4),
    }


def test_activations_of_a_residual_sum_say_of_which_blocks_they_are(digits):
    model = ConvNet(STAGES, digits.train.image_shape, 10)
    data = figures.activations_data(model, digits.train.images[0])
    assert [(name, maps.shape[1]) for name, maps in data] == [
        ("block 0", 4),
        ("blocks 1 to 2, plus their input", 4),
        ("block 3", 2),
        ("block 4, plus its input", 2),
    ]
    figure = figures.plot_activations(digits.train.images[0], data)
    figure.draw_without_rendering()
    left = [axes.get_position().x0 for axes in figure.axes[1:5]]
    np.testing.assert_allclose(np.diff(left, 2), 0, atol=1e-3)  # channels are evenly spaced, whatever is written above


def test_activations_are_those_of_the_blocks(digits):
    model = ConvNet(ModelConfig(depth=2, width=12), digits.train.image_shape, 10)
    image = digits.train.images[0]
    data = figures.activations_data(model, image)
    assert [maps.shape for _, maps in data] == [(8, 4, 4), (8, 2, 2)]
    assert all(maps.min() >= 0 and maps.max() <= 1 for _, maps in data)
    with torch.inference_mode():
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None]
        first = model.eval().blocks[0]((pixels.float() - model.mean) / model.std)[0].numpy()
    spread = first[first.std(axis=(1, 2)).argmax()]
    expected = (spread - spread.min()) / (spread.max() - spread.min())
    np.testing.assert_allclose(data[0][1][0], expected, atol=1e-6)
    assert not model.blocks[0]._forward_hooks  # none is left behind


def test_plot_batch_takes_batches_and_arrays(digits, tmp_path):
    images, labels = next(iter(batch_loader(digits.train, 20)))
    figure = figures.plot_batch(images, labels, digits.train.class_names)
    assert [axes.get_title() for axes in figure.axes][:20] == [digits.train.class_names[int(label)] for label in labels]
    np.testing.assert_array_equal(figure.axes[3].images[0].get_array(), digits.train.images[3])
    same = figures.plot_batch(digits.train.images[:20], digits.train.labels[:20], digits.train.class_names)
    np.testing.assert_array_equal(same.axes[3].images[0].get_array(), digits.train.images[3])
    figures.plot_batch(digits.train.images[:1, :, :, :1], [0], ["one"])  # a single grey image
    with pytest.raises(ValueError, match="C = 1 or 3"):
        figures.plot_batch(np.zeros((2, 3, 4)), [0, 1], "ab")


def test_the_winner_is_drawn_with_what_an_image_excites(search_run):
    evaluation = evaluate_search(load_search(search_run.path), device="cpu")
    maps, activations, batch = figures.network_pictures(evaluation)
    assert [maps.name, activations.name, batch.name] == ["feature_maps", "activations", "training_batch"]
    kept = evaluation.winner.predictions
    np.testing.assert_array_equal(activations.figure.axes[0].images[0].get_array(), kept.sample_images[-1])
    assert evaluation.winner.class_names[kept.labels[kept.sample_indices[-1]]] in activations.sentence
