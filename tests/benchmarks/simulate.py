"""A search in simulated seconds: searcher and scheduler as Ray drives them, without Ray, on a surrogate's curves."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch
from surrogate import Surrogate

from search.config import SearchConfig
from search.feasibility import first_params, why_unfit
from search.propose.sampler import build_sampler
from search.workers.asha import NumberedASHA
from search.workers.bridge import METRIC, StudySearcher

NUM_CLASSES = 10
Params = dict[str, Any]


class OurStack:
    """The project's searcher, sampler and scheduler; another sampler or scheduler for what was tried."""

    def __init__(
        self,
        config: SearchConfig,
        trial_0: bool,
        workers: int,
        sampler: Callable[[SearchConfig], BaseSampler] | None = None,
        scheduler: Callable[[SearchConfig], Any] = NumberedASHA,
        first: bool = False,
    ) -> None:
        study = optuna.create_study(direction="maximize")
        self.searcher = StudySearcher(study, config, NUM_CLASSES)
        self.searcher.slots = workers
        study.sampler = sampler(config) if sampler else build_sampler(config, NUM_CLASSES, 0)
        if trial_0:
            study.enqueue_trial(config.search_space.default_params())
        else:
            study.tell(study.ask(), state=TrialState.FAIL)  # number 0 is never stopped: nobody has it
        if first:
            for params in first_params(config, NUM_CLASSES)[0]:
                study.enqueue_trial(params)
        self.scheduler = scheduler(config) if config.scheduler.name == "asha" else None

    def next_trial(self, trial_id: str) -> tuple[dict[str, Any], Params] | None:
        """(config of Ray's trial, params), or None: no more."""
        suggestion = self.searcher.suggest(trial_id)
        if not isinstance(suggestion, dict):
            return None
        self.searcher.on_trial_start(trial_id)
        return suggestion, self.searcher.live[trial_id].trial.params


class RayStack:
    """Ray's own OptunaSearch and ASHA. In its favour, infeasible configurations cost it nothing and are drawn again."""

    def __init__(self, config: SearchConfig, trial_0: bool) -> None:
        self.config, self.space, self.left = config, config.search_space, config.search.num_samples or 0
        points = [self.space.default_params()] if trial_0 else None
        self.searcher = OptunaSearch(
            lambda trial: self.space.suggest(trial) and None,
            metric=METRIC,
            mode="max",
            points_to_evaluate=points,
            seed=config.search.seed,
        )
        self.scheduler = ASHAScheduler(
            metric=METRIC,
            mode="max",
            max_t=config.train.epochs,
            grace_period=1,
            reduction_factor=3,
        )
        self.refused = 0

    def next_trial(self, trial_id: str) -> tuple[dict[str, Any], Params] | None:
        if not self.left:
            return None
        while True:
            params = self.searcher.suggest(trial_id)
            if why_unfit(params, self.space, self.config.search, NUM_CLASSES) is None:
                self.left -= 1
                return {}, params
            self.searcher.on_trial_complete(trial_id, error=True)
            self.refused += 1
            self.searcher._completed_trials.discard(trial_id)
            del self.searcher._ot_trials[trial_id]


class PromotingASHA:
    """The other kind of ASHA (Li et al., 2020): trials pause at rungs, the best of a rung go on when a worker is free.

    Was tried and is not used; stands here so that the comparison can be repeated.
    """

    def __init__(self, config: SearchConfig) -> None:
        self.epochs, self.factor = config.train.epochs, config.scheduler.reduction_factor
        self.rungs = [
            epoch
            for power in range(20)
            if (epoch := round(config.scheduler.grace_epochs * self.factor**power)) < self.epochs
        ]
        self.recorded: dict[int, dict[str, float]] = {rung: {} for rung in self.rungs}
        self.promoted: set[tuple[int, str]] = set()

    def on_trial_add(self, _: None, trial: Any) -> None:
        pass

    def on_trial_complete(self, _: None, trial: Any, result: dict[str, Any]) -> None:
        pass

    def on_trial_result(self, _: None, trial: Any, result: dict[str, Any]) -> str:
        epoch = result["epoch"]
        if epoch in self.recorded:
            self.recorded[epoch][trial.trial_id] = result[METRIC]
            if trial.config["number"] != 0:
                return TrialScheduler.PAUSE
            self.promoted.add((epoch, trial.trial_id))
        return TrialScheduler.CONTINUE

    def next_promoted(self) -> str | None:
        """The paused trial to go on with: among the best 1/factor of the highest rung possible."""
        for rung in reversed(self.rungs):
            recorded = self.recorded[rung]
            best = sorted(recorded, key=lambda trial_id: recorded[trial_id], reverse=True)
            for trial_id in best[: int(len(recorded) / self.factor)]:
                if (rung, trial_id) not in self.promoted:
                    self.promoted.add((rung, trial_id))
                    return trial_id
        return None


@dataclass
class Running:
    """A trial on a simulated worker."""

    trial: SimpleNamespace  # what the scheduler knows of it: trial_id, config
    truth: float  # val_accuracy at the last epoch, without noise
    curve: NDArray[np.float64]  # (epochs,) observed val_accuracy
    epoch_seconds: float
    epoch: int = 0

    @property
    def result(self) -> dict[str, Any]:
        epochs = {"epoch": self.epoch, "training_iteration": self.epoch}
        return {**epochs, METRIC: float(self.curve[self.epoch - 1]), "diverged": False}


@dataclass
class History:
    """After every epoch trained anywhere: simulated seconds, and the true value of the trial that is then the best."""

    seconds: list[float] = field(default_factory=list)
    selected: list[float] = field(default_factory=list)
    num_complete: int = 0


def simulate(stack: Any, surrogate: Surrogate, seed: int, workers: int, noise: float = 1.0) -> History:
    """Run a search to its end. The best trial is that of the project: COMPLETE first, then by epochs, then by value."""
    rng = np.random.default_rng([seed, 1])
    history = History()
    clock, handed_out, idle = 0.0, 0, workers
    queue: list[tuple[float, int, Running]] = []  # (end of the epoch, order, trial)
    paused: dict[str, Running] = {}
    best, best_truth = (False, 0, -1.0), float("nan")
    while True:
        while idle:
            handed_out += 1
            promoted = stack.scheduler.next_promoted() if isinstance(stack.scheduler, PromotingASHA) else None
            if promoted is not None:
                running = paused.pop(promoted)
            else:
                begun = begin(stack, surrogate, f"t{handed_out}", rng, noise)
                if begun is None:
                    break
                running = begun
            heapq.heappush(queue, (clock + running.epoch_seconds, handed_out, running))
            idle -= 1
        if not queue:
            for running in paused.values():
                stack.searcher.on_trial_complete(running.trial.trial_id, running.result)
            return history
        clock, order, running = heapq.heappop(queue)
        running.epoch += 1
        last = running.epoch >= surrogate.epochs
        decision = decide(stack, running, last)
        if decision == TrialScheduler.CONTINUE:
            heapq.heappush(queue, (clock + running.epoch_seconds, order, running))
        else:
            idle += 1
            history.num_complete += last
            if decision == TrialScheduler.PAUSE:
                paused[running.trial.trial_id] = running
        value = (last, running.epoch, running.result[METRIC])
        if value > best:
            best, best_truth = value, running.truth
        history.seconds.append(clock)
        history.selected.append(best_truth)


def begin(stack: Any, surrogate: Surrogate, trial_id: str, rng: np.random.Generator, noise: float) -> Running | None:
    proposed = stack.next_trial(trial_id)
    if proposed is None:
        return None
    config, params = proposed
    trial = SimpleNamespace(trial_id=trial_id, config=config)
    if stack.scheduler is not None:
        stack.scheduler.on_trial_add(None, trial)
    curve = surrogate.curves([params])[0]
    return Running(trial, float(curve[-1]), surrogate.observe(curve, rng, noise), surrogate.seconds(params))


def decide(stack: Any, running: Running, last: bool) -> str:
    """What Ray's controller does with a result."""
    trial_id, result = running.trial.trial_id, running.result
    decision = TrialScheduler.STOP if last else TrialScheduler.CONTINUE
    if stack.scheduler is not None:
        if last:
            stack.scheduler.on_trial_result(None, running.trial, result)
            stack.scheduler.on_trial_complete(None, running.trial, result)
        else:
            decision = stack.scheduler.on_trial_result(None, running.trial, result)
    if decision == TrialScheduler.STOP:
        stack.searcher.on_trial_complete(trial_id, result)
    else:
        stack.searcher.on_trial_result(trial_id, result)
    return decision
