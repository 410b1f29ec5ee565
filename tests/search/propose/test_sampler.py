"""The sampler and its Gaussian process, against references and invariants, by ask and tell; nothing trains."""

from typing import Any, get_args

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from search.config import SamplerConfig, SearchConfig, parse_config
from search.feasibility import why_unfit
from search.propose.gaussian_process import GaussianProcess
from search.propose.sampler import (
    MOST_TRIALS,
    CurveSampler,
    Drawing,
    Encoding,
    build_sampler,
    informative,
    telling_epochs,
)
from search.space import draw_value

SPACE = {
    "model.depth": {"int": [1, 9]},
    "model.kernel_size": {"choice": [3, 5, 7], "per_layer": True},
    "model.activation": {"choice": ["relu", "gelu", "silu"]},
    "model.layers_per_stage": {"int": [1, 3]},
    "model.residual": {"choice": [True, False], "when": {"model.layers_per_stage": [2, 3]}},
    "optimizer.name": {"choice": ["sgd", "adamw", "muon"]},
    "optimizer.learning_rate": {"float": [0.001, 0.1], "log": True},
    "optimizer.other_learning_rate": {"float": [0.01, 1.0], "log": True, "when": {"optimizer.name": "muon"}},
    "optimizer.momentum": {"float": [0.8, 0.99], "when": {"optimizer.name": "sgd"}},
    "train.batch_size": {"int": [32, 256], "step": 32},
}


def make_config(space: dict[str, Any] = SPACE, **sections: dict[str, Any]) -> SearchConfig:
    return parse_config({"train": {"epochs": 9}, "space": space, **sections}, {})


def make_study(config: SearchConfig, seed_trials: int = 0) -> optuna.Study:
    return optuna.create_study(direction="maximize", sampler=build_sampler(config, 10, seed_trials))


def run_trial(study: optuna.Study, config: SearchConfig, value: float, epochs: int = 9) -> optuna.Trial:
    trial = study.ask()
    config.search_space.suggest(trial)
    for epoch in range(1, epochs + 1):
        trial.report(value * epoch / 9, epoch)
    study.tell(trial, state=TrialState.PRUNED) if epochs < 9 else study.tell(trial, value)
    return trial


# The Gaussian process


def points(count: int, dimensions: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    inputs = rng.random((count, dimensions))
    return inputs, np.sin(4 * inputs[:, 0]) + inputs[:, 1] ** 2 + 0.01 * rng.normal(size=count)


def test_predictions_equal_those_of_scikit_learn() -> None:
    inputs, values = points(30)
    unseen, _ = points(20, seed=1)
    process = GaussianProcess(3)
    process.fit(inputs, values)
    lengths, amplitude, noise = np.exp(process.logs[:-2]), np.exp(process.logs[-2]), np.exp(process.logs[-1])
    kernel = ConstantKernel(amplitude) * Matern(lengths, nu=2.5) + WhiteKernel(noise)
    reference = GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True, alpha=0.0).fit(inputs, values)
    mean, sd = process.predict(unseen)
    wanted_mean, wanted_sd = reference.predict(unseen, return_std=True)
    np.testing.assert_allclose(mean, wanted_mean, rtol=1e-6)
    np.testing.assert_allclose(sd**2 + noise * values.var(), wanted_sd**2, rtol=1e-5)  # scikit-learn's has the noise


def test_the_gradient_is_that_of_the_posterior() -> None:
    inputs, values = points(12)
    process = GaussianProcess(3)
    squares = (inputs[:, None] - inputs[None]) ** 2
    targets = (values - values.mean()) / values.std()
    for seed in range(5):
        logs = process.prior_mean + np.random.default_rng(seed).normal(size=5)
        value = lambda at: process._negative_log_posterior(at, squares, targets)[0]  # noqa: E731
        slope = lambda at: process._negative_log_posterior(at, squares, targets)[1]  # noqa: E731
        assert check_grad(value, slope, logs) < 1e-3 * np.linalg.norm(slope(logs)) + 1e-4


def test_a_fit_finds_what_matters_and_predicts_it() -> None:
    inputs, values = points(60, dimensions=6)
    process = GaussianProcess(6)
    process.fit(inputs, values)
    unseen, truth = points(200, dimensions=6, seed=1)
    mean, sd = process.predict(unseen)
    assert np.corrcoef(mean, truth)[0, 1] > 0.98
    assert max(process.logs[:2]) < min(process.logs[2:6])  # the scales of the two inputs that matter are the shortest
    assert np.mean(np.abs(mean - truth) < 3 * np.hypot(sd, 0.1)) > 0.98


@pytest.mark.parametrize("values", [[0.5], [0.3, 0.3, 0.3], [0.0, 1.0]])
def test_few_and_equal_values_do_no_harm(values: list[float]) -> None:
    process = GaussianProcess(2)
    process.fit(np.full((len(values), 2), 0.5), np.array(values))
    mean, sd = process.predict(np.random.default_rng(0).random((4, 2)))
    assert np.isfinite(mean).all() and (sd > 0).all()


# What it sees


def test_an_encoding_tells_differing_configurations_apart_and_stays_in_the_unit_cube() -> None:
    config = make_config()
    encoding, space = Encoding(config.search_space), config.search_space
    drawing = Drawing(np.random.default_rng(0))
    drawn = [space.suggest(drawing) for _ in range(200)]
    encoded = encoding.encode(drawn)
    assert encoded.shape == (200, encoding.dimensions) and encoded.min() >= 0 and encoded.max() <= 1
    for one, params in zip(encoded[:50], drawn, strict=False):
        same = [other for other, point in zip(drawn, encoded, strict=True) if np.allclose(point, one)]
        completed = {**encoding.base, **params}
        assert all({**encoding.base, **other} == completed for other in same)


def test_numbers_keep_their_order_and_words_have_none() -> None:
    space = make_config({"model.activation": SPACE["model.activation"], "model.width": {"choice": [64, 8, 32]}})
    encoding = Encoding(space.search_space)
    rows = encoding.encode([{"model.width": width, "model.activation": "relu"} for width in (8, 32, 64)])
    assert [row[-1] for row in rows] == [0.0, 0.5, 1.0]
    words = encoding.encode([{"model.activation": word} for word in ("relu", "gelu", "silu")])
    distances = np.linalg.norm(words[:, None] - words[None], axis=2)
    np.testing.assert_allclose(distances, 1 - np.eye(3))


def test_the_first_a_middle_and_the_last_epoch_are_seen() -> None:
    trial = optuna.trial.create_trial(value=0.8, intermediate_values={epoch: epoch / 10 for epoch in range(1, 9)})
    assert telling_epochs(trial) == {1: 0.1, 3: 0.3, 8: 0.8}
    short = optuna.trial.create_trial(value=0.8, intermediate_values={1: 0.1, 2: 0.2})
    assert telling_epochs(short) == {1: 0.1, 2: 0.2}
    long = optuna.trial.create_trial(value=0.8, intermediate_values={epoch: epoch / 100 for epoch in range(1, 82)})
    assert telling_epochs(long) == {1: 0.01, 27: 0.27, 81: 0.81}


def test_of_many_trials_the_best_and_the_newest_are_seen() -> None:
    trials = []
    for number in range(3 * MOST_TRIALS):
        trials.append(optuna.trial.create_trial(value=0.1, intermediate_values={1: 0.9 if number < 10 else 0.1}))
        trials[-1].number = number
    seen = informative(trials)
    assert len(seen) == MOST_TRIALS and {trial.number for trial in seen} >= {*range(10), 3 * MOST_TRIALS - 1}
    assert informative(trials[:50]) == trials[:50]


# What it proposes


distributions = st.one_of(
    st.builds(
        lambda low, steps, step: IntDistribution(low, low + steps * step, step=step),
        st.integers(1, 50),
        st.integers(0, 50),
        st.integers(1, 7),
    ),
    st.builds(lambda low, width: IntDistribution(low, low + width, log=True), st.integers(1, 50), st.integers(0, 50)),
    st.builds(
        lambda low, width, log: FloatDistribution(low, low + width, log=log),
        st.floats(0.001, 10),
        st.floats(0, 100),
        st.booleans(),
    ),
    st.builds(
        lambda low, steps: FloatDistribution(low / 4, (low + steps) / 4, step=0.25),
        st.integers(-9, 9),
        st.integers(0, 9),
    ),
    st.builds(CategoricalDistribution, st.lists(st.text(max_size=2) | st.integers() | st.booleans(), min_size=1)),
)


@settings(max_examples=300, deadline=None)
@given(distributions, st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 2))
def test_what_is_drawn_lies_in_its_distribution(distribution: Any, seed: int, keep: float, reach: float) -> None:
    rng = np.random.default_rng(seed)
    value = draw_value(Drawing(rng), "x", distribution)
    for _ in range(5):
        assert distribution._contains(distribution.to_internal_repr(value))
        value = draw_value(Drawing(rng, {"x": value}, keep, reach), "x", distribution)


def test_integers_are_drawn_evenly() -> None:
    drawing = Drawing(np.random.default_rng(0))
    drawn = [drawing.suggest_int("x", 2, 11, step=3) for _ in range(4000)]
    counts = [drawn.count(value) for value in (2, 5, 8, 11)]
    assert sum(counts) == 4000 and min(counts) > 900


def test_only_feasible_networks_are_proposed() -> None:
    config = make_config()  # from depth 6 on pooling has nothing left to pool
    study = make_study(config)
    study.enqueue_trial(config.search_space.default_params())
    for index in range(20):
        trial = run_trial(study, config, 0.1 + index / 100, epochs=1 + index % 9)
        assert why_unfit(trial.params, config.search_space, config.search, 10) is None


def test_it_finds_the_good_region_much_sooner_than_chance() -> None:
    space = {path: entry for path, entry in SPACE.items() if not path.startswith("model.kernel_size")}

    def value(params: dict[str, Any]) -> float:  # highest at depth 4, adamw, a learning rate of 0.01
        distance = abs(params["model.depth"] - 4) / 8 + abs(np.log10(params["optimizer.learning_rate"]) + 2) / 2
        return 0.9 - 0.4 * distance - 0.2 * (params["optimizer.name"] == "sgd")

    def late_values(name: str) -> float:
        config = make_config(space, sampler={"name": name})
        study = make_study(config)
        reached = []
        for _ in range(30):
            trial = study.ask()
            reached.append(value(config.search_space.suggest(trial)))
            trial.report(0.3 * reached[-1], 1)
            study.tell(trial, state=TrialState.PRUNED)  # all stopped after one epoch: the last is never seen
        return float(np.mean(reached[-10:]))

    assert late_values("gp") > 0.8 > late_values("random")


def test_waiting_cut_off_and_given_trials_get_their_own_proposals() -> None:
    config = make_config(sampler={"startup_trials": 0})
    study = make_study(config)
    for index in range(6):
        run_trial(study, config, 0.2 + index / 20)
    first, second = study.ask(), study.ask()
    assert config.search_space.suggest(first) != config.search_space.suggest(second)
    cut_off = study.ask()  # it is completed without a second proposal
    stored = cut_off.suggest_int("model.depth", 1, 9)
    resumed = optuna.trial.Trial(study, cut_off._trial_id)
    params = config.search_space.suggest(resumed)
    assert params["model.depth"] == stored and resumed.relative_params == {}
    study.enqueue_trial({"model.depth": 2, "optimizer.name": "sgd"})  # the rest is drawn at random
    params = config.search_space.suggest(study.ask())
    assert (params["model.depth"], params["optimizer.name"]) == (2, "sgd") and "optimizer.momentum" in params


def test_nothing_is_proposed_twice() -> None:
    config = make_config({"model.depth": {"int": [1, 5]}, "model.width": {"choice": [8, 16]}}, model={"width": 8})
    study = make_study(config)
    proposed = [tuple(run_trial(study, config, 0.5).params.items()) for _ in range(10)]
    assert len(set(proposed[5:])) == 5 and not set(proposed[5:]) & set(proposed[:5])
    run_trial(study, config, 0.5)  # where all have been tried, one is tried again


def test_where_nothing_is_feasible_the_search_is_told() -> None:
    config = make_config({"model.depth": {"int": [1, 9]}})
    study = optuna.create_study(
        direction="maximize", sampler=CurveSampler(config.search_space, lambda params: False, 9, 2, seed=0)
    )
    for _ in range(4):
        assert 1 <= run_trial(study, config, 0.5).params["model.depth"] <= 9


@pytest.mark.parametrize("name", get_args(SamplerConfig.model_fields["name"].annotation))
def test_samplers_differ_by_seed_and_by_trials_so_far(name: str) -> None:
    def first(seed: int, so_far: int) -> dict[str, Any]:
        config = make_config(sampler={"name": name}, search={"seed": seed})
        return config.search_space.suggest(make_study(config, so_far).ask())

    assert first(1, 0) == first(1, 0)
    assert first(1, 0) != first(2, 0) and first(1, 0) != first(1, 5)
