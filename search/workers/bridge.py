"""The bridge between the study and Ray: hands out trials, tells the study how they ended, refills ASHA's rungs.

Optuna's journal is the record and Ray the executor: nothing here reads what Ray saved.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from search import interruption
from search.config import SearchConfig, why_unfit
from search.record.run_directory import written_together
from training.checkpoint import read_meta
from training.config import TrialConfig
from training.layers import count_costs
from training.loop import EpochResult

METRIC, TIME_ATTR = "val_accuracy", "epoch"
INFEASIBLE_IN_A_ROW = 1000  # proposals after which a search gives up


def counts_towards_num_samples(trial: FrozenTrial) -> bool:
    """Whether a finished trial is one of the N: infeasible ones, those that the time budget left no epoch, and those of
    earlier searches are not.
    """
    foreign = "source" in trial.user_attrs
    return trial.state.is_finished() and not foreign and not is_infeasible(trial) and not never_began(trial)


def never_began(trial: FrozenTrial) -> bool:
    """Whether a trial still waited for a worker, without an epoch trained, when the time budget was over."""
    return trial.user_attrs.get("stopped_by") == "time_budget" and not trial.intermediate_values


def is_infeasible(trial: FrozenTrial) -> bool:
    """Whether a proposal was refused before any training."""
    return trial.user_attrs.get("stopped_by") == "infeasible"


def trial_seed(search_seed: int, number: int, kind: int = 0) -> int:
    """The seed of a trial, from the search's seed, the trial's number and the kind of search (0; 1: a confirmation)."""
    return int(np.random.SeedSequence([search_seed, number] + [kind] * (kind > 0)).generate_state(1)[0])


@dataclass
class LiveTrial:
    """A trial that is handed out or about to be; `reported` are the epochs that the study has."""

    trial: Trial
    config: TrialConfig
    start_from: Path | None = None  # checkpoint
    results: list[EpochResult] = field(default_factory=list)  # of the epochs behind the checkpoint
    reported: set[int] = field(default_factory=set)
    started: bool = False  # a worker has it
    out_of_time: bool = False

    @property
    def number(self) -> int:
        return self.trial.number

    def go_on_from(self, checkpoint: Path | None) -> list[EpochResult]:
        """Start from a checkpoint, if there is one, and report the epochs behind it that the study lacks."""
        self.results = read_meta(checkpoint)["results"] if checkpoint else []
        for result in self.results:
            if result.epoch not in self.reported:
                self.trial.report(result.val_accuracy, result.epoch)
                self.reported.add(result.epoch)
        self.start_from = checkpoint
        return self.results


class StudySearcher(Searcher):
    """Hands out `pending` trials first, then asks the study for new ones until N; see DESIGN's table of endings."""

    def __init__(
        self,
        study: optuna.Study,
        config: SearchConfig,
        num_classes: int,
        for_workers: Callable[[Path], str] = str,
        save: Callable[[], None] = lambda: None,
    ) -> None:
        """`for_workers` names a checkpoint as they find it; `save` is called when the record must be safe."""
        super().__init__(metric=METRIC, mode="max")
        self.for_workers, self.save_record = for_workers, save
        self.study, self.config, self.num_classes = study, config, num_classes
        self.space = config.search_space
        self.pending: list[LiveTrial] = []  # to go on with
        self.live: dict[str, LiveTrial] = {}  # by Ray's trial id
        trials = study.get_trials(deepcopy=False)
        self.num_finished = sum(counts_towards_num_samples(trial) for trial in trials)
        self.num_infeasible = sum(is_infeasible(trial) for trial in trials)
        self.infeasible_reason: str | None = None  # set where the search gave up
        self.slots = 1  # trials that can run at a time
        self.ends_at: float | None = None  # time.monotonic() at which the time is over
        self.closed = False  # no new trials: the time is over

    # What Ray calls

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """A trial's number, config (JSON) and checkpoint to start from; None: not now; FINISHED: no more."""
        if self.closed or self.infeasible_reason:
            return Searcher.FINISHED
        limit = self.config.resources.max_concurrent
        if limit is not None and len(self.live) >= limit:
            return None
        if len(self.live) >= self.slots and not all(live.started for live in self.live.values()):
            return None  # one trial waits for a worker to come free; a second would be proposed knowing less
        if self.pending:
            live = self.pending.pop(0)
        elif self.is_enough(self.num_finished + len(self.live)):
            return Searcher.FINISHED
        else:
            proposed = self.propose()
            if proposed is None:
                return Searcher.FINISHED
            live = proposed
        self.live[trial_id] = live
        self.save_record()  # a trial that runs is known, whatever becomes of this process and its machine
        return {
            "number": live.number,
            "trial_config": live.config.model_dump_json(),
            "start_from": None if live.start_from is None else self.for_workers(live.start_from),
            "storage_timeout": self.config.resources.storage_timeout,
        }

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        live = self.live[trial_id]
        epoch = int(result[TIME_ATTR])
        if epoch not in live.reported:
            live.trial.report(float(result[METRIC]), epoch)
            live.reported.add(epoch)

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        # Without a result a trial was interrupted before its first epoch: it stays RUNNING, which is how resume
        # finds it. After an error Ray's callback brings the reason: see `fail`.
        if error or result is None or METRIC not in result:
            return
        self.on_trial_result(trial_id, result)
        live = self.live[trial_id]
        if result["diverged"]:
            end_trial(self.study, live.trial, "diverged", f"the loss was not finite in epoch {result[TIME_ATTR]}")
        elif int(result[TIME_ATTR]) >= self.config.train.epochs:
            self.study.tell(live.trial, float(result[METRIC]))
        else:
            end_trial(self.study, live.trial, "time_budget" if live.out_of_time else "asha")
        self._finished(trial_id)  # after the study knows: telling may fail, and Ray then asks again

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing: the study's journal is the only record."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its Tuner; nobody reads it

    # What the tuner and its callback call

    def on_trial_start(self, trial_id: str) -> None:
        """A worker has begun with a trial."""
        self.live[trial_id].started = True

    def fail(self, trial_id: str, reason: str) -> None:
        """A trial has crashed for good; not where the signal that ends the search has reached its worker too."""
        if trial_id in self.live and not interruption.requested():
            self.live[trial_id].trial.set_user_attr("reason", reason)
            self.study.tell(self.live[trial_id].trial, state=TrialState.FAIL)
            self._finished(trial_id)

    def _finished(self, trial_id: str) -> None:
        del self.live[trial_id]
        self.num_finished += 1
        self.save_record()

    def is_enough(self, num_trials: int) -> bool:
        """Whether the search asks for no more trials than that; never where only a time budget ends it."""
        wanted = self.config.search.num_samples
        return wanted is not None and num_trials >= wanted

    def is_out_of_time(self, trial_id: str) -> bool:
        """Mark a trial as stopped by the time budget (for RunConfig.stop)."""
        closed = self.closed  # once: a timer sets it
        if closed and trial_id in self.live:
            self.live[trial_id].out_of_time = True
        return closed

    def propose(self) -> LiveTrial | None:
        """The study's next feasible trial; infeasible ones are told to it. None after 1,000 in a row."""
        reasons: list[str] = []
        while len(reasons) < INFEASIBLE_IN_A_ROW:
            with written_together(self.study):
                prepared = self.prepare(self.study.ask())
            if isinstance(prepared, LiveTrial):
                return prepared
            reasons.append(prepared)
        # Reasons differ in their numbers: count them without, and quote one with.
        kinds = [re.sub(r"\d[\d,]*", "#", reason) for reason in reasons]
        commonest = reasons[kinds.index(Counter(kinds).most_common(1)[0][0])]
        self.infeasible_reason = f"{INFEASIBLE_IN_A_ROW:,} infeasible proposals in a row, most often like: {commonest}"
        return None

    def prepare(self, trial: Trial) -> LiveTrial | str:
        """Draw what is not drawn yet; the reason, once the study was told, where the network is infeasible."""
        params = self.space.suggest(trial)
        problem = why_unfit(params, self.space, self.config.search, self.num_classes)
        if problem:
            reason, violation = problem
            trial.set_constraint("feasible", violation)
            end_trial(self.study, trial, "infeasible", reason)
            self.num_infeasible += 1
            return reason
        config = self.space.apply(params)
        config = config.model_copy(update={"train": config.train.model_copy(update={"seed": self.seed_of(trial)})})
        num_params, multiply_adds = count_costs(config.model, config.data.image_shape, self.num_classes)
        trial.set_user_attr("num_params", num_params)
        trial.set_user_attr("multiply_adds", multiply_adds)
        return LiveTrial(trial, config)

    def seed_of(self, trial: Trial) -> int:
        return trial_seed(self.config.search.seed, trial.number)


def end_trial(study: optuna.Study, trial: Trial, stopped_by: str, reason: str | None = None) -> None:
    """PRUNED, with who stopped it and why."""
    trial.set_user_attr("stopped_by", stopped_by)
    if reason is not None:
        trial.set_user_attr("reason", reason)
    study.tell(trial, state=TrialState.PRUNED)


class InTime(FIFOScheduler):
    """Lets no trial begin once the searcher is closed: it takes those that wait for a worker out of Ray's queue.

    But for trial 0, which trains one epoch in any case: a search has its defaults, and a winner.
    """

    searcher: StudySearcher | None = None

    def choose_trial_to_run(self, tune_controller: Any) -> Any:  # Ray asks at every step
        if self.searcher is not None and self.searcher.closed:
            for trial in tune_controller.get_trials():
                if trial.status == "PENDING" and trial.config["number"] != 0:
                    trial.init_local_path()  # Ray's table of results asks for it
                    tune_controller.stop_trial(trial)
        return super().choose_trial_to_run(tune_controller)


class NumberedASHA(InTime, ASHAScheduler):
    """ASHA that keys rungs by our trial number, so that a continued trial stands in each rung once.

    Trial 0, the defaults, is recorded at rungs and never stopped.
    """

    def __init__(self, config: SearchConfig) -> None:
        super().__init__(
            time_attr=TIME_ATTR,
            metric=METRIC,
            mode="max",
            max_t=config.train.epochs,
            grace_period=config.scheduler.grace_epochs,
            reduction_factor=config.scheduler.reduction_factor,
        )

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _numbered(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, _numbered(trial), result)
        is_last_epoch = result[TIME_ATTR] >= self._max_t
        return TrialScheduler.CONTINUE if trial.config["number"] == 0 and not is_last_epoch else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _numbered(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _numbered(trial))

    def refill(self, study: optuna.Study) -> None:
        """Record what the study's trials reached at every rung, as if they had just run. Foreign trials fill none."""
        for frozen in study.get_trials(deepcopy=False):
            if frozen.intermediate_values and "source" not in frozen.user_attrs:
                trial = SimpleNamespace(config={"number": frozen.number})
                self.on_trial_add(None, trial)
                for epoch, value in sorted(frozen.intermediate_values.items()):
                    self.on_trial_result(None, trial, {TIME_ATTR: epoch, METRIC: value})


def _numbered(trial: Any) -> Any:
    return SimpleNamespace(trial_id=str(trial.config["number"]))
