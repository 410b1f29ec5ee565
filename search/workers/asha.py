"""Ray's schedulers, told of our trials: rungs keyed by trial number and refilled from the journal."""

from types import SimpleNamespace
from typing import Any

import optuna
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from search.config import SearchConfig
from search.record.endings import is_own
from search.workers import ray_hooks
from search.workers.bridge import METRIC, TIME_ATTR, StudySearcher


class InTime(FIFOScheduler):
    """Lets no trial begin once the searcher is closed: it takes those that wait for a worker out of Ray's queue.

    But for trial 0, which trains one epoch in any case: a search has its defaults, and a winner.
    """

    searcher: StudySearcher | None = None
    mended = False

    # Ray asks at every step, first before any worker has a trial.
    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        if not self.mended:
            self.mended = True
            ray_hooks.mend(tune_controller)
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
        self.epochs = config.train.epochs
        super().__init__(
            time_attr=TIME_ATTR,
            metric=METRIC,
            mode="max",
            max_t=self.epochs,
            grace_period=config.scheduler.grace_epochs,
            reduction_factor=config.scheduler.reduction_factor,
        )

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, _numbered(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = super().on_trial_result(tune_controller, _numbered(trial), result)
        is_last_epoch = result[TIME_ATTR] >= self.epochs
        return TrialScheduler.CONTINUE if trial.config["number"] == 0 and not is_last_epoch else decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        super().on_trial_complete(tune_controller, _numbered(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_remove(tune_controller, _numbered(trial))

    def refill(self, study: optuna.Study) -> None:
        """Record what the study's trials reached at every rung, as if they had just run. Foreign trials fill none."""
        for frozen in study.get_trials(deepcopy=False):
            if frozen.intermediate_values and is_own(frozen):
                trial = SimpleNamespace(config={"number": frozen.number})
                self.on_trial_add(None, trial)
                for epoch, value in sorted(frozen.intermediate_values.items()):
                    self.on_trial_result(None, trial, {TIME_ATTR: epoch, METRIC: value})


def _numbered(trial: Any) -> Any:
    return SimpleNamespace(trial_id=str(trial.config["number"]))


def build_scheduler(searcher: StudySearcher) -> InTime:
    """ASHA with its rungs refilled from the journal, or one that lets every trial train all epochs."""
    scheduler = InTime()
    if searcher.config.scheduler.name == "asha":
        scheduler = NumberedASHA(searcher.config)
        scheduler.refill(searcher.study)
    scheduler.searcher = searcher
    return scheduler
