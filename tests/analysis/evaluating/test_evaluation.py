"""The winner and the defaults, evaluated again: against recorded numbers, scikit-learn and hand-made cases."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, log_loss

from analysis import load_search
from analysis.evaluating import test_split as predictions_module
from analysis.evaluating.evaluation import evaluate_search
from analysis.evaluating.metrics import classification_metrics
from analysis.figures import training_batch
from training import load_model, load_test
from training.errors import DataError


@pytest.fixture
def openings(monkeypatch):
    """Every loading of the test split, as it happens."""
    seen = []
    monkeypatch.setattr(predictions_module, "load_test", lambda config, _: seen.append(config) or load_test(config))
    return seen


def test_val_accuracy_is_the_recorded_one_and_test_accuracy_a_plain_loops(search_run):
    results = load_search(search_run.path)
    evaluation = evaluate_search(results, device="cpu")
    winner = evaluation.winner
    assert winner.val_accuracy_now == winner.val_accuracy == search_run.study.best_trial.value
    assert winner.reproduced and evaluation.defaults.reproduced and not evaluation.problems
    test = load_test(results.config.data)
    with torch.inference_mode():
        logits = load_model(winner.checkpoint)(torch.from_numpy(test.images).permute(0, 3, 1, 2))
    metrics = winner.metrics()
    assert metrics["test_accuracy"] == pytest.approx(float((logits.argmax(1).numpy() == test.labels).mean()))
    probabilities = logits.double().softmax(1).numpy()
    assert metrics["test_loss"] == pytest.approx(log_loss(test.labels, probabilities), rel=1e-5)
    assert metrics["n"] == len(test.labels) == np.sum(metrics["confusion_matrix"])


def test_the_test_split_is_opened_once_for_both_and_never_again(search_run, openings):
    results = load_search(search_run.path)
    first = evaluate_search(results, device="cpu")
    assert len(openings) == 1 == len(first.openings)
    again = evaluate_search(results, device="cpu")
    assert len(openings) == 1 == len(again.openings)
    assert again.metrics() == first.metrics()
    assert first.metrics()["openings_of_test_split"] == 1


def test_networks_trained_with_flips_are_evaluated_on_mirror_images_too(search_run, openings):
    plain = evaluate_search(load_search(search_run.path), device="cpu").winner.metrics()
    assert not [name for name in plain if "mirror" in name]
    for kept in (search_run.path / "report").glob("predictions-*.npz"):
        kept.unlink()
    results = load_search(search_run.with_flips().path)
    winner = evaluate_search(results, device="cpu").winner
    test = load_test(results.config.data)
    views = [torch.from_numpy(images.copy()).permute(0, 3, 1, 2) for images in (test.images, test.images[:, :, ::-1])]
    with torch.inference_mode():
        first, second = map(load_model(winner.checkpoint), views)
    logits = (first.double() + second.double()).numpy() / 2
    metrics = winner.metrics()
    assert {name: metrics[name] for name in plain} == plain
    accuracy = metrics["mirrored_test_accuracy"]
    assert accuracy == pytest.approx((logits.argmax(1) == test.labels).mean()) and accuracy != metrics["test_accuracy"]
    low, high = metrics["mirrored_test_accuracy_interval_95"]
    assert low < accuracy < high
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert metrics["mirrored_test_loss"] == pytest.approx(log_loss(test.labels, probabilities), rel=1e-5)
    assert evaluate_search(results, device="cpu").winner.metrics() == metrics and len(openings) == 2


def test_predictions_kept_before_there_were_mirrored_ones_stay_as_they_are(search_run, openings):
    plain = evaluate_search(load_search(search_run.path), device="cpu")
    again = evaluate_search(load_search(search_run.with_flips().path), device="cpu")
    assert again.metrics() == plain.metrics() and len(openings) == 1


def test_a_new_winner_opens_it_again_and_is_counted(search_run, trained, openings):
    evaluate_search(load_search(search_run.path), device="cpu")
    number = search_run.trial([0.5, 1.0], params=search_run.DEEPER)
    search_run.checkpoint(number, trained["deeper"][0])
    evaluation = evaluate_search(load_search(search_run.path), device="cpu")
    assert evaluation.winner.number == number
    assert len(openings) == 2 == len(evaluation.openings)


def without_mistakes(path: Path) -> None:
    with np.load(path) as arrays:
        older = {name: arrays[name] for name in ("logits", "labels", "sample_indices", "sample_images")}
    np.savez_compressed(path, **older)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"PK\x03\x04 torn"), without_mistakes])
def test_damaged_and_older_predictions_are_made_again(search_run, openings, damage):
    first = evaluate_search(load_search(search_run.path), device="cpu")
    for kept in (search_run.path / "report").glob("predictions-*.npz"):
        damage(kept)
    again = evaluate_search(load_search(search_run.path), device="cpu")
    assert again.metrics()["winner"] == first.metrics()["winner"] and len(again.winner.predictions.mistake_images)
    assert len(openings) == 2 == len(again.openings)


def test_if_trial_0_wins_both_are_the_same(make_run, trained):
    run = make_run()
    run.checkpoint(run.trial(run.recorded(trained["defaults"][-1])), trained["defaults"][-1])
    evaluation = evaluate_search(load_search(run.path), device="cpu")
    assert evaluation.winner is evaluation.defaults


def test_another_val_accuracy_than_the_recorded_one_is_noticed(search_run):
    for place in search_run.path.glob("trial_*/checkpoint_*"):
        search_run.edit_meta(place, lambda meta: meta["results"][-1].update(val_accuracy=0.987654))
    assert evaluate_search(load_search(search_run.path), device="cpu").winner.reproduced is False


def test_other_classes_than_the_data_have_are_a_problem(search_run):
    for place in search_run.path.glob("trial_*/checkpoint_*"):
        search_run.edit_meta(place, lambda meta: meta.update(class_names=[*"abcdefghij"]))
    evaluation = evaluate_search(load_search(search_run.path), device="cpu")
    assert evaluation.winner.predictions is None and "other classes" in " ".join(evaluation.problems)


def test_without_images_there_is_a_problem_that_names_data_dir(search_run, monkeypatch):
    def missing(*_):
        raise DataError("the images are gone.")

    monkeypatch.setattr("analysis.evaluating.evaluation.load_data", missing)
    monkeypatch.setattr(predictions_module, "load_test", missing)
    evaluation = evaluate_search(load_search(search_run.path), device="cpu")
    assert evaluation.winner.predictions is None and evaluation.winner.reproduced is None
    assert "test_accuracy" not in evaluation.winner.metrics()
    assert all("--data-dir" in problem for problem in evaluation.problems) and len(evaluation.problems) == 2
    assert evaluation.openings == [] and training_batch.picture(evaluation) is None


def test_metrics_of_a_case_worked_out_by_hand():
    """True a a a a b b, predicted a a a b b a; class c never there and never predicted."""
    labels = np.array([0, 0, 0, 0, 1, 1])
    predicted = np.array([0, 0, 0, 1, 1, 0])
    logits = np.where(np.arange(3) == predicted[:, None], 2.0, 0.0).astype(np.float32)
    metrics = classification_metrics(logits, labels, ("a", "b", "c"))
    assert metrics["confusion_matrix"] == [[3, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert metrics["test_accuracy"] == 4 / 6
    assert metrics["balanced_accuracy"] == (3 / 4 + 1 / 2) / 2 == balanced_accuracy_score(labels, predicted)
    a, b, c = metrics["per_class"]
    assert (a["precision"], a["recall"], a["f1"], a["support"]) == (3 / 4, 3 / 4, 3 / 4, 4)
    assert (b["precision"], b["recall"], b["f1"], b["support"]) == (1 / 2, 1 / 2, 1 / 2, 2)
    assert (c["precision"], c["recall"], c["f1"], c["support"]) == (0, 0, 0, 0)
    right, wrong = math.log(math.e**2 + 2) - 2, math.log(math.e**2 + 2)
    assert metrics["test_loss"] == pytest.approx((4 * right + 2 * wrong) / 6)
