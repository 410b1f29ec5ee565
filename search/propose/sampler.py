"""What proposes trials. The default, `gp`, models val_accuracy over configuration and epoch with a Gaussian process.

A trial that was stopped early tells where the good region is not, long before many have trained to the last epoch; and
what is known beforehand, which networks are infeasible and that trial 0 is a sensible one, costs no trials to learn.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, assert_never

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.special import ndtr

from search.config import SearchConfig
from search.feasibility import why_unfit
from search.propose.gaussian_process import GaussianProcess
from search.space import SearchSpace, draw_value

Array = NDArray[np.float64]
Params = dict[str, Any]

STARTUP_TRIALS = {"gp": 5, "tpe": 10, "random": 0}  # 10 is also Optuna's default for TPE
RANDOM_CANDIDATES = 200
PARENTS, CHILDREN = 5, 30  # the best trials by the model, and candidates near each of them
KEPT, REACH = 0.7, 0.2  # of a parent's values; by how much of their range most of the other numbers move
MOST_TRIALS = 100  # that the model sees, with three values each at most: its time grows with the third power
FEASIBILITY_TRIES = 30  # draws at random; in a space where all of them are infeasible the search is told so


def build_sampler(config: SearchConfig, num_classes: int, num_trials: int) -> BaseSampler:
    """The sampler of a config, seeded by the search's seed and the trials already in the study."""
    seed = int(np.random.SeedSequence([config.search.seed, num_trials]).generate_state(1)[0])
    startup_trials = config.sampler.startup_trials
    if startup_trials is None:
        startup_trials = STARTUP_TRIALS[config.sampler.name]
    match config.sampler.name:
        case "random":
            return optuna.samplers.RandomSampler(seed=seed)
        case "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup_trials)
        case "gp":
            space = config.search_space

            def is_feasible(params: Params) -> bool:
                return why_unfit(params, space, config.search, num_classes) is None

            return CurveSampler(space, is_feasible, config.train.epochs, startup_trials, seed)
    assert_never(config.sampler.name)


class CurveSampler(BaseSampler):
    """Expected improvement at the last epoch, by a model of the curves of all trials; only feasible proposals.

    Sees every trial with an epoch: finished, stopped, running, or of an earlier search.
    """

    def __init__(
        self, space: SearchSpace, is_feasible: Callable[[Params], bool], epochs: int, startup_trials: int, seed: int
    ) -> None:
        self.space, self.is_feasible, self.epochs, self.startup_trials = space, is_feasible, epochs, startup_trials
        self.encoding = Encoding(space)
        self.rng = np.random.default_rng(seed)
        self.model = GaussianProcess(self.encoding.dimensions + 1)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.encoding.distributions

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> Params:
        """A whole proposal, none twice; nothing for a trial that has params, given to it or drawn before a crash."""
        if "fixed_params" in trial.system_attrs or any(not drawn.single() for drawn in trial.distributions.values()):
            return {}
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number and other.params]
        observed = [other for other in others if other.intermediate_values]
        if len(observed) < max(1, self.startup_trials):
            return next(filter(self.is_feasible, self.draw(FEASIBILITY_TRIES)), self.draw(1)[0])
        unseen = [other for other in others if other.state == TrialState.RUNNING and not other.intermediate_values]
        best = self.learn(informative(observed), unseen)
        candidates = self.draw(RANDOM_CANDIDATES)
        for parent in best[:PARENTS]:
            candidates += self.draw(CHILDREN, parent)
        known = {frozenset(other.params.items()) for other in others}
        new = [candidate for candidate in candidates if frozenset(candidate.items()) not in known] or candidates
        ranked = np.argsort(-self.expected_improvement(new))
        return next(filter(self.is_feasible, (new[place] for place in ranked)), new[0])

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """What a given configuration leaves open, and what a crash cut off: at random."""
        return draw_value(Drawing(self.rng), param_name, param_distribution)

    def learn(self, observed: Sequence[FrozenTrial], unseen: Sequence[FrozenTrial]) -> list[Params]:
        """Fit the model; the observed configurations, those best at the last epoch by the model first.

        A trial that has no epoch yet counts as what the model expects of it, so that no other is proposed beside it.
        """
        points = self.encoding.encode([trial.params for trial in observed])
        rows = [
            (*point, self.place(epoch), value)
            for point, trial in zip(points, observed, strict=True)
            for epoch, value in telling_epochs(trial).items()
        ]
        inputs, values = np.array(rows)[:, :-1], np.array(rows)[:, -1]
        self.model.fit(inputs, values)
        if unseen:
            expected = self.at_last_epoch([trial.params for trial in unseen])
            means, _ = self.model.predict(expected)
            self.model.condition(np.vstack([inputs, expected]), np.concatenate([values, means]))
        means, _ = self.model.predict(self.at_last_epoch([trial.params for trial in observed]))
        self.to_beat = float(means.max())
        return [observed[place].params for place in np.argsort(-means)]

    def expected_improvement(self, candidates: Sequence[Params]) -> Array:
        """Over the best expectation of an observed configuration (Jones et al., 1998), (n,)."""
        mean, sd = self.model.predict(self.at_last_epoch(candidates))
        gain = mean - self.to_beat
        density = np.exp(-((gain / sd) ** 2) / 2) / np.sqrt(2 * np.pi)
        return np.asarray(gain * ndtr(gain / sd) + sd * density)

    def at_last_epoch(self, params: Sequence[Mapping[str, Any]]) -> Array:
        return np.column_stack([self.encoding.encode(params), np.full(len(params), self.place(self.epochs))])

    def place(self, epoch: int) -> float:
        """An epoch in [0, 1], on a logarithmic scale as rungs are."""
        return float(np.log(epoch) / np.log(max(2, self.epochs)))

    def draw(self, count: int, parent: Mapping[str, Any] | None = None) -> list[Params]:
        drawing = Drawing(self.rng, parent, KEPT, REACH)
        return [self.space.suggest(drawing) for _ in range(count)]


def telling_epochs(trial: FrozenTrial) -> dict[int, float]:
    """A trial's values at its first epoch, its last, and the last power of 3 between: more says little, and costs."""
    values = trial.intermediate_values
    last = max(values)
    between = max(epoch for power in range(50) if (epoch := 3**power) < max(2, last))
    return {epoch: values[epoch] for epoch in sorted({1, between, last}) if epoch in values}


def informative(trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
    """All trials where they are few; else the half that got best and furthest, and the newest."""
    if len(trials) <= MOST_TRIALS:
        return trials
    order = sorted(trials, key=lambda trial: max(trial.intermediate_values.items()), reverse=True)
    best = {trial.number for trial in order[: MOST_TRIALS // 2]}
    newest = [trial.number for trial in trials if trial.number not in best][-MOST_TRIALS // 2 :]
    return [trial for trial in trials if trial.number in best.union(newest)]


class Encoding:
    """Configurations of a space as points of the unit cube, in which a distance means a difference."""

    def __init__(self, space: SearchSpace) -> None:
        self.distributions = space.distributions()
        self.base = space.base_values()

    @property
    def dimensions(self) -> int:
        return self.encode([{}]).shape[1]

    def encode(self, params: Sequence[Mapping[str, Any]]) -> Array:
        """(n, d); a path that is inactive counts as the base's value."""
        columns: list[Array] = []
        for path, distribution in self.distributions.items():
            columns += encode_values([point.get(path, self.base[path]) for point in params], distribution)
        return np.array(columns).T.reshape(len(params), -1)


def encode_values(values: Sequence[Any], distribution: BaseDistribution) -> list[Array]:
    """Numbers, and choices among numbers, as one column in [0, 1]; other choices as one column each."""
    if isinstance(distribution, IntDistribution | FloatDistribution):
        numbers, ends = np.array(values, dtype=float), np.array([distribution.low, distribution.high], dtype=float)
        if distribution.log:
            numbers, ends = np.log(numbers), np.log(ends)
        return [(numbers - ends[0]) / (ends[1] - ends[0] or 1.0)]
    assert isinstance(distribution, CategoricalDistribution)
    choices = list(distribution.choices)
    if all(isinstance(choice, int | float) for choice in choices):
        ordered = sorted(choices)  # type: ignore[type-var]
        return [np.array([ordered.index(value) for value in values]) / max(1, len(choices) - 1)]
    return [np.array([value == choice for value in values]) / np.sqrt(2) for choice in choices]


class Drawing:
    """Draws like an Optuna trial: at random, or near the values of a parent.

    Of a parent's values it keeps each with probability `keep`, and moves most other numbers by about `reach` of their
    range.
    """

    def __init__(
        self, rng: np.random.Generator, parent: Mapping[str, Any] | None = None, keep: float = 0.0, reach: float = 1.0
    ) -> None:
        self.rng, self.parent, self.keep, self.reach = rng, parent or {}, keep, reach

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        if name in self.parent and self.rng.random() < self.keep:
            return self.parent[name]
        return choices[int(self.rng.integers(len(choices)))]

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        if name in self.parent and self.rng.random() < self.keep:
            return float(self.parent[name])
        ends = np.log([low, high]) if log else np.array([low, high])
        drawn = self.rng.uniform(*ends)
        if name in self.parent and self.rng.random() < 0.8:
            parent = np.log(self.parent[name]) if log else self.parent[name]
            drawn = parent + self.rng.normal() * self.reach * (ends[1] - ends[0])
        value = float(np.exp(drawn) if log else drawn)
        if step is not None:
            value = low + round((value - low) / step) * step
        return min(max(value, low), high)

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        # Half a step more on each side gives the ends the share of the others.
        margin = 0.5 * step
        drawn = self.suggest_float(name, max(low - margin, 0.5) if log else low - margin, high + margin, log=log)
        return min(max(low + round((drawn - low) / step) * step, low), low + (high - low) // step * step)
