"""What hands out the trials of `--confirm` and `--audit`; which those are is planned in search.retraining."""

from collections.abc import Callable

import optuna
from optuna.trial import Trial

from search.config import SearchConfig
from search.record.endings import Infeasible
from search.retraining import Retraining, source_number, stopped_checkpoint
from search.workers.bridge import LiveTrial, StudySearcher, trial_seed


class RetrainingSearcher(StudySearcher):
    """Hands out the queued trials: for a confirmation with fresh seeds, for an audit from where ASHA stopped them."""

    def __init__(
        self,
        study: optuna.Study,
        config: SearchConfig,
        num_classes: int,
        retraining: Retraining,
        save: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(study, config, num_classes, retraining.for_workers, save)
        self.retraining = retraining

    def seed_of(self, trial: Trial) -> int:
        if self.retraining.kind == "audit":
            return trial_seed(self.config.search.seed, source_number(trial))
        return trial_seed(self.config.search.seed, trial.number, kind=1)

    def prepare(self, trial: Trial) -> LiveTrial | Infeasible:
        live = super().prepare(trial)
        if isinstance(live, LiveTrial) and self.retraining.kind == "audit":
            live.reported |= set(self.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
            live.go_on_from(stopped_checkpoint(self.retraining.source, source_number(trial)))
        return live
