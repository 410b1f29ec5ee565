"""What is said and drawn of predictions: calibration, classes, samples, mistakes, and a batch of training images."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_results import answers, evaluated
from scipy.stats import binomtest
from sklearn.metrics import f1_score, top_k_accuracy_score

from analysis import figures, load_search
from analysis.evaluating.evaluation import evaluate_search
from analysis.evaluating.evaluation import training_batch as batch_of
from analysis.evaluating.metrics import calibration_data, classification_metrics, random_sample, surest_mistakes
from analysis.figures import training_batch
from analysis.figures.style import to_svg
from training import load_test, new_state, train
from training.config import AUGMENTATION_OFF, DataConfig

HOSTILE = ("<script>alert(1)</script>", "$\\frac{", "--> x", "日本語", "a" * 300, "line\nbreak")


def in_order(shares: list[list[float]]) -> np.ndarray:
    return np.log(np.array(shares, dtype=np.float32))


# Calibration


def test_calibration_worked_out_by_hand():
    """Five bins. 0.65 right and 0.75 wrong: accuracy 0.5 at 0.7; twice 0.9 right: 1 at 0.9; (2 * 0.2 + 2 * 0.1) / 4."""
    logits = in_order([[0.65, 0.35], [0.75, 0.25], [0.9, 0.1], [0.1, 0.9]])
    frame, error = calibration_data(logits, np.array([0, 1, 0, 1]), bins=5)
    assert error == pytest.approx(0.15)
    assert frame["count"].tolist() == [0, 0, 0, 2, 2]
    assert frame["confidence"].tolist()[3:] == pytest.approx([0.7, 0.9])
    assert frame["accuracy"].tolist()[3:] == [0.5, 1.0]
    assert frame["deviation"].tolist()[3:] == pytest.approx(
        [math.sqrt(0.65 * 0.35 + 0.75 * 0.25) / 2, math.sqrt(2 * 0.9 * 0.1) / 2]
    )
    assert frame.loc[:2, ["confidence", "accuracy", "deviation"]].isna().all(axis=None)
    assert frame["low"].tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    on_the_edge = np.zeros((3, 2), dtype=np.float32)  # belongs to the bin below
    assert calibration_data(on_the_edge, np.array([0, 0, 1]), bins=2)[0]["count"].tolist() == [3, 0]


@given(st.integers(1, 200), st.integers(2, 12), st.floats(0, 6), st.integers(0, 10**6))
@settings(deadline=None)
def test_calibration_error_is_that_of_a_plain_loop(n, num_classes, skill, seed):
    logits, labels = answers(n, num_classes, skill, seed)
    shares = torch.from_numpy(logits).double().softmax(1)
    confidence, predicted = (part.numpy() for part in shares.max(1))
    total = 0.0
    for number in range(15):
        inside = [i for i in range(n) if number / 15 < confidence[i] <= (number + 1) / 15]
        if inside:
            gap = np.mean([predicted[i] == labels[i] for i in inside]) - np.mean([confidence[i] for i in inside])
            total += len(inside) / n * abs(gap)
    frame, error = calibration_data(logits, labels)
    assert error == pytest.approx(total, abs=1e-9) and 0 <= error <= 1
    assert frame["count"].sum() == n and len(frame) == 15
    _, one_bin = calibration_data(logits, labels, bins=1)
    assert one_bin == pytest.approx(abs((predicted == labels).mean() - confidence.mean()), abs=1e-9)
    assert one_bin <= error + 1e-9  # finer bins cannot hide more


@pytest.mark.parametrize(
    ("scale", "said"),
    [(4.0, "over-confident by 2"), (1.0, "chance would not explain"), (0.3, "under-confident by 2")],
)
def test_calibration_sentence_says_the_direction_only_where_it_is_clear(scale, said):
    generator = np.random.default_rng(3)
    logits = (2 * generator.normal(size=(2000, 4))).astype(np.float32)
    shares = torch.from_numpy(logits).double().softmax(1).numpy()
    labels = (generator.random((2000, 1)) > shares.cumsum(1)).sum(1).clip(max=3)
    frame, error = calibration_data(np.float32(scale) * logits, labels)
    sentence = figures.calibration_sentence(frame, error)
    assert said in sentence and "n = 2,000" in sentence and f"15 bins is {100 * error:.2f} %" in sentence
    accuracy = (logits.argmax(1) == labels).mean()
    assert f"accuracy {100 * accuracy:.2f} %" in sentence


def test_metrics_of_a_diverged_network_are_still_metrics():
    logits = np.full((5, 7), np.nan, dtype=np.float32)
    metrics = classification_metrics(logits, np.arange(5), tuple("abcdefg"))
    assert math.isnan(metrics["expected_calibration_error"]) and math.isnan(metrics["test_loss"])


@given(st.integers(1, 120), st.integers(2, 30), st.floats(0, 4), st.integers(0, 10**6))
@settings(deadline=None)
def test_macro_f1_and_top_5_accuracy_are_scikit_learns(n, num_classes, skill, seed):
    logits, labels = answers(n, num_classes, skill, seed)
    metrics = classification_metrics(logits, labels, tuple(map(str, range(num_classes))))
    expected = f1_score(labels, logits.argmax(1), average="macro", zero_division=0)
    assert metrics["macro_f1"] == pytest.approx(expected)
    assert metrics["expected_calibration_error"] == calibration_data(logits, labels)[1]
    assert ("top_5_accuracy" in metrics) == (num_classes > 5)
    if num_classes > 5:
        expected = top_k_accuracy_score(labels, logits, k=5, labels=range(num_classes))
        assert metrics["top_5_accuracy"] == pytest.approx(expected)


# Which images are shown


@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 10**6))
def test_samples_do_not_depend_on_the_network_and_mistakes_are_the_surest(n, mistakes, seed):
    logits = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    labels = logits.argmax(1)
    labels[:mistakes] = (labels[:mistakes] + 1) % 3
    drawn = random_sample(logits, labels, count=12)
    assert len(set(drawn.tolist())) == len(drawn) == min(12, n) and set(drawn) <= set(range(n))
    assert set(drawn) == set(random_sample(-logits, labels, count=12))
    is_correct = (logits.argmax(1) == labels)[drawn]
    assert (np.diff(is_correct.astype(int)) >= 0).all()
    wrong = np.flatnonzero(logits.argmax(1) != labels)
    shown = surest_mistakes(logits, labels, count=6)
    assert len(set(shown.tolist())) == len(shown) == min(6, len(wrong)) and set(shown) <= set(wrong)
    certainty = torch.from_numpy(logits).softmax(1).max(1).values.numpy()
    assert (np.diff(certainty[shown]) <= 1e-6).all()
    if len(shown):
        assert certainty[shown].min() >= max(certainty[[i for i in wrong if i not in shown]], default=0) - 1e-6


def test_the_sample_is_fair_over_the_split():
    """Every tenth of a split of 100,000 images gets its share of 2,000: within 5 standard deviations of 200."""
    logits, labels = np.zeros((100_000, 2), dtype=np.float32), np.zeros(100_000, dtype=np.int64)
    counts = np.bincount(random_sample(logits, labels, count=2000) // 10_000, minlength=10)
    assert counts.sum() == 2000 and np.abs(counts - 200).max() < 5 * math.sqrt(2000 * 0.1 * 0.9)


# Class by class


def test_per_class_data_is_sorted_by_recall_with_scipys_intervals():
    rows = [("a", 0.9, 10), ("b", 0.5, 4), ("never there", 0.0, 0), ("c", 1.0, 3), ("d", 0.0, 2)]
    per_class = [{"class": name, "recall": r, "precision": 0.25, "support": s} for name, r, s in rows]
    data = figures.per_class_data(per_class)
    assert data["class"].tolist() == ["d", "b", "a", "c"] and data["rank"].tolist() == [1, 2, 3, 4]
    for row, (hits, n) in zip(data.itertuples(), [(0, 2), (2, 4), (9, 10), (3, 3)], strict=True):
        interval = binomtest(hits, n).proportion_ci(method="wilson")
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    axes = figures.plot_per_class(data).axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0, 50, 90, 100, 25, 25, 25, 25])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["d", "b", "a", "c"]


def test_of_many_classes_the_worst_and_the_best_are_shown():
    per_class = [{"class": f"c{i}", "recall": i / 100, "precision": 0.5, "support": 100} for i in range(100)]
    data = figures.per_class_data(per_class[::-1])
    assert data["class"].tolist() == [f"c{i}" for i in (*range(10), *range(90, 100))]
    assert data["rank"].tolist() == [*range(1, 11), *range(91, 101)]
    texts = [text.get_text() for text in figures.plot_per_class(data).axes[0].texts]
    assert texts == ["80 classes between"]
    assert len(figures.per_class_data(per_class[:20])) == 20
    assert not figures.plot_per_class(figures.per_class_data(per_class[:20])).axes[0].texts


@pytest.mark.parametrize("size", [20, 21])
def test_small_confusion_matrices_have_numbers(size):
    assert figures.confusion_data([[3, 1], [0, 0]]).tolist() == [[0.75, 0.25], [0, 0]]
    axes = figures.plot_confusion(np.eye(size, dtype=int).tolist(), [f"class number {index}" for index in range(size)])
    assert len(axes.axes[0].texts) == (size if size <= 20 else 0)


def test_samples_hold_the_likeliest_classes_and_the_true_one():
    logits = in_order([[0.5, 0.3, 0.15, 0.05], [0.05, 0.15, 0.3, 0.5]])
    images = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    right, wrong = figures.samples_data(images, logits, np.array([0, 0]), "abcd", shown=2)
    assert right.is_correct and [name for name, _ in right.top] == ["a", "b"]
    assert right.top[0][1] == pytest.approx(0.5)
    assert not wrong.is_correct and [name for name, _ in wrong.top] == ["d", "a"]


# Sentences


def sample(label: str, predicted: str, confidence: float) -> figures.Sample:
    return figures.Sample(np.zeros((2, 2, 3), dtype=np.uint8), label, predicted, [(predicted, confidence)])


def test_samples_sentence_compares_the_sample_with_the_split():
    samples = [sample("a", "b", 0.9), sample("a", "a", 0.9), sample("b", "b", 0.9)]
    sentence = figures.samples_sentence(samples, {"n": 4000, "test_accuracy": 0.8125})
    assert sentence.startswith("3 of 4,000 test images drawn at random")
    assert "Classified correctly: 2 of 3, over the whole split 81.25 %" in sentence
    assert "All test images, mistakes first" in figures.samples_sentence(samples, {"n": 3, "test_accuracy": 2 / 3})


def test_mistakes_sentence_counts_and_names_the_commonest_pair():
    logits = in_order([[0.98, 0.02], [0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.7, 0.3], [0.9, 0.1]])
    labels = np.array([1, 1, 1, 1, 0, 0])
    shown = [sample("b", "a", confidence) for confidence in (0.98, 0.9, 0.8)]
    sentence = figures.mistakes_sentence(shown, logits, labels)
    assert sentence.startswith("The 3 most confident of 4 mistakes, confidence 98.0 % down to 80.0 %")
    assert "3 of them are b taken for a." in sentence
    assert "when wrong is 82.0 %, when right 80.0 %" in sentence
    assert figures.mistakes_sentence([*shown, sample("b", "a", 0.6)], logits, labels).startswith("Every mistake")
    assert "no mistake on 2 test images" in figures.mistakes_sentence([], logits[:2], np.array([0, 0]))


@pytest.mark.parametrize("field", AUGMENTATION_OFF)
def test_each_augmentation_is_said(field):
    plain = DataConfig().without_augmentation()
    assert figures.augmentation_text(plain) == "unchanged, for the config has no augmentation"
    said = figures.augmentation_text(plain.model_copy(update={field: 2}))
    assert "unchanged" not in said and (field == "flip" or " 2 " in said)


# The batch of training images


def test_the_batch_is_what_training_feeds_the_network(search_run, digits):
    base = load_search(search_run.path).config
    config = base.override({"data.crop_padding": 2, "data.flip": True, "data.cutout": 3, "train.seed": 11})
    seen = []
    state = new_state(config, digits)
    state.model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    next(train(state, digits))
    batch = batch_of(5, config, digits)
    assert batch.images.shape == (16, 8, 8, 3) and batch.images.dtype == np.uint8
    np.testing.assert_array_equal(batch.images, seen[0][:16].permute(0, 2, 3, 1).numpy())


# All pictures


def test_pictures_come_in_order_and_are_those_of_the_winner(search_run, digits, monkeypatch):
    from analysis.evaluating import evaluation as module

    loaded = []
    load = module.load_data
    monkeypatch.setattr(module, "load_data", lambda config, _: loaded.append(config) or load(config))
    results = load_search(search_run.path)
    evaluate_search(results, device="cpu")
    assert len(loaded) == 1  # the batch costs no loading of its own
    evaluation = evaluate_search(results, device="cpu")  # predictions are read from the file
    winner, kept = evaluation.winner, evaluation.winner.predictions
    test = load_test(results.config.data)
    np.testing.assert_array_equal(kept.sample_images, test.images[kept.sample_indices])
    np.testing.assert_array_equal(kept.mistake_images, test.images[kept.mistake_indices])
    assert len(kept.sample_indices) == 12 == len(kept.mistake_indices)

    pictures = {picture.name: picture for picture in figures.prediction_pictures(winner)}
    assert list(pictures) == list(figures.TEST)
    metrics = winner.metrics()
    wrong = round(metrics["n"] * (1 - metrics["test_accuracy"]))
    assert f"12 most confident of {wrong:,} mistakes" in pictures["mistakes"].sentence
    titles = [axes.get_title() for axes in pictures["mistakes"].figure.axes]
    assert titles == [winner.class_names[kept.labels[index]] for index in kept.mistake_indices]
    assert f"{100 * metrics['expected_calibration_error']:.2f} %" in pictures["calibration"].sentence
    calibration, _ = calibration_data(kept.logits, kept.labels)
    points = pictures["calibration"].figure.axes[0].lines[1].get_xydata() / 100
    np.testing.assert_allclose(points, calibration.loc[calibration["count"] > 0, ["confidence", "accuracy"]])

    batch, picture = evaluation.training_batch, training_batch.picture(evaluation)
    known = {image.tobytes(): label for image, label in zip(digits.train.images, digits.train.labels, strict=True)}
    assert [known[image.tobytes()] for image in batch.images] == batch.labels.tolist()  # nothing augments this search
    assert f"trial {winner.number} " in picture.sentence and "no augmentation" in picture.sentence
    assert [axes.get_title() for axes in picture.figure.axes] == [batch.class_names[i] for i in batch.labels]


@pytest.mark.parametrize(("n", "names", "skill"), [(1, ("cat", "dog"), 50.0), (60, HOSTILE, -50.0)])
def test_pictures_without_a_mistake_and_with_mistakes_alone_can_be_drawn(n, names, skill, tmp_path):
    evaluation = evaluated(*answers(n, len(names), skill), names, tmp_path)
    for picture in [*figures.prediction_pictures(evaluation.winner), training_batch.picture(evaluation)]:
        svg = to_svg(picture.figure, picture.name)
        assert svg.startswith("<svg") and "script" not in svg and "frac" not in svg
        assert len(svg) < 400_000 and picture.sentence.endswith(".") and "nan" not in picture.sentence
