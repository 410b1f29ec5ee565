"""What mattered in a search: comparison at equal epochs, importance against Optuna, the Pareto front, all drawn."""

import math
import random
import warnings
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_results import FAIL, PARAMS, PRUNED, RUNNING, SPACE, distribution_of, large, read_space, searched
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import create_trial

from analysis import SearchResults
from analysis.figures import (
    ParamAxis,
    at_equal_epochs,
    axis_plots_data,
    by_importance,
    compared_text,
    cost_data,
    cost_sentence,
    importance_data,
    optimizers_data,
    parallel_coordinates_data,
    pareto_front,
    plot_axes,
    space_pictures,
)
from analysis.figures.importance import PANELS
from analysis.figures.parallel_coordinates import lines_drawn, parallel_ticks
from analysis.figures.param_axis import axis_of, height_on, log_ticks, places
from analysis.figures.style import to_svg
from analysis.reading.tables import hyperparameters


def test_a_value_of_the_last_epoch_is_never_compared_with_one_of_an_earlier_epoch():
    results = searched(*[{"curve": [0.4], "stopped_by": "asha"}] * 8, *[{"curve": [0.3, 0.5, 0.9]}] * 4, total=3)
    compared = at_equal_epochs(results.trials, results.epochs)
    assert compared.epoch == 1 and compared.trials["number"].tolist() == list(range(12))
    assert compared.trials["compared_accuracy"].tolist() == [0.4] * 8 + [0.3] * 4
    assert compared.trials["val_accuracy"].tolist() == [0.4] * 8 + [0.9] * 4
    assert compared.reason == "the latest that at least 10 of 12 trials reached"
    one = searched({"curve": [0.2, 0.4]}, total=2)
    assert at_equal_epochs(one.trials, one.epochs).reason == "the latest that the only trial reached"


@pytest.mark.parametrize(
    ("lengths", "share", "least", "epoch", "n"),
    [
        ([9] * 30, 0.5, 10, 9, 30),  # no scheduler
        ([1] * 20 + [3] * 6 + [9] * 4, 0.5, 10, 1, 30),  # ASHA
        ([1] * 9 + [4] * 11, 0.5, 10, 4, 11),
        ([1] * 20 + [3] * 6 + [9] * 4, 0, 5, 3, 10),
        ([2, 5, 9], 0.5, 10, 2, 3),  # fewer than 10: the latest that all reached
    ],
)
def test_the_epoch_is_the_latest_that_enough_trials_reached(lengths, share, least, epoch, n):
    results = searched(*({"curve": [0.1 * (index + 1) for index in range(length)]} for length in lengths))
    compared = at_equal_epochs(results.trials, results.epochs, share, least)
    assert (compared.epoch, len(compared.trials)) == (epoch, n)
    assert compared.trials["compared_accuracy"].to_numpy() == pytest.approx(0.1 * epoch)


def test_only_trials_that_ended_well_are_compared_and_diverged_ones_are_kept_apart():
    results = searched(
        {"curve": [0.5, 0.6]},
        {"curve": [0.4, 0.0], "stopped_by": "diverged", "state": PRUNED},
        {"curve": [0.3], "state": FAIL},
        {"curve": [0.3], "state": RUNNING},
        {"curve": [], "stopped_by": "infeasible"},
        {"curve": [0.2], "stopped_by": "time_budget"},
        total=2,
    )
    compared = at_equal_epochs(results.trials, results.epochs)
    assert compared.trials["number"].tolist() == [0, 5] and compared.epoch == 1
    assert compared.diverged["number"].tolist() == [1]
    assert "n = 2; 1 that diverged has no accuracy" in compared_text(compared, 2)


def test_an_epoch_that_is_missing_from_a_journal_is_not_made_up():
    results = searched(*[{"curve": [0.1, 0.2]}] * 3, total=2)
    epochs = results.epochs
    gaps = epochs[~((epochs["epoch"] == 1) & (epochs["number"] == 0))]
    gaps = gaps[~((gaps["epoch"] == 2) & (gaps["number"] == 1))]
    compared = at_equal_epochs(results.trials, gaps)
    assert compared.epoch == 1 and compared.trials["number"].tolist() == [1, 2]
    assert compared.reason == "the first that most trials have a val accuracy of"


def test_importance_is_that_of_optuna_called_directly():
    results = large(120)
    compared = at_equal_epochs(results.trials, results.epochs)
    data = importance_data(compared, results.params, results.space)
    study = optuna.create_study(direction="maximize")
    first = results.epochs[results.epochs["epoch"] == 1].set_index("number")["val_accuracy"]
    for number, params in results.params.items():
        worst = results.trials["stopped_by"][number] == "diverged"
        study.add_trial(
            create_trial(
                value=-5.0 if worst else first[number],  # only ranks count
                params=params,
                distributions={name: distribution_of(name) for name in params},
            )
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = optuna.importance.get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.1)
        )
    assert data.n == 120 and data.top == 12
    assert data.shares == pytest.approx(expected) and set(data.shares) == set(expected)
    assert list(data.shares.values()) == sorted(data.shares.values(), reverse=True)
    assert {"model.batch_norm", "optimizer.learning_rate"} <= set(list(data.shares)[:3])  # what was planted


def test_the_best_are_at_least_five_trials():
    rows = [{"curve": [0.01 * n], "params": {"optimizer.learning_rate": 0.001 * (n + 1)}} for n in range(20)]
    results = searched(*rows)
    data = importance_data(at_equal_epochs(results.trials, results.epochs), results.params, results.space)
    assert (data.top, data.n, data.shares) == (5, 20, {"optimizer.learning_rate": 1.0})


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"curve": [0.1 * n]} for n in range(9)], "9 trials can be compared, and it takes 10"),
        ([{"curve": [0.5]}] * 12, "the 12 trials cannot be ranked"),
        ([{"curve": [0.01 * n], "params": {}} for n in range(12)], "no hyperparameter of the space"),
        ([{"curve": [0.01 * n], "params": PARAMS if n < 3 else {}} for n in range(12)], "distributed like all others"),
    ],
)
def test_without_importance_it_says_why(rows, reason):
    results = searched(*rows)
    data = importance_data(at_equal_epochs(results.trials, results.epochs), results.params, results.space)
    assert data.shares == {} and reason in data.reason


def test_importance_leaves_out_values_that_the_space_no_longer_has():
    rows = [{"curve": [0.01 * n], "params": {**PARAMS, "optimizer.learning_rate": 0.4}} for n in range(12)]
    results = searched(*rows)
    narrower = {**SPACE, **read_space({"optimizer.learning_rate": {"float": [0.001, 0.1]}})}
    del narrower["optimizer.name"]
    compared = at_equal_epochs(results.trials, results.epochs)
    data = importance_data(compared, results.params, narrower)
    assert set(data.shares) == {"model.depth", "model.kernel_size.0"}
    [panel] = axis_plots_data(compared, narrower, ["optimizer.learning_rate"])
    assert (panel.axis.low, panel.axis.high) == (0.001, 0.4)


def test_panels_leave_out_trials_in_which_a_hyperparameter_was_inactive():
    adam = {"model.depth": 2, "model.kernel_size.0": 3, "model.kernel_size.1": 5, "optimizer.name": "adam"}
    results = searched(
        {"curve": [0.5], "params": {**PARAMS, "optimizer.momentum": 0.9}},
        {"curve": [0.3], "params": adam},
        {"curve": [0.2], "params": adam},
        {"curve": [0.0], "params": adam, "stopped_by": "diverged", "state": PRUNED},
        total=1,
    )
    compared = at_equal_epochs(results.trials, results.epochs)
    panels = {panel.axis.path: panel for panel in axis_plots_data(compared, SPACE, hyperparameters(results.trials))}
    assert "train.label_smoothing" not in panels  # never drawn
    assert panels["optimizer.momentum"].points["number"].tolist() == [0]
    assert panels["optimizer.momentum"].medians.empty
    layer = panels["model.kernel_size.1"]
    assert layer.points["number"].tolist() == [1, 2, 3] and layer.points["place"].tolist() == [1, 1, 1]
    assert math.isnan(layer.points["compared_accuracy"][2])  # diverged: a mark, in no median
    assert layer.medians.to_numpy().tolist() == [[1, 0.25, 2]]
    assert panels["optimizer.learning_rate"].axis.log
    figure = plot_axes(list(panels.values()), 1, best=0)
    momentum = [axes for axes in figure.axes if axes.get_title(loc="left") == "optimizer.momentum"]
    assert len(momentum) == 1 and momentum[0].get_xscale() == "linear"


def test_an_axis_tells_true_from_one_and_keeps_the_order_of_the_choices():
    written = {"x": {"choice": ["b", 1, "a"]}, "n": {"int": [2, 8], "step": 3}, "many": {"int": [1, 100]}}
    space = read_space(written)
    axis = axis_of("x", space, ["a", True, None, 1])
    assert axis.choices == ["b", 1, "a", True]
    np.testing.assert_array_equal(places(axis, ["a", True, None, 1, math.nan]), [2, 3, math.nan, 1, math.nan])
    assert axis_of("n", space, [2, 8]).choices == [2, 5, 8]
    assert axis_of("many", space, [4]) == ParamAxis("many", 1, 100)
    assert axis_of("x.0", space, ["b"]).choices == ["b", 1, "a"]
    assert axis_of("unknown", space, [2.5, 0.5]) == ParamAxis("unknown", 0.5, 2.5)
    assert axis_of("unknown", space, ["z", 2]).choices == [2, "z"]


def test_heights_are_logarithmic_on_a_log_axis():
    axis = ParamAxis("x", 0.001, 0.1, log=True)
    np.testing.assert_allclose(height_on(axis, [0.001, 0.01, 0.1, math.nan]), [0, 0.5, 1, math.nan])
    assert parallel_ticks(axis) == [(0, "0.001"), (pytest.approx(0.5), "0.01"), (pytest.approx(1), "0.1")]
    assert height_on(ParamAxis("x", 3, 3), [3.0]).tolist() == [0.5]


@given(st.floats(1e-9, 1e9), st.floats(1, 1e9))
def test_log_ticks_are_few_and_inside(low, factor):
    high = low * factor
    ticks = log_ticks(low, high)
    assert 1 <= len(ticks) <= 5 and ticks == sorted(set(ticks))
    assert all(low * (1 - 1e-6) <= value <= high * (1 + 1e-6) for value in ticks)
    if factor >= 1000:
        assert all(math.log10(value) == pytest.approx(round(math.log10(value))) for value in ticks)


def beaten(pair: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    cost, accuracy = pair
    return any(c <= cost and a >= accuracy and (c < cost or a > accuracy) for c, a in others)


few_values = st.one_of(st.integers(0, 4).map(float), st.just(math.nan))


@given(st.lists(st.tuples(few_values, few_values), max_size=12))
def test_the_front_is_what_no_other_beats(pairs):
    front = pareto_front([cost for cost, _ in pairs], [accuracy for _, accuracy in pairs])
    known = [not any(map(math.isnan, pair)) for pair in pairs]
    assert front.tolist() == [ok and not beaten(pair, pairs) for ok, pair in zip(known, pairs, strict=True)]


def test_the_smallest_network_near_the_best_is_named_with_what_it_saves():
    results = searched(
        {"curve": [0.5, 0.7], "num_params": 1000, "multiply_adds": 100, "seconds": 2.0},
        {"curve": [0.6, 0.8], "num_params": 4000, "multiply_adds": 1000, "seconds": 4.0},
        {"curve": [0.6, 0.79], "num_params": 2000, "multiply_adds": 250, "seconds": 5.0},
        {"curve": [0.9], "num_params": 10, "multiply_adds": 1, "stopped_by": "asha"},
        {"curve": [0.1, 0.795], "num_params": 3000},
        {"curve": [0.1, 0.2], "num_params": 0},
        total=2,
    )
    compared = at_equal_epochs(results.trials, results.epochs, share=0, least=5)
    data = cost_data(compared, results.epochs)
    assert data["number"].tolist() == [0, 1, 2, 4, 5] and data["epoch_seconds"].tolist() == [2, 4, 5, 1, 1]
    assert np.isnan(data["num_params"][4]) and np.isnan(data["multiply_adds"][3])
    sentence = cost_sentence(compared, data)
    assert "the best, trial 1 (80.00 % with 4,000 parameters), is that of trial 2: −1.00 points" in sentence
    assert "50 % fewer parameters, 75 % fewer multiply-adds, 25 % more seconds an epoch." in sentence
    only = cost_data(compared, results.epochs).iloc[[1]]
    assert "No network within 1 point of the best" in cost_sentence(compared, only)


def test_optimizers_are_compared_at_equal_epochs_and_each_curve_is_of_the_same_trials():
    def row(curve: list[float], name: str, rate: float, **more: Any) -> dict[str, Any]:
        return {"curve": curve, "params": {"optimizer.name": name, "optimizer.learning_rate": rate}, **more}

    results = searched(
        row([0.5, 0.6, 0.7], "sgd", 0.1, losses=[3.0, 2.0, 1.0]),
        row([0.3, 0.6, 0.9], "sgd", 0.2, losses=[5.0, 4.0, 3.0]),
        row([0.1], "sgd", 0.3, losses=[99.0]),
        row([0.8], "adam", 0.01, losses=[7.0]),
        row([0.0], "adam", 0.4, losses=[math.nan], stopped_by="diverged", state=PRUNED),
        total=3,
    )
    adam, sgd = optimizers_data(at_equal_epochs(results.trials, results.epochs), results.epochs)
    assert (adam.name, adam.accuracy.tolist(), adam.diverged, adam.best_learning_rate) == ("adam", [0.8], 1, 0.01)
    assert (sgd.name, sorted(sgd.accuracy), sgd.diverged) == ("sgd", [0.1, 0.3, 0.5], 0)
    assert sgd.curve.to_dict() == {1: 4.0, 2: 3.0, 3: 2.0} and sgd.curve_n == 2
    picture = {picture.name: picture for picture in space_pictures(results)}["optimizers"]
    assert "0.01 for adam, 0.1 for sgd" in picture.sentence and "Fewer than 5 trials used adam, sgd" in picture.sentence


def test_of_muon_both_learning_rates_are_said():
    muon = {"optimizer.name": "muon", "optimizer.learning_rate": 0.2, "optimizer.other_learning_rate": 0.03}
    space = SPACE | read_space({"optimizer.name": {"choice": ["sgd", "muon"]}})
    space |= read_space({"optimizer.other_learning_rate": {"float": [0.01, 0.1], "when": {"optimizer.name": "muon"}}})
    results = searched({"curve": [0.5]}, {"curve": [0.6], "params": muon}, total=1, space=space)
    picture = {picture.name: picture for picture in space_pictures(results)}["optimizers"]
    assert "best trial is 0.2 for muon (0.03 for all but its filters), 0.1 for sgd." in picture.sentence


def test_lines_are_drawn_the_worst_first_and_ranked_paths_come_first():
    results = large(40)
    compared = at_equal_epochs(results.trials, results.epochs)
    importance = importance_data(compared, results.params, results.space)
    ranked = by_importance(hyperparameters(results.trials), importance)
    assert ranked[: len(importance.shares)] == list(importance.shares)
    data = parallel_coordinates_data(compared, results.space, ["optimizer.momentum", "model.padding"])
    assert data.accuracy.tolist() == sorted(compared.trials["compared_accuracy"])
    inactive = [results.params[number]["optimizer.name"] != "sgd" for number in data.numbers]
    assert np.isnan(data.heights[:, 0]).tolist() == inactive and any(inactive)
    assert set(data.heights[:, 1]) <= {0, 0.5, 1}


@pytest.mark.parametrize("n", [1, 300, 301, 449, 5000])
def test_of_many_lines_the_best_and_some_of_the_others_are_drawn(n):
    drawn = lines_drawn(n).tolist()
    assert len(drawn) == len(set(drawn)) == min(n, 300) and drawn == sorted(drawn)
    assert drawn[0] == 0 and drawn[-150:] == list(range(max(0, n - 150), n))


def svgs(results: SearchResults) -> dict[str, str]:
    return {picture.name: to_svg(picture.figure, picture.name) for picture in space_pictures(results)}


ONE = [{"curve": [0.2, 0.4], "num_params": 500, "multiply_adds": 1000}]
SAME = [{"curve": [0.5] * 2, "num_params": 7}] * 11


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ([], []),
        ([{"curve": [], "state": FAIL}, {"curve": [0.5], "state": FAIL}, {"curve": [], "state": RUNNING}], []),
        ([{"curve": [0.0], "stopped_by": "diverged", "state": PRUNED}], []),
        (ONE, ["hyperparameters", "importance", "cost"]),
        (SAME, ["hyperparameters", "importance", "parallel_coordinates", "cost"]),
        ([{**row, "params": {}} for row in SAME], ["cost"]),
    ],
)
def test_what_there_is_to_show_is_drawn(rows, names):
    assert list(svgs(searched(*rows, total=2))) == names


def test_of_many_hyperparameters_the_most_important_are_shown():
    space = read_space({f"model.x{index:02d}": {"float": [0, 1]} for index in range(PANELS + 5)})
    draw = random.Random(1)
    drawn = [{name: draw.random() for name in space} for _ in range(40)]
    results = searched(*({"curve": [each["model.x24"]], "params": each} for each in drawn), total=1, space=space)
    pictures = {picture.name: picture for picture in space_pictures(results)}
    titles = [axes.get_title(loc="left") for axes in pictures["hyperparameters"].figure.axes]
    assert len([title for title in titles if title]) == PANELS and "model.x24" in titles
    assert f"Of {PANELS + 5} hyperparameters the {PANELS} most" in pictures["hyperparameters"].sentence
    assert "model.x24 mattered most" in pictures["importance"].sentence


def test_hostile_choices_are_drawn_and_never_become_markup():
    names = ["<script>alert(1)</script>", "$\\frac{", "日本語", "a" * 300, "line\nbreak", "--> x"]
    space = read_space({"optimizer.name": {"choice": names}, "model.depth": {"int": [1, 2]}})
    rows = [{"curve": [0.01 * n], "params": {"optimizer.name": names[n % 6], "model.depth": 1}} for n in range(12)]
    drawn = svgs(searched(*rows, total=1, space=space))
    assert "optimizers" in drawn
    for svg in drawn.values():
        assert svg.startswith("<svg") and "script" not in svg and "frac" not in svg and "-->" not in svg


def test_columns_of_earlier_searches_are_no_hyperparameters():
    trials = searched({"curve": [0.1]}).trials.assign(source="other#1", source_number=3)
    assert {"source", "source_number", "number"}.isdisjoint(hyperparameters(trials))
