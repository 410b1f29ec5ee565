"""The comparison of strategies: the simulated search against invariants, its arithmetic by hand."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from curves import FIELDS, curves_of
from hypothesis import given, settings
from hypothesis import strategies as st
from simulate import History, OurStack, PromotingASHA, RayStack, simulate
from strategies import SPACE, epochs_until, incumbents, mean_and_error
from surrogate import Surrogate, active, fit_surrogate

from search.config import SearchConfig, load_config
from search.propose.sampler import Drawing, Encoding

EPOCHS = 9


class KnownSurrogate:
    """Accuracy that follows from the learning rate and the epoch alone; deep networks take longer."""

    epochs = EPOCHS

    def curves(self, params: list[dict[str, Any]]) -> np.ndarray:
        quality = [1 - abs(np.log10(point["optimizer.learning_rate"]) + 2) / 4 for point in params]
        return np.outer(quality, np.arange(1, EPOCHS + 1) / EPOCHS)

    def seconds(self, params: dict[str, Any]) -> float:
        return float(params["model.depth"])

    def observe(self, curve: np.ndarray, rng: np.random.Generator, noise: float = 1.0) -> np.ndarray:
        return curve + noise * rng.normal(0, 0.001, len(curve))


def make_config(**overrides: Any) -> SearchConfig:
    settings = {path.replace("__", "."): value for path, value in overrides.items()}
    return load_config(SPACE, {"search.num_samples": 12, "sampler.name": "random", **settings})


def run(stack: Any, workers: int = 2) -> History:
    return simulate(stack, KnownSurrogate(), seed=0, workers=workers)  # type: ignore[arg-type]


def test_without_early_stopping_every_trial_trains_all_epochs_and_the_best_is_selected() -> None:
    config = make_config(scheduler__name="none")
    stack = OurStack(config, trial_0=True, workers=2)
    history = run(stack)
    trials = stack.searcher.study.trials
    values = [trial.value for trial in trials if trial.value is not None]
    assert (history.num_complete, len(history.selected)) == (12, 12 * EPOCHS)
    assert history.selected[-1] == pytest.approx(max(values), abs=0.01)
    assert trials[0].params == config.search_space.default_params()
    assert sum(trial.intermediate_values != {} for trial in trials) == 12


def test_the_clock_is_that_of_the_workers() -> None:
    alone, four = (run(OurStack(make_config(scheduler__name="none"), True, n), workers=n) for n in (1, 4))
    assert alone.seconds == sorted(alone.seconds) and four.seconds == sorted(four.seconds)
    busy = alone.seconds[-1]  # one worker never waits
    assert busy / 4 <= four.seconds[-1] < busy / 2
    assert busy % 1 == pytest.approx(0)  # every epoch takes its network's depth in seconds


@pytest.mark.parametrize("scheduler", [None, PromotingASHA])
def test_early_stopping_saves_epochs_and_counts_every_trial_once(scheduler: Any) -> None:
    chosen = {} if scheduler is None else {"scheduler": scheduler}
    stack = OurStack(make_config(search__num_samples=30), True, 2, **chosen)
    history = run(stack)
    trained = [trial for trial in stack.searcher.study.trials if trial.intermediate_values]
    assert len(trained) == 30 and all(trial.state.is_finished() for trial in trained)
    assert sum(len(trial.intermediate_values) for trial in trained) == len(history.selected) < 30 * EPOCHS
    assert sum(len(trial.intermediate_values) == EPOCHS for trial in trained) == history.num_complete < 30


def test_promotion_takes_the_best_third_of_a_rung() -> None:
    stack = OurStack(make_config(search__num_samples=30), True, 2, scheduler=PromotingASHA)
    run(stack)
    first_epoch = sorted(
        (trial.intermediate_values[1], len(trial.intermediate_values))
        for trial in stack.searcher.study.trials
        if trial.intermediate_values and trial.number != 0
    )
    assert all(epochs == 1 for _, epochs in first_epoch[:15])  # the worse half is never promoted
    assert all(epochs > 1 for _, epochs in first_epoch[-5:])


def test_what_is_told_to_rays_own_searcher_is_what_ray_tells_it() -> None:
    config = make_config()
    stack = RayStack(config, trial_0=True)
    history = run(stack)
    trials = stack.searcher._ot_study.trials
    trained = [trial for trial in trials if trial.value is not None]
    assert len(trained) == 12 and stack.refused == len(trials) - 12
    assert trained[0].params == config.search_space.default_params()
    assert sum(len(trial.intermediate_values) for trial in trained) <= len(history.selected)


def test_a_surrogate_knows_what_it_was_fitted_to() -> None:
    config = load_config(SPACE)
    space, drawing = config.search_space, Drawing(np.random.default_rng(0))
    known = KnownSurrogate()
    lines = []
    for _ in range(60):
        params = space.suggest(drawing)  # type: ignore[arg-type]
        values = known.curves([params])[0]
        entries = [{"val_accuracy": value, "epoch_seconds": known.seconds(params)} for value in values]
        lines.append({"config": {**params, "optimizer.momentum": params.get("optimizer.momentum")}, "curve": entries})
    lines += [{"config": {}, "infeasible": True}, {"config": {}, "diverged": True, "curve": entries[:2]}]
    surrogate: Surrogate = fit_surrogate(lines, Encoding(space), "trees")
    assert surrogate.epochs == EPOCHS and surrogate.rank_correlation > 0.8
    params = active(lines[0]["config"])
    np.testing.assert_allclose(surrogate.curves([params])[0], known.curves([params])[0], atol=0.01)
    assert surrogate.seconds(params) == pytest.approx(known.seconds(params), rel=0.01)
    curve, rng = surrogate.curves([params])[0], np.random.default_rng(0)
    observed = np.array([surrogate.observe(curve, rng) for _ in range(500)])
    assert observed.std(0).max() > 0 and np.abs(observed.mean(0) - curve).max() < 3 * surrogate.residuals.std()
    np.testing.assert_array_equal(surrogate.observe(curve, rng, noise=0.0), np.clip(curve, 0.05, 1))


def history(*selected: float, seconds: list[float] | None = None) -> History:
    return History(seconds or [float(i + 1) for i in range(len(selected))], list(selected))


def test_arithmetic_by_hand() -> None:
    histories = [history(0.1, 0.3, 0.5), history(0.1, 0.2, 0.2, 0.9, seconds=[2, 4, 6, 8])]
    grid = np.array([0.0, 1.0, 3.0, 9.0])
    np.testing.assert_allclose(
        incumbents(histories, grid, by_seconds=False), [[np.nan, 0.1, 0.5, 0.5], [np.nan, 0.1, 0.2, 0.9]]
    )
    np.testing.assert_allclose(incumbents(histories, grid, by_seconds=True)[1], [np.nan, np.nan, 0.1, 0.9])
    assert [epochs_until(histories, value) for value in (0.1, 0.25, 0.35, 0.7, 0.8)] == [1, 2, 3, 4, None]
    assert mean_and_error([1.0, 3.0]) == (2.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0, 1))
def test_from_the_epoch_found_the_incumbent_stays_at_or_above(selected: list[float], value: float) -> None:
    found = epochs_until([history(*selected)], value)
    if found is None:
        assert selected[-1] < value
    else:
        assert min(selected[found - 1 :]) >= value and (found == 1 or selected[found - 2] < value)


def test_a_search_becomes_recorded_curves_without_the_trials_that_never_trained() -> None:
    rows = [(0, None), (1, "infeasible"), (2, "diverged"), (3, None)]
    epochs = pd.DataFrame([(0, 1, 0.123456789), (0, 2, 0.5), (2, 1, 0.25)], columns=["number", "epoch", "val_accuracy"])
    search: Any = SimpleNamespace(
        trials=pd.DataFrame(rows, columns=["number", "stopped_by"]),
        epochs=epochs.reindex(columns=["number", *FIELDS]),
        params={number: {"model.depth": 1, "model.kernel_size.0": 3} for number, _ in rows},
        space=dict.fromkeys(["model.depth", "model.kernel_size", "optimizer.momentum"]),
    )
    complete, infeasible, diverged = curves_of(search)
    assert infeasible == {"config": complete["config"], "infeasible": True}
    assert complete["config"] == {"model.depth": 1, "model.kernel_size.0": 3, "optimizer.momentum": None}
    assert [entry["val_accuracy"] for entry in complete["curve"]] == [0.123457, 0.5] and not complete["diverged"]
    assert len(diverged["curve"]) == 1 and diverged["diverged"]
