"""The bridge between the study and Ray: hands out trials and tells the study how they ended.

Optuna's journal is the record and Ray the executor: nothing here reads what Ray saved.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher

from search import interruption
from search.config import SearchConfig
from search.feasibility import why_unfit
from search.record.endings import (
    Ending,
    Infeasible,
    counts_towards_num_samples,
    end_infeasible,
    end_pruned,
    ending_of,
)
from search.record.journal import written_together
from training.checkpoint import read_meta
from training.config import TrialConfig
from training.layers import count_costs
from training.loop import EpochResult

METRIC, TIME_ATTR = "val_accuracy", "epoch"
INFEASIBLE_IN_A_ROW = 1000  # proposals after which a search gives up


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
    """Hands out `pending` trials first, then asks the study for new ones until N."""

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
        self.num_infeasible = sum(ending_of(trial) == Ending.INFEASIBLE for trial in trials)
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
            reason = f"the loss was not finite in epoch {result[TIME_ATTR]}"
            end_pruned(self.study, live.trial, Ending.DIVERGED, reason)
        elif int(result[TIME_ATTR]) >= self.config.train.epochs:
            self.study.tell(live.trial, float(result[METRIC]))
        else:
            end_pruned(self.study, live.trial, Ending.TIME_BUDGET if live.out_of_time else Ending.ASHA)
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
        refused: list[Infeasible] = []
        while len(refused) < INFEASIBLE_IN_A_ROW:
            with written_together(self.study):
                prepared = self.prepare(self.study.ask())
            if isinstance(prepared, LiveTrial):
                return prepared
            refused.append(prepared)
        commonest, count = Counter(each.kind_in_words for each in refused).most_common(1)[0]
        example = next(each.reason for each in refused if each.kind_in_words == commonest)
        self.infeasible_reason = (
            f"{INFEASIBLE_IN_A_ROW:,} infeasible proposals in a row, {count:,} of them of the kind: {commonest}, "
            f"such as: {example}"
        )
        return None

    def prepare(self, trial: Trial) -> LiveTrial | Infeasible:
        """Draw what is not drawn yet; why the network is infeasible, once the study was told, if it is."""
        params = self.space.suggest(trial)
        problem = why_unfit(params, self.space, self.config.search, self.num_classes)
        if problem:
            end_infeasible(self.study, trial, problem)
            self.num_infeasible += 1
            return problem
        config = self.space.apply(params)
        config = config.model_copy(update={"train": config.train.model_copy(update={"seed": self.seed_of(trial)})})
        num_params, multiply_adds = count_costs(config.model, config.data.image_shape, self.num_classes)
        trial.set_user_attr("num_params", num_params)
        trial.set_user_attr("multiply_adds", multiply_adds)
        return LiveTrial(trial, config)

    def seed_of(self, trial: Trial) -> int:
        return trial_seed(self.config.search.seed, trial.number)
