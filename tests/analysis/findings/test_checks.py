"""Checks of a search: their numbers by hand, and every advised command given to the search's own parser."""

import math
import random
import shlex
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from scipy import stats

from analysis.findings import checks as module
from analysis.findings.checks import Check, checks
from analysis.reading.files import base_config
from analysis.reading.results import SearchResults, find_best, load_search
from analysis.reading.tables import epochs_table, trials_table
from search.command_line import parse
from search.config import load_config
from search.plan import Plan, plan_search
from training.loop import EpochResult

CONFIG = Path(__file__).parents[3] / "configs" / "cifar10.yaml"
DEFAULTS = {
    "model.depth": 4,
    "model.width": 16,
    "model.kernel_size": 5,
    "model.stride": 1,
    "model.padding": "same",
    "model.pooling": "max",
    "model.batch_norm": True,
    "model.activation": "relu",
    "model.dropout": 0.2,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": 0.05,
    "optimizer.momentum": 0.9,
    "optimizer.weight_decay": 5e-4,
    "train.batch_size": 128,
    "train.label_smoothing": 0.1,
}
EPOCHS = 9
START = datetime(2030, 1, 1)
EDGE, ENOUGH, STOPPING, TRAINED, DIVERGED, INFEASIBLE, WINNER = (
    "Is the best trial at an edge of the space?",
    "Were enough trials trained?",
    "Was early stopping too hard?",
    "Were the epochs enough?",
    "Did trials diverge or fail?",
    "Were proposals wasted on impossible networks?",
    "Is the winner better than the runner-up?",
)


def a_trial(
    accuracies: list[float] | float = (),  # type: ignore[assignment]
    state: TrialState = TrialState.COMPLETE,
    stopped_by: str | None = None,
    reason: str | None = None,
    source: str | None = None,
    **params: Any,
) -> FrozenTrial:
    """A trial with these val accuracies by epoch (one number: of all epochs); `__` stands for the dot of a path."""
    if isinstance(accuracies, float):
        accuracies = [accuracies * epoch / EPOCHS for epoch in range(1, EPOCHS)] + [accuracies]
    given_params = {path.replace("__", "."): value for path, value in params.items()}
    attrs = {"stopped_by": stopped_by, "reason": reason, "source": source}
    return FrozenTrial(
        number=-1,
        state=state,
        value=[0.1, *accuracies][-1] if state == TrialState.COMPLETE else None,
        datetime_start=START,
        datetime_complete=None if state == TrialState.RUNNING else START,
        params={path: value for path, value in (DEFAULTS | given_params).items() if value is not None},
        distributions={},
        user_attrs={key: value for key, value in attrs.items() if value is not None},
        system_attrs={},
        intermediate_values=dict(enumerate(accuracies, start=1)),
        trial_id=-1,
    )


def stopped(accuracy: float = 0.3, stopped_by: str = "asha", **params: Any) -> FrozenTrial:
    return a_trial([accuracy], TrialState.PRUNED, stopped_by=stopped_by, **params)


def infeasible(reason: str = "impossible network: conv3", **params: Any) -> FrozenTrial:
    return a_trial([], TrialState.PRUNED, stopped_by="infeasible", reason=reason, **params)


def curve(val_loss: list[float], train_loss: list[float], val: list[float], train: float) -> dict[int, EpochResult]:
    rows = zip(val_loss, train_loss, val, strict=True)
    return {
        epoch: EpochResult(
            epoch=epoch,
            train_loss=train_loss,
            train_accuracy=train,
            val_loss=val_loss,
            val_accuracy=accuracy,
            learning_rate=0.1,
            epoch_seconds=1.0,
            finished_at=f"2030-01-01T00:00:{epoch:02d}+00:00",
            images_per_second=1.0,
        )
        for epoch, (val_loss, train_loss, accuracy) in enumerate(rows, start=1)
    }


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A function that makes the results of a search as configs/cifar10.yaml describes it, in a hard-to-quote place."""
    monkeypatch.chdir(tmp_path)

    def make_results(
        trials: list[FrozenTrial],
        changes: Mapping[str, Any] | None = None,
        curves: Mapping[int, dict[int, EpochResult]] | None = None,
        sources: bool = False,
    ) -> SearchResults:
        run = tmp_path / f"it's a $run {len(list(tmp_path.iterdir()))}"
        run.mkdir()
        search = load_config(CONFIG, {"data.data_dir": str(tmp_path), **(changes or {})})
        (run / "search.yaml").write_text(search.to_yaml())
        storage = JournalStorage(JournalFileBackend(str(run / "study.journal")))
        optuna.create_study(storage=storage, study_name="any", direction="maximize")
        for number, trial in enumerate(trials):
            trial.number = number
            trial.datetime_start = START + timedelta(minutes=number)
            if trial.datetime_complete is not None:
                trial.datetime_complete = START + timedelta(minutes=number + 1)
        settings = yaml.safe_load((run / "search.yaml").read_text())
        curves = curves or {}
        own = [trial for trial in trials if "source" not in trial.user_attrs]
        return SearchResults(
            run=run,
            config=base_config(settings, run),
            settings=settings,
            space=settings["space"],
            notice=None,
            environment=[],
            trials=trials_table(trials, curves, settings["space"], sources),
            epochs=epochs_table(trials, curves),
            best_trial=find_best(run, own, curves),
            params={trial.number: dict(trial.params) for trial in trials},
        )

    return make_results


def check_of(results: SearchResults, name: str, **options: Any) -> Check:
    return {check.name: check for check in checks(results, **options)}[name]


def plan_of(check: Check) -> Plan:
    """What the search makes of an advised command. Raises where it is not accepted."""
    assert check.command is not None
    python, program, *arguments = shlex.split(check.command)
    assert (python, program) == ("python", "run_search.py")
    return plan_search(parse(arguments))


def space_entry(plan: Plan, path: str) -> Any:
    entry = plan.config.space[path]
    return entry.choice or entry.integer or entry.real


# --- 1. edges -------------------------------------------------------------------------------------------------------


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
    check = check_of(results, EDGE)
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


@pytest.mark.parametrize(
    ("params", "changes", "obstacle"),
    [
        ({"model.dropout": 0.0}, {}, "model.dropout (low end 0; no value beyond is legal)"),
        ({"model.stride": 1}, {"space.model.stride": {"choice": [1, 2, 3]}}, "stride (low end 1; no value beyond"),
        ({"model.width": 32}, {}, "model.width (high end 32; beyond it the network exceeds search.max_multiply_adds)"),
        ({"model.depth": 5}, {}, "model.depth (high end 5; beyond it the network is impossible)"),
    ],
)  # fmt: skip
def test_an_end_beyond_which_nothing_is_possible_is_no_fault_of_the_space(make, params, changes, obstacle):
    keys = {path.replace(".", "__"): value for path, value in params.items()}
    check = check_of(make([a_trial(0.8 - number / 1000, **keys) for number in range(5)], changes), EDGE)
    assert check.verdict == "fine" and check.command is None
    assert obstacle in check.finding


def test_several_edges_make_one_command(make):
    keys = {"optimizer__learning_rate": 0.5, "train__batch_size": 32, "model__dropout": 0.5}
    plan = plan_of(check_of(make([a_trial(0.8, **keys) for _ in range(5)]), EDGE))
    assert space_entry(plan, "optimizer.learning_rate") == (0.0005, 5.0)
    assert space_entry(plan, "train.batch_size") == (16, 32, 64, 128, 256)
    assert space_entry(plan, "model.dropout") == (0.0, 0.667)


def test_conditions_and_values_per_layer_stay_as_they_are(make):
    changes = {"space.model.kernel_size": {"choice": [3, 5, 7], "per_layer": True}, "search.max_multiply_adds": None}
    layers = {f"model__kernel_size__{layer}": 3 for layer in range(4)} | {"model__kernel_size": None}
    best = [a_trial(0.8, **(layers | {"model__kernel_size__1": 7}), optimizer__momentum=0.98) for _ in range(5)]
    check = check_of(make(best, changes), EDGE)
    assert "model.kernel_size.1 (high end 7; 5 of 5)" in check.finding
    entries = plan_of(check).config.space
    assert entries["model.kernel_size"].per_layer and entries["model.kernel_size"].choice == (1, 3, 5, 7, 9)
    assert entries["optimizer.momentum"].when == {"optimizer.name": ("sgd", "rmsprop")}


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
    check = check_of(make(trials, {"space.train.batch_size": {"choice": [64, 128]}}), EDGE)
    assert check.verdict == "fine" and "batch_size" not in check.finding


def test_the_best_trial_itself_has_to_be_at_the_edge(make):
    trials = [a_trial(0.9), *(a_trial(0.8, optimizer__learning_rate=0.5) for _ in range(4))]
    assert check_of(make(trials), EDGE).verdict == "fine"


def test_only_the_five_best_of_equal_epochs_are_looked_at(make):
    high = {"optimizer__learning_rate": 0.5}
    trials = [a_trial(0.8), a_trial(0.8), a_trial(0.8, **high), a_trial(0.79, **high), a_trial(0.7, **high)]
    results = make([a_trial(0.85, **high), *trials, *(stopped(0.99) for _ in range(9))])
    # Of the five best, 0.85 to 0.79, three are at the high end; the trials stopped after one epoch do not count.
    assert "optimizer.learning_rate (high end 0.5; 3 of 5)" in check_of(results, EDGE).finding


@given(count=st.integers(0, 6), trials=st.integers(0, 6), chance=st.floats(0.01, 0.99))
def test_the_binomial_tail_is_scipys(count: int, trials: int, chance: float):
    expected = stats.binom.sf(count - 1, trials, chance)
    assert module.at_least(count, trials, chance) == pytest.approx(expected, abs=1e-12)


@given(low=st.floats(1e-6, 1.0), factor=st.floats(1.5, 1e4), log=st.booleans(), is_high=st.booleans())
def test_further_bounds_lie_beyond_the_end_the_furthest_first(low: float, factor: float, log: bool, is_high: bool):
    entry = {"float": [low, low * factor], "log": log}
    found = list(module.further_bounds(entry, is_high))
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
    ends = module.ends_of(entry)
    assert ends is not None
    assert (module.is_near(value, ends, False), module.is_near(value, ends, True)) == (low, high)


@pytest.mark.parametrize(
    "entry", [{"choice": [True, False]}, {"choice": ["same", 1]}, {"choice": [3]}, {"int": [3, 3]}, None]
)
def test_what_has_no_order_has_no_ends(entry):
    assert module.ends_of(entry) is None


# --- 2. enough trials -----------------------------------------------------------------------------------------------


def test_a_best_trial_that_came_late_asks_for_more_trials(make):
    trials = [a_trial(0.7), *(stopped() for _ in range(48)), a_trial(0.8)]
    results = make(trials)
    check = check_of(results, ENOUGH)
    assert check.verdict == "act"
    assert (
        "1 of 2 trials with 9 epochs is within 1 point of the best, trial 49, the 50th of 50 trained" in check.finding
    )
    assert "The last third of the epochs spent brought +10.00 points" in check.finding
    plan = plan_of(check)
    assert plan.resume and plan.run.path == results.run and plan.config.search.num_samples == 100


def test_a_full_good_region_found_early_is_enough(make):
    trials = [a_trial(0.8 - number * 0.0025) for number in range(6)] + [stopped() for _ in range(50)]
    check = check_of(make(trials), ENOUGH)
    assert check.verdict == "fine" and check.command is None
    assert "5 of 6 trials" in check.finding  # 0.8 - 5 * 0.0025 is further than a point
    assert "+0.00 points" in check.finding


def test_a_thin_good_region_is_worth_a_look(make):
    trials = [a_trial(0.8), a_trial(0.795), *(stopped() for _ in range(48))]
    check = check_of(make(trials), ENOUGH)
    assert check.verdict == "look"
    assert plan_of(check).config.search.num_samples == 100


def test_where_time_ended_the_search_more_time_is_advised(make):
    trials = [a_trial(0.8), *(stopped() for _ in range(9))]
    check = check_of(make(trials, {"search.num_samples": None, "search.time_budget": "40m"}), ENOUGH)
    search = plan_of(check).config.search
    assert (search.num_samples, search.time_budget) == (None, "40m")
    assert "--time-budget 40m" in str(check.command)


def test_where_trials_are_left_the_search_goes_on_as_it_is(make):
    results = make([a_trial(0.8), *(stopped() for _ in range(9)), infeasible()], {"search.time_budget": "40m"})
    check = check_of(results, ENOUGH)
    assert "10 of 50 trials" in check.advice
    assert check.command == f"python run_search.py --resume {shlex.quote(str(results.run))}"
    assert plan_of(check).resume


def test_a_search_that_is_going_is_not_judged(make):
    trials = [a_trial(0.8), *(stopped() for _ in range(9)), a_trial([0.1], TrialState.RUNNING)]
    check = check_of(make(trials), ENOUGH)
    assert check.verdict == "unknown" and "1 trial is RUNNING" in check.finding
    assert plan_of(check).resume


def test_trials_taken_over_from_an_earlier_search_do_not_count(make):
    trials = [a_trial(0.8), *(a_trial(0.8, source="earlier#1") for _ in range(9)), *(stopped() for _ in range(9))]
    check = check_of(make(trials, sources=True), ENOUGH)
    assert "1 of 1 trial with 9 epochs is within" in check.finding and "the 1st of 10 trained" in check.finding


# --- 3. early stopping ----------------------------------------------------------------------------------------------


def crossing(first: list[float], last: list[float]) -> list[FrozenTrial]:
    return [a_trial([start, *[0.3] * 7, end]) for start, end in zip(first, last, strict=True)]


def test_curves_that_cross_say_that_stopping_was_hard(make):
    first, last = [0.5, 0.4, 0.3, 0.2, 0.1, 0.35], [0.6, 0.7, 0.72, 0.74, 0.8, 0.75]
    results = make([*crossing(first, last), *(stopped(0.15) for _ in range(14))])
    check = check_of(results, STOPPING)
    assert check.verdict == "look"
    assert "14 of 20 trials (70 %) were stopped at the first rung, after 1 epoch; 6 trained all epochs" in check.finding
    correlation = stats.spearmanr(first, last).statistic
    assert "Among 6 trials trained all epochs, the rank correlation" in check.finding
    assert f"is {correlation:.2f} (Spearman" in check.finding
    assert "biased" in check.finding
    assert "The best trial was 20th of 20 at the first rung" in check.finding
    assert check.command == f"python run_search.py --audit {shlex.quote(str(results.run))} --trials 14"


def test_curves_that_keep_their_order_say_that_it_was_not(make):
    first = [0.1, 0.2, 0.3, 0.4, 0.5]
    check = check_of(make([*crossing(first, first), *(stopped(0.05) for _ in range(30))]), STOPPING)
    assert check.verdict == "fine" and "is 1.00 (Spearman" in check.finding and "was 1st of 35" in check.finding
    assert str(check.command).endswith("--trials 20")


def test_a_winner_from_far_down_the_first_rung_is_a_sign_though_ranks_correlate(make):
    first = [0.1, 0.12, 0.13, 0.14, 0.15]
    check = check_of(make([*crossing(first, first), *(stopped(0.3) for _ in range(10))]), STOPPING)
    assert check.verdict == "look" and "was 11th of 15" in check.finding


def test_few_or_equal_complete_trials_say_nothing_of_stopping(make):
    for trials in (crossing([0.1] * 4, [0.2, 0.3, 0.4, 0.5]), crossing([0.1] * 6, [0.3] * 6)):
        check = check_of(make([*trials, stopped()]), STOPPING)
        assert check.verdict == "unknown" and "--audit" in str(check.command)


def test_an_audit_says_more(make):
    check = check_of(make([a_trial(0.8), stopped()]), STOPPING, audited=True)
    assert check.verdict == "look" and check.command is None and "audit" in check.finding


@pytest.mark.parametrize("changes", [{"scheduler.name": "none"}, {"scheduler.grace_epochs": 9}])
def test_without_rungs_nothing_was_stopped(make, changes):
    check = check_of(make([a_trial(0.8)], changes), STOPPING)
    assert check.verdict == "fine" and check.command is None


# --- 4. epochs ------------------------------------------------------------------------------------------------------

FALLING = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
LEVELLED = [0.3, 0.5, 0.6, 0.7, 0.75, 0.78, 0.8, 0.801, 0.802]
STILL_RISING = [0.3, 0.5, 0.6, 0.65, 0.7, 0.72, 0.74, 0.76, 0.78]
OVERFITTING = [1.0, 0.8, 0.6, 0.5, 0.5, 0.51, 0.52, 0.53, 0.54]
FALLEN = [0.3, 0.5, 0.6, 0.7, 0.81, 0.8, 0.79, 0.79, 0.78]


@pytest.mark.parametrize(
    ("val_loss", "val", "train", "verdict", "says"),
    [
        (FALLING, STILL_RISING, 0.80, "act", "gained +4.00 points"),
        (FALLING, STILL_RISING, 0.80, "act", "has not fitted its training images"),
        (FALLING, STILL_RISING, 0.95, "look", "is then +17.00 points against val accuracy"),
        (FALLING, LEVELLED, 0.80, "fine", "gained +0.20 points"),
        (OVERFITTING, LEVELLED, 0.99, "look", "Val loss rose from 0.5 in epoch 4 to 0.54"),
        (OVERFITTING, FALLEN, 0.99, "act", "Val accuracy ended −3.00 points from its highest"),
    ],
)
def test_the_best_curve_tells_whether_training_was_long_enough(make, val_loss, val, train, verdict, says):
    results = make([a_trial(val)], curves={0: curve(val_loss, FALLING, val, train)})
    check = check_of(results, TRAINED)
    assert check.verdict == verdict
    assert says in check.finding


def test_a_rise_within_five_per_cent_is_no_overfitting(make):
    val_loss = [*OVERFITTING[:4], 0.5, 0.5, 0.5, 0.5, 0.524]
    results = make([a_trial(LEVELLED)], curves={0: curve(val_loss, FALLING, LEVELLED, 0.99)})
    assert check_of(results, TRAINED).verdict == "fine"


def test_twice_the_epochs_are_a_new_search(make):
    results = make([a_trial(STILL_RISING)], curves={0: curve(FALLING, FALLING, STILL_RISING, 0.8)})
    plan = plan_of(check_of(results, TRAINED))
    assert not plan.resume
    assert plan.config.train.epochs == 18
    assert plan.config.search.warm_start == (str(results.run),)


def test_overfitting_asks_for_the_regularisers_that_the_space_lacks(make):
    curves = {0: curve(OVERFITTING, FALLING, FALLEN, 0.99)}
    with_two = make([a_trial(FALLEN)], curves=curves)
    plan = plan_of(check_of(with_two, TRAINED))
    assert space_entry(plan, "data.cutout") == (0, 8)
    bare = {"space": {"optimizer.learning_rate": {"float": [0.01, 0.1], "log": True}}, "model.dropout": 0.1}
    plan = plan_of(check_of(make([a_trial(FALLEN)], bare, curves), TRAINED))
    assert space_entry(plan, "model.dropout") == (0.0, 0.5)
    assert space_entry(plan, "train.label_smoothing") == (0.0, 0.2)
    everything = make([a_trial(FALLEN)], {"space.data.cutout": {"choice": [0, 8]}}, curves)
    check = check_of(everything, TRAINED)
    assert check.command is None and "fewer epochs" in check.advice


def test_curves_that_are_not_recorded_say_nothing(make):
    check = check_of(make([a_trial(0.8)]), TRAINED)  # the journal alone: no losses
    assert check.verdict == "unknown" and "losses are not all recorded" in check.finding
    assert check_of(make([a_trial([0.1, 0.2])], {"train.epochs": 2}), TRAINED).verdict == "unknown"


def test_a_val_loss_of_zero_is_survived(make):
    results = make([a_trial(LEVELLED)], curves={0: curve([0.0] * 8 + [0.1], FALLING, LEVELLED, 1.0)})
    assert "rose from 0 in epoch 1 to 0.1" in check_of(results, TRAINED).finding


# --- 5. diverged and failed -----------------------------------------------------------------------------------------


def diverged(rate: float) -> FrozenTrial:
    return stopped(0.1, "diverged", optimizer__learning_rate=rate)


def test_trials_that_diverge_at_high_learning_rates_ask_for_a_narrower_range(make):
    good = [a_trial(0.8, optimizer__learning_rate=rate) for rate in (0.01, 0.05, 0.1, 0.001)]
    results = make([*good, diverged(0.4), diverged(0.5), diverged(0.002)])
    check = check_of(results, DIVERGED)
    # J = 2/3 - 0 at 0.4; 2/3 at 0.5 less one: 1/3; all three from 0.002 on, but so are three of the four others: 1/4.
    assert "3 of 7 trials diverged and 0 failed (43 %)" in check.finding
    assert "At learning rates of 0.4 and more lie 2 of the 3 that diverged and 0 of the 4 others" in check.finding
    assert check.verdict == "act"
    assert space_entry(plan_of(check), "optimizer.learning_rate") == (
        0.0005,
        0.2,
    )  # half-way from 0.1 to 0.4 on a log scale


def test_a_narrower_range_never_leaves_out_the_best_trial_or_the_defaults(make):
    good = [a_trial(0.7, optimizer__learning_rate=rate) for rate in (0.05, 0.06, 0.07)]
    high = [a_trial(0.8, optimizer__learning_rate=0.45), *good, *map(diverged, (0.2, 0.4, 0.41))]
    check = check_of(make(high), DIVERGED)
    assert "0.2 and more lie 3 of the 3 that diverged and 1 of the 4 others" in check.finding
    assert check.command is None
    low = [a_trial(0.8, optimizer__learning_rate=0.001), *map(diverged, (0.02, 0.03, 0.04))]  # the defaults have 0.05
    check = check_of(make(low), DIVERGED)
    assert "0.02 and more lie 3 of the 3" in check.finding
    assert check.command is None


def test_divergence_without_a_pattern_or_a_drawn_rate_is_only_said(make):
    mixed = make([a_trial(0.8, optimizer__learning_rate=0.4), diverged(0.01), stopped()])
    check = check_of(mixed, DIVERGED)
    assert check.command is None and "No learning rate separates" in check.finding
    fixed = make([a_trial(0.8, optimizer__learning_rate=None), stopped(0.1, "diverged", optimizer__learning_rate=None)])
    assert "cannot be told" in check_of(fixed, DIVERGED).finding


def test_failed_trials_are_counted_with_their_commonest_reason(make):
    reasons = ["Traceback\n  ...\nRuntimeError: out of memory: 512 MiB", "RuntimeError: out of memory: 9 MiB", None]
    failed = [a_trial([0.1], TrialState.FAIL, reason=reason) for reason in reasons]
    check = check_of(make([a_trial(0.8), *(stopped() for _ in range(26)), *failed]), DIVERGED)
    assert check.verdict == "look"
    assert "0 of 30 trials diverged and 3 failed (10 %)" in check.finding
    assert "2 of the 3 that failed like this: RuntimeError: out of memory: 512 MiB." in check.finding
    assert check_of(make([a_trial([0.1], TrialState.FAIL)]), DIVERGED).verdict == "act"


def test_a_search_without_either_is_fine(make):
    check = check_of(make([a_trial(0.8), stopped(), infeasible()]), DIVERGED)
    assert check.verdict == "fine" and "0 of 2 trials" in check.finding


# --- 6. infeasible --------------------------------------------------------------------------------------------------


def test_a_bound_that_refuses_most_proposals_is_named(make):
    reasons = [f"multiply_adds {cost},000,000 > search.max_multiply_adds 12,000,000" for cost in (14, 20, 31)]
    results = make([a_trial(0.8), *map(infeasible, reasons), infeasible("impossible network: conv3: a kernel")])
    check = check_of(results, INFEASIBLE)
    assert check.verdict == "act"
    assert "4 of 5 proposals (80 %) were infeasible, 3 of them like this: multiply_adds 14,000,000" in check.finding
    assert plan_of(check).config.search.max_multiply_adds == 24_000_000


def test_a_depth_at_which_most_networks_are_impossible_is_left_out(make):
    trials = [a_trial(0.8), stopped(), stopped(model__depth=5), infeasible(model__depth=5), infeasible(model__depth=5)]
    check = check_of(make(trials), INFEASIBLE)
    assert check.verdict == "look"  # 2 of 5
    assert space_entry(plan_of(check), "model.depth") == (2, 4)


def test_the_depth_of_the_best_trial_stays(make):
    trials = [a_trial(0.8, model__depth=5), infeasible(model__depth=5), infeasible(model__depth=5)]
    check = check_of(make(trials), INFEASIBLE)
    assert check.verdict == "act" and check.command is None


def test_few_infeasible_proposals_are_fine(make):
    check = check_of(make([a_trial(0.8), *(stopped() for _ in range(8)), infeasible()]), INFEASIBLE)
    assert check.verdict == "fine" and "1 of 10 proposals (10 %)" in check.finding


# --- 7. the winner --------------------------------------------------------------------------------------------------


def test_the_lead_is_measured_in_standard_errors(make):
    results = make([a_trial(0.8), a_trial(0.79), a_trial(0.7), stopped(0.795)])
    check = check_of(results, WINNER, n_val=10_000)
    error = math.sqrt((0.8 * 0.2 + 0.79 * 0.21) / 10_000)  # 0.0057: the lead of a point is 1.75 of it
    assert f"standard error is {100 * error:.2f} points (n = 10,000 val images" in check.finding
    assert "Trial 0 leads trial 1 by +1.00 points after 9 epochs each" in check.finding
    assert "1 of the 2 others is within 1.96 standard errors" in check.finding
    assert check.verdict == "look"
    assert check.command == f"python run_search.py --confirm {shlex.quote(str(results.run))}"
    clear = check_of(results, WINNER, n_val=20_000)  # 2.48 standard errors
    assert clear.verdict == "fine" and "0 of the 2 others are within" in clear.finding


def test_ties_are_told_apart_by_nothing(make):
    results = make([a_trial(1.0), a_trial(1.0)])
    check = check_of(results, WINNER, n_val=100)
    assert check.verdict == "look" and "by +0.00 points" in check.finding


def test_without_the_number_of_images_the_winner_is_not_judged(make):
    assert WINNER not in {check.name for check in checks(make([a_trial(0.8), a_trial(0.7)]))}
    assert check_of(make([a_trial(0.8)]), WINNER, n_val=100).verdict == "unknown"


def test_a_confirmation_says_more(make):
    check = check_of(make([a_trial(0.8), a_trial(0.79)]), WINNER, n_val=100, confirmed=True)
    assert check.command is None and "confirmation" in check.finding


# --- the whole ------------------------------------------------------------------------------------------------------


def assert_sound(found: list[Check]) -> None:
    """Sorted, finished sentences, no NaN; every command is accepted (retraining itself needs a real journal)."""
    order = [module.VERDICTS.index(check.verdict) for check in found]
    assert order == sorted(order)
    for check in found:
        for text in (check.name, check.finding, check.advice):
            assert text and "nan" not in text.lower().split() and "inf" not in text.lower().split()
            assert "None" not in text
        assert check.finding.endswith(".") and check.advice.endswith(".")
        assert ".." not in check.finding and "  " not in check.finding
        if check.command and ("--audit" in check.command or "--confirm" in check.command):
            parse(shlex.split(check.command)[2:])
        elif check.command:
            plan_of(check)


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [a_trial(0.8)],
        [a_trial([], TrialState.RUNNING)],
        [a_trial([0.1, 0.2], TrialState.RUNNING), a_trial([], TrialState.RUNNING)],
        [a_trial([], TrialState.FAIL, reason="<script>alert(1)</script> $\\frac{"), a_trial([], TrialState.FAIL)],
        [stopped(0.1, "diverged"), stopped(0.1, "diverged")],
        [infeasible(), infeasible(reason="")],
        [a_trial([], TrialState.PRUNED, stopped_by="time_budget", reason="the time was over")],
        [a_trial(0.8), a_trial(0.8), a_trial(0.8), stopped(0.8)],
        [a_trial([]), a_trial(0.0)],
    ],
)
def test_small_broken_and_unfinished_searches_are_survived(make, trials):
    found = checks(make(trials), n_val=100)
    assert len(found) == 7
    assert_sound(found)
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        verdicts = {check.name: check.verdict for check in found}
        assert verdicts[EDGE] == verdicts[ENOUGH] == verdicts[TRAINED] == verdicts[WINNER] == "unknown"


def test_settings_that_are_missing_are_survived(make):
    results = make([a_trial(0.8), stopped()])
    results.settings.update(search=None, scheduler={"grace_epochs": "many"})
    assert len(checks(results, n_val=100)) == 7


def test_what_needs_action_comes_first(make):
    trials = [a_trial(0.8, optimizer__learning_rate=0.5) for _ in range(6)] + [stopped() for _ in range(44)]
    found = checks(make(trials), n_val=12_500)
    assert (found[0].name, found[0].verdict) == (EDGE, "act")
    assert_sound(found)


@pytest.mark.parametrize("seed", range(3))
def test_a_large_search_of_every_ending_is_survived(make, seed):
    rng = random.Random(seed)

    def any_trial() -> FrozenTrial:
        params = {
            "optimizer.learning_rate": 10 ** rng.uniform(-3.3, -0.3),
            "optimizer.momentum": rng.choice([None, rng.uniform(0.8, 0.99)]),
            "model.width": rng.choice([8, 16, 24, 32]),
            "model.depth": rng.randint(2, 5),
        }
        keys = {path.replace(".", "__"): value for path, value in params.items()}
        return rng.choice(
            [
                lambda: a_trial(round(rng.uniform(0.1, 0.9), 2), **keys),
                lambda: stopped(rng.random(), **keys),
                lambda: a_trial([rng.random() for _ in range(3)], TrialState.PRUNED, stopped_by="asha", **keys),
                lambda: stopped(0.1, "diverged", **keys),
                lambda: a_trial([], TrialState.FAIL, reason="lost", **keys),
                lambda: infeasible(**keys),
                lambda: a_trial([0.2], TrialState.RUNNING, **keys),
            ]
        )()

    found = checks(make([a_trial(0.5), *(any_trial() for _ in range(1000))]), n_val=12_500)
    assert len(found) == 7
    assert_sound(found)


def test_a_run_directory_is_checked(search_run, monkeypatch):
    monkeypatch.chdir(search_run.path.parent)
    found = checks(load_search(search_run.path), n_val=100)
    assert len(found) == 7
    assert_sound(found)
    by_name = {check.name: check for check in found}
    assert "1 of 4 proposals (25 %) were infeasible" in by_name[INFEASIBLE].finding
    assert "1 of 3 trials (33 %) were stopped at the first rung" in by_name[STOPPING].finding
