"""`--confirm` and `--audit`: searches with a fixed list of trials of an earlier one, without sampler and scheduler.

They live in RUN/confirm and RUN/audit; each trial there has its own number and the user attribute `source_number`.
Asked for again, they train what is missing.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from search.config import SamplerConfig, SchedulerConfig, SearchConfig
from search.propose.earlier import begun_trials
from search.record.checkpoints import usable_checkpoint
from search.record.endings import SOURCE_NUMBER, Ending, ending_of, is_own, rank_trials
from search.record.run_directory import JOURNAL, Kind, SearchError
from search.record.run_storage import RunStorage


@dataclass(frozen=True)
class Retraining:
    """Which trials of a search are to be trained again, and how many times each."""

    kind: Kind
    source: RunStorage  # the run directory of the search
    run: RunStorage  # and of the trainings, within it
    wanted: dict[int, int]  # trial number there -> trainings, those that are there already included
    trials: dict[int, FrozenTrial]  # of the search, by number

    @property
    def amounts(self) -> str:
        """The flags that ask for as many trainings."""
        if self.kind == "audit":
            return f"--trials {len(self.wanted)}"
        return f"--top {max(1, len(self.wanted) - 1)} --seeds {max(self.wanted.values())}"

    def for_workers(self, checkpoint: Path) -> str:
        """A checkpoint of the search or of the trainings as workers on any node find it."""
        place = self.run if checkpoint.is_relative_to(self.run.path) else self.source
        return place.for_workers(checkpoint)

    def queue(self, study: optuna.Study) -> int:
        """Queue what the study lacks, one training of each trial after the other; gives the trials it then has."""
        has = Counter(source_number(trial) for trial in study.get_trials(deepcopy=False) if is_of_use(trial))
        for repetition in range(max(self.wanted.values())):
            for number, times in self.wanted.items():
                if has[number] <= repetition < times:
                    study.enqueue_trial(self.trials[number].params, user_attrs={SOURCE_NUMBER: number})
        return len(study.get_trials(deepcopy=False))


def source_number(trial: Trial | FrozenTrial) -> int:
    return int(trial.user_attrs[SOURCE_NUMBER])


def is_of_use(trial: FrozenTrial) -> bool:
    """Whether a training says of which trial it is, and has ended well or may still do so."""
    return SOURCE_NUMBER in trial.user_attrs and trial.state != TrialState.FAIL


def fixed_config(config: SearchConfig, num_trials: int) -> SearchConfig:
    """The config of a search for a fixed list of trials of its own."""
    search = {"num_samples": num_trials, "time_budget": None, "first": (), "warm_start": ()}
    return config.model_copy(
        update={
            "search": config.search.model_copy(update=search),
            "sampler": SamplerConfig(name="random"),
            "scheduler": SchedulerConfig(name="none"),
        }
    )


def plan_confirmation(run: RunStorage, top: int, seeds: int) -> Retraining:
    """The `top` best COMPLETE configurations and trial 0, `seeds` times each. Raises SearchError."""
    trials = own_trials(run)
    complete = [trial for trial in rank_trials(list(trials.values())) if trial.state == TrialState.COMPLETE]
    chosen: list[FrozenTrial] = []
    for trial in complete:
        if trial.number != 0 and all(trial.params != other.params for other in [trials[0], *chosen]):
            chosen.append(trial)
    if not complete:
        raise SearchError(
            f"{run}: no trial is COMPLETE, so there is no winner to confirm. Search further: --resume {run}"
        )
    numbers = [*(trial.number for trial in chosen[:top]), 0]
    return Retraining("confirm", run, run.child("confirm"), dict.fromkeys(numbers, seeds), trials)


def plan_audit(run: RunStorage, num_trials: int, seed: int) -> Retraining:
    """Trials that ASHA had stopped, drawn at random; those of an earlier audit stay. Raises SearchError."""
    trials = own_trials(run)
    stopped = [number for number, trial in trials.items() if ending_of(trial) == Ending.ASHA]
    audit = run.child("audit")
    trained = begun_trials(audit) if (audit.path / JOURNAL).is_file() else []
    audited = [source_number(trial) for trial in trained if SOURCE_NUMBER in trial.user_attrs]
    chosen = [number for number in dict.fromkeys(audited) if number in stopped]
    others = np.random.default_rng(seed).permutation([number for number in stopped if number not in chosen])
    for number in others:
        if len(chosen) < num_trials and stopped_checkpoint(run, int(number)) is not None:
            chosen.append(int(number))
    if not chosen:
        raise SearchError(f"{run}: no trial was stopped by ASHA and has a checkpoint, so there is nothing to audit.")
    return Retraining("audit", run, audit, dict.fromkeys(chosen, 1), trials)


def stopped_checkpoint(run: RunStorage, number: int) -> Path | None:
    """The newest intact checkpoint of a trial of the search, brought here from a bucket."""
    run.pull_trial(number)
    return usable_checkpoint(run.path, number)


def own_trials(run: RunStorage) -> dict[int, FrozenTrial]:
    """The begun trials of a search by number, those taken over from others left out. Raises SearchError."""
    trials = {trial.number: trial for trial in begun_trials(run) if is_own(trial)}
    if 0 not in trials:
        raise SearchError(f"{run}: its search has not begun. Go on with it first: --resume {run}")
    return trials
