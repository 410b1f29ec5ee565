"""The numbers behind the figures, and that every figure can be drawn, hostile names included."""

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import figures, load_search
from analysis.figures.search_figures import ENDINGS, pauses, search_minutes
from analysis.figures.style import INK, save_png, to_svg
from training import load_model
from training.config import ModelConfig
from training.data import batch_loader
from training.layers import count_costs
from training.model import ConvNet

HOSTILE = ("<script>alert(1)</script>", "$\\frac{", "--> x", "日本語", "a" * 300, "line\nbreak")


def at(minutes: float) -> pd.Timestamp:
    return pd.Timestamp("2030-01-01", tz="UTC") + pd.Timedelta(minutes=minutes)


def trials_frame(rows: list[tuple]) -> pd.DataFrame:
    columns = ["number", "state", "stopped_by", "val_accuracy", "started_at", "finished_at"]
    return pd.DataFrame(rows, columns=columns)


def test_incumbent_counts_complete_trials_only_in_the_order_they_ended():
    trials = trials_frame(
        [
            (0, "COMPLETE", None, 0.5, at(0), at(4)),
            (1, "PRUNED", "asha", 0.9, at(0), at(1)),
            (2, "COMPLETE", None, 0.4, at(1), at(6)),
            (3, "COMPLETE", None, 0.7, at(4), at(8)),
            (4, "RUNNING", None, 0.8, at(6), pd.NaT),
            (5, "PRUNED", "infeasible", np.nan, at(6), at(6)),
        ]
    )
    data = figures.incumbent_data(trials, [])
    assert data["number"].tolist() == [1, 0, 2, 3]
    assert data["minutes"].tolist() == [1, 4, 6, 8]
    assert data["best"].tolist()[1:] == [0.5, 0.5, 0.7] and np.isnan(data["best"][0])
    assert data["ending"].tolist() == ["asha", "complete", "complete", "complete"]


def test_the_pause_before_a_resume_is_no_search_time():
    moments = pd.Series([at(0), at(5), at(100), at(103)])
    stops = pauses([at(0), at(98)], moments)
    assert stops == [(at(5), at(98))]
    assert search_minutes(moments, at(0), stops).tolist() == [0, 5, 7, 10]
    assert search_minutes(moments, at(0), []).tolist() == [0, 5, 100, 103]


def test_every_ending_of_the_design_has_its_curves():
    rows = [
        (0, "COMPLETE", None), (1, "PRUNED", "asha"), (2, "PRUNED", "diverged"), (3, "PRUNED", "time_budget"),
        (4, "FAIL", None), (5, "RUNNING", None),
    ]  # fmt: skip
    trials = trials_frame([(*row, 0.5, at(0), at(1)) for row in rows])
    epochs = pd.DataFrame({"number": range(6), "epoch": 1, "val_accuracy": 0.5})
    data = figures.learning_curves_data(trials, epochs)
    assert set(data) == set(ENDINGS) - {"infeasible"}
    assert [len(curves) for curves in data.values()] == [1] * 6
    save = figures.plot_learning_curves(data, best=0)
    assert len(save.axes) == 6


def test_layer_table_adds_up_and_its_formula_is_right():
    config = ModelConfig(depth=3, width=4, kernel_size=(3, 5, 2), stride=(1, 2, 1), padding=(1, 0, 1), pooling="none")
    layers = figures.layer_table(config, (3, 16, 16), 7)
    assert sum(layer["num_params"] for layer in layers) == count_costs(config, (3, 16, 16), 7)[0]
    assert layers[1]["formula"] == "⌊(16 + 2·0 − 5)/2⌋ + 1 = 6"
    maps = figures.feature_maps_data(config, (3, 16, 16), 7)
    assert [box["name"] for box in maps] == ["input", *(layer["name"] for layer in layers)]
    assert (maps[0]["channels"], maps[2]["height"], maps[-1]["channels"]) == (3, 6, 7)
    figures.plot_feature_maps(maps)


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


def test_confusion_shares_sum_to_one_or_nothing():
    shares = figures.confusion_data([[3, 1], [0, 0]])
    assert shares.tolist() == [[0.75, 0.25], [0, 0]]


@pytest.mark.parametrize("size", [2, 10, 100])
def test_confusion_matrices_of_any_size_can_be_drawn(size, tmp_path):
    names = [f"class number {index}" for index in range(size)]
    figure = figures.plot_confusion(np.eye(size, dtype=int).tolist(), names)
    assert len(figure.axes[0].texts) == (size if size <= 20 else 0)
    save_png(figure, tmp_path / "x.png")


def test_samples_hold_the_likeliest_classes_and_the_true_one():
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]], dtype=np.float32))
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    right, wrong = figures.samples_data(images, logits, np.array([0, 0]), "abcd", shown=2)
    assert right.is_correct and [name for name, _ in right.top] == ["a", "b"]
    assert right.top[0][1] == pytest.approx(0.5)
    assert not wrong.is_correct and [name for name, _ in wrong.top] == ["d", "a"]


def test_hostile_names_are_drawn_and_never_become_markup(tmp_path):
    size = len(HOSTILE)
    images = np.zeros((size, 4, 4, 3), dtype=np.uint8)
    samples = figures.samples_data(images, np.eye(size, dtype=np.float32), np.arange(size), HOSTILE)
    drawn = [
        figures.plot_batch(images, range(size), HOSTILE),
        figures.plot_confusion(np.eye(size, dtype=int).tolist(), HOSTILE),
        figures.plot_samples(samples),
    ]
    for figure in drawn:
        save_png(figure, tmp_path / "x.png")
        svg = to_svg(figure, "x")
        assert svg.startswith("<svg") and "script" not in svg and "<!--" not in svg and "frac" not in svg


def test_ink_follows_the_page(search_run):
    results = load_search(search_run.path)
    svg = to_svg(figures.plot_incumbent(figures.incumbent_data(results.trials, results.environment)), "x")
    assert "currentColor" in svg and INK not in svg


def test_empty_searches_give_figures_that_say_so(make_run):
    results = load_search(make_run().path)
    assert "yet" in figures.plot_incumbent(figures.incumbent_data(results.trials, [])).texts[0].get_text()
    curves = figures.learning_curves_data(results.trials, results.epochs)
    assert "yet" in figures.plot_learning_curves(curves).texts[0].get_text()


def test_activations_of_a_loaded_model_can_be_drawn(search_run, digits, tmp_path):
    model = load_model(load_search(search_run.path).checkpoint_of(2))
    image = digits.val.images[0]
    save_png(figures.plot_activations(image, figures.activations_data(model, image)), tmp_path / "x.png")
