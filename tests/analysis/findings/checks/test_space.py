"""Whether the space is right: ends at which the best trials gather, wider spaces, wasted proposals."""

from dataclasses import replace

import pytest
from checked_searches import DEFAULTS, a_trial, infeasible, plan_of, space_entry, stopped
from hypothesis import given
from hypothesis import strategies as st

from analysis.findings.checks.space import check_edges, check_infeasible, ends_of, further_bounds, num_classes
from analysis.reading.results import load_search
from search.config import load_config
from search.space import SpaceEntry


@pytest.mark.parametrize(
    ("path", "value", "changes", "expected"),
    [
        ("optimizer.learning_rate", 0.4, {}, (0.0005, 5.0)),  # a third of three decades further
        ("optimizer.learning_rate", 0.0006, {}, (0.00005, 0.5)),
        ("model.dropout", 0.48, {}, (0.0, 0.667)),
        ("train.label_smoothing", 0.19, {}, (0.0, 0.267)),
        ("optimizer.momentum", 0.985, {}, (0.8, 0.998)),  # 1 and more is not legal: a 24th of the range further
        ("optimizer.momentum", 0.81, {}, (0.737, 0.99)),
        ("train.batch_size", 256, {}, (32, 64, 128, 256, 512)),  # doubles
        ("train.batch_size", 32, {}, (16, 32, 64, 128, 256)),
        ("model.width", 32, {"search.max_multiply_adds": None}, (8, 16, 24, 32, 40)),  # steps of 8
        ("model.kernel_size", 7, {"search.max_multiply_adds": None}, (3, 5, 7, 9)),  # odd, for padding same
        ("model.depth", 2, {}, (1, 5)),
        ("model.depth", 6, {"data.image_size": 256, "space.model.depth": {"int": [2, 6], "step": 2}}, (2, 8)),
        ("train.batch_size", 300, {"space.train.batch_size": {"int": [20, 300], "log": True}}, (20, 740)),
    ],
)
def test_where_the_best_trials_gather_at_an_end_a_wider_legal_space_is_advised(make, path, value, changes, expected):
    if path == "model.depth":
        changes = {**changes, "search.max_multiply_adds": None}
    best = [a_trial(0.8 - number / 1000, **{path.replace(".", "__"): value}) for number in range(4)]
    results = make([*best, a_trial(0.7), a_trial(0.5)], changes)
    check = check_edges(results)
    assert check.verdict == "act"
    assert f"{path} ({'high' if value > DEFAULTS[path] else 'low'} end" in check.finding
    assert "4 of 5" in check.finding
    plan = plan_of(check)
    assert not plan.resume
    assert space_entry(plan, path) == expected
    assert plan.config.search.warm_start == (str(results.run),)
    unchanged = {name: entry for name, entry in load_config(results.run / "search.yaml").space.items() if name != path}
    assert {name: entry for name, entry in plan.config.space.items() if name != path} == unchanged
    assert plan.config.base == load_config(results.run / "search.yaml").base


STAGES = {"space.model.layers_per_stage": {"int": [1, 4]}}  # of networks of four layers


@pytest.mark.parametrize(
    ("params", "changes", "obstacle"),
    [
        ({"model.dropout": 0.0}, {}, "model.dropout (low end 0; no value beyond is legal)"),
        ({"model.stride": 1}, {"space.model.stride": {"choice": [1, 2, 3]}}, "stride (low end 1; no value beyond"),
        ({"model.width": 32}, {}, "model.width (high end 32; beyond it the network exceeds search.max_multiply_adds)"),
        ({"model.depth": 5}, {}, "model.depth (high end 5; beyond it the network is impossible)"),
        ({"model.layers_per_stage": 4}, STAGES, "layers_per_stage (high end 4; beyond it nothing changes)"),
        ({"model.layers_per_stage": 1}, STAGES, "layers_per_stage (low end 1; no value beyond is legal)"),
    ],
)  # fmt: skip
def test_an_end_beyond_which_nothing_is_possible_is_no_fault_of_the_space(make, params, changes, obstacle):
    keys = {path.replace(".", "__"): value for path, value in params.items()}
    check = check_edges(make([a_trial(0.8 - number / 1000, **keys) for number in range(5)], changes))
    assert check.verdict == "fine" and check.command is None
    assert obstacle in check.finding


def test_conditions_and_values_per_layer_stay_as_they_are(make):
    changes = {"space.model.kernel_size": {"choice": [3, 5, 7], "per_layer": True}, "search.max_multiply_adds": None}
    layers = {f"model__kernel_size__{layer}": 3 for layer in range(4)} | {"model__kernel_size": None}
    best = [a_trial(0.8, **(layers | {"model__kernel_size__1": 7}), optimizer__momentum=0.98) for _ in range(5)]
    check = check_edges(make(best, changes))
    assert "model.kernel_size.1 (high end 7; 5 of 5)" in check.finding
    entries = plan_of(check).config.space
    assert entries["model.kernel_size"].per_layer and entries["model.kernel_size"].choice == (1, 3, 5, 7, 9)
    assert entries["optimizer.momentum"].when == {"optimizer.name": ("sgd", "rmsprop")}


def test_the_options_of_stages_and_muon_are_widened_as_others_are(make):
    for_muon = {"optimizer.name": "muon"}
    changes = {
        "search.max_multiply_adds": None,
        "space.model.layers_per_stage": {"int": [1, 3]},
        "space.model.residual": {"choice": [True, False], "when": {"model.layers_per_stage": [2, 3]}},
        "space.optimizer.name": {"choice": ["sgd", "rmsprop", "muon"]},
        "space.optimizer.other_learning_rate": {"float": [0.01, 0.1], "log": True, "when": for_muon},
    }
    stages = {"model__depth": 4, "model__layers_per_stage": 3, "model__residual": True}
    muon = {"optimizer__name": "muon", "optimizer__momentum": None, "optimizer__other_learning_rate": 0.1}
    plan = plan_of(check_edges(make([a_trial(0.8, **stages, **muon) for _ in range(5)], changes)))
    assert space_entry(plan, "model.layers_per_stage") == (1, 4)
    assert space_entry(plan, "optimizer.other_learning_rate") == (0.01, 0.215)  # a third of a decade further
    assert plan.config.space["optimizer.other_learning_rate"].when == for_muon
    assert "model.residual" not in str(check_edges(make([a_trial(0.8, **stages) for _ in range(5)], changes)).command)


@pytest.mark.parametrize(
    "num_at_end, others",
    [
        (2, 3),  # fewer than half
        (3, 2),  # of two choices chance puts 3 of 5 at one end every other time
    ],
)
def test_what_chance_explains_is_no_edge(make, num_at_end, others):
    trials = [a_trial(0.8, train__batch_size=64) for _ in range(num_at_end)]
    trials += [a_trial(0.7, train__batch_size=128) for _ in range(others)]
    changes = {"train.batch_size": 64, "space.train.batch_size": {"choice": [64, 128]}}
    check = check_edges(make(trials, changes))
    assert check.verdict == "fine" and "batch_size" not in check.finding


def test_the_best_trial_itself_has_to_be_at_the_edge(make):
    trials = [a_trial(0.9), *(a_trial(0.8, optimizer__learning_rate=0.5) for _ in range(4))]
    assert check_edges(make(trials)).verdict == "fine"


def test_only_the_five_best_of_equal_epochs_are_looked_at(make):
    high = {"optimizer__learning_rate": 0.5}
    trials = [a_trial(0.8), a_trial(0.8), a_trial(0.8, **high), a_trial(0.79, **high), a_trial(0.7, **high)]
    results = make([a_trial(0.85, **high), *trials, *(stopped(0.99) for _ in range(9))])
    # Of the five best, 0.85 to 0.79, three are at the high end; the trials stopped after one epoch do not count.
    assert "optimizer.learning_rate (high end 0.5; 3 of 5)" in check_edges(results).finding


@given(low=st.floats(1e-6, 1.0), factor=st.floats(1.5, 1e4), log=st.booleans(), is_high=st.booleans())
def test_further_bounds_lie_beyond_the_end_the_furthest_first(low: float, factor: float, log: bool, is_high: bool):
    found = list(further_bounds(SpaceEntry.model_validate({"float": [low, low * factor], "log": log}), is_high))
    assert found
    assert found == sorted(found, reverse=is_high)
    assert all(bound > low * factor for bound in found) if is_high else all(bound < low for bound in found)
    assert not log or min(found) > 0


@pytest.mark.parametrize(
    ("entry", "value", "low", "high"),
    [
        ({"float": [0.0, 1.0]}, 0.1, True, False),
        ({"float": [0.0, 1.0]}, 0.11, False, False),
        ({"float": [0.01, 1.0], "log": True}, 0.0158, True, False),  # 10 ** -1.8
        ({"float": [0.01, 1.0], "log": True}, 0.016, False, False),
        ({"float": [0.01, 1.0], "log": True}, 0.64, False, True),
        ({"int": [1, 21]}, 3, True, False),
        ({"int": [1, 21]}, 4, False, False),
        ({"choice": [100, 1, 50]}, 95, False, False),  # of choices only the last one is at the end
        ({"choice": [100, 1, 50]}, 100, False, True),
    ],
)
def test_what_is_near_an_end(entry, value, low, high):
    ends = ends_of(SpaceEntry.model_validate(entry))
    assert ends is not None
    assert (ends.has_near(value, False), ends.has_near(value, True)) == (low, high)


@pytest.mark.parametrize(
    "entry", [{"choice": [True, False]}, {"choice": ["same", 1]}, {"choice": [3]}, {"int": [3, 3]}]
)
def test_what_has_no_order_has_no_ends(entry):
    assert ends_of(SpaceEntry.model_validate(entry)) is None


def test_costs_are_those_of_the_classes_that_the_data_have(make_run, trained):
    run = make_run()
    place = run.checkpoint(run.trial([0.1, 0.2]), trained["defaults"][-1])
    run.edit_meta(place, lambda meta: meta.update(class_names=list("abc")))
    results = load_search(run.path)
    for dataset, expected in (("digits", 10), ("cifar100", 100), ("folder:images", 3)):
        data = results.settings.data.model_copy(update={"dataset": dataset})
        settings = results.settings.model_copy(update={"data": data})
        assert num_classes(replace(results, settings=settings)) == expected


def test_a_bound_that_refuses_most_proposals_is_named(make):
    bounded = [
        infeasible(
            f"multiply_adds {cost},000,000 > search.max_multiply_adds 12,000,000",
            {"kind": "max_multiply_adds", "cost": cost * 10**6, "bound": 12 * 10**6},
        )
        for cost in (14, 20, 31)
    ]
    results = make([a_trial(0.8), *bounded, infeasible("impossible network: conv3: a kernel")])
    check = check_infeasible(results)
    assert check.verdict == "act"
    assert "4 of 5 proposals (80 %) were infeasible, 3 of them like this: multiply_adds 14,000,000" in check.finding
    assert plan_of(check).config.search.max_multiply_adds == 24_000_000


def test_reasons_in_words_alone_are_shown_and_advise_nothing(make):
    """Of journals that are older than recorded kinds."""
    reason = "multiply_adds 14,000,000 > search.max_multiply_adds 12,000,000"
    older = [infeasible(reason, {}), infeasible("multiply_adds 15 > search.max_multiply_adds 12", {})]
    check = check_infeasible(make([a_trial(0.8), *older, infeasible(reason, {})]))
    assert f"3 of 4 proposals (75 %) were infeasible, 2 of them like this: {reason}. They" in check.finding
    assert check.verdict == "act" and check.command is None


def test_a_depth_at_which_most_networks_are_impossible_is_left_out(make):
    trials = [a_trial(0.8), stopped(), stopped(model__depth=5), infeasible(model__depth=5), infeasible(model__depth=5)]
    check = check_infeasible(make(trials))
    assert check.verdict == "look"  # 2 of 5
    assert space_entry(plan_of(check), "model.depth") == (2, 4)


def test_the_depth_of_the_best_trial_stays(make):
    trials = [a_trial(0.8, model__depth=5), infeasible(model__depth=5), infeasible(model__depth=5)]
    check = check_infeasible(make(trials))
    assert check.verdict == "act" and check.command is None


def test_few_infeasible_proposals_are_fine(make):
    check = check_infeasible(make([a_trial(0.8), *(stopped() for _ in range(8)), infeasible()]))
    assert check.verdict == "fine" and "1 of 10 proposals (10 %)" in check.finding
