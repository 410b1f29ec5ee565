"""How trials end, which of them count, and how they rank: values that the journal, the screen and the report share."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Literal

from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

INFEASIBLE_KEY = "infeasible"  # user attribute: an Infeasible as a mapping
SOURCE = "source"  # user attribute of trials that come from earlier searches: RUN#number
SOURCE_NUMBER = "source_number"  # user attribute of trials that repeat or continue one of a search


class Ending(StrEnum):
    """How a trial ended, or that it has not; the values of PRUNED ones stand in the journal as `stopped_by`."""

    COMPLETE = "complete"  # trained all epochs
    ASHA = "asha"  # stopped at a rung
    TIME_BUDGET = "time_budget"
    DIVERGED = "diverged"  # a loss was not finite
    FAILED = "failed"
    RUNNING = "running"
    INFEASIBLE = "infeasible"  # never trained


def ending(state: str, stopped_by: str | None) -> Ending:
    """The ending of a trial from the name of its state and its `stopped_by`, both as in the journal."""
    match state:
        case "COMPLETE":
            return Ending.COMPLETE
        case "FAIL":
            return Ending.FAILED
        case "PRUNED":
            return Ending(stopped_by) if stopped_by in set(Ending) else Ending.ASHA
    return Ending.RUNNING


def ending_of(trial: FrozenTrial) -> Ending:
    """The ending of a trial of a study."""
    return ending(trial.state.name, trial.user_attrs.get("stopped_by"))


@dataclass(frozen=True)
class Infeasible:
    """Why a network is not trained. `cost` and `bound` are those of a network above a bound, else None."""

    # impossible: a layer does not fit its input; unfit: values do not go together; others: above search.<kind>.
    kind: Literal["impossible", "unfit", "max_params", "max_multiply_adds"]
    reason: str  # in words
    cost: int | None = None
    bound: int | None = None

    @property
    def violation(self) -> float:
        """Above 0; for the sampler, which may learn from by how much."""
        return 1.0 if self.cost is None or self.bound is None else self.cost / self.bound - 1

    @property
    def kind_in_words(self) -> str:
        match self.kind:
            case "impossible":
                return "impossible network"
            case "unfit":
                return "values that do not go together"
        return f"above search.{self.kind}"


def infeasibility_of(trial: FrozenTrial) -> Infeasible | None:
    """Why a trial is infeasible; None for other trials, and if it was not written as this version does."""
    try:
        why = Infeasible(reason=trial.user_attrs["reason"], **trial.user_attrs[INFEASIBLE_KEY])
    except (TypeError, KeyError):  # TypeError: it is no mapping, or one of other fields
        return None
    is_known = isinstance(why.kind, str) and all(isinstance(number, int | None) for number in (why.cost, why.bound))
    return why if is_known else None


def end_pruned(study: Study, trial: Trial, ending: Ending, reason: str | None = None) -> None:
    """Tell the study that a trial is PRUNED, by whom, and why."""
    trial.set_user_attr("stopped_by", str(ending))
    if reason is not None:
        trial.set_user_attr("reason", reason)
    study.tell(trial, state=TrialState.PRUNED)


def end_infeasible(study: Study, trial: Trial, why: Infeasible) -> None:
    """Tell the study that a proposal is refused before any training."""
    trial.set_constraint("feasible", why.violation)
    written = {name: value for name, value in asdict(why).items() if name != "reason" and value is not None}
    trial.set_user_attr(INFEASIBLE_KEY, written)
    end_pruned(study, trial, Ending.INFEASIBLE, why.reason)


def is_own(trial: FrozenTrial) -> bool:
    """Whether a trial is this search's: not taken over from an earlier one."""
    return SOURCE not in trial.user_attrs


def is_trained(ending: Ending, epochs: int) -> bool:
    """Whether training was or is tried: no infeasible proposals, and none that the time budget left no epoch."""
    return ending != Ending.INFEASIBLE and not (ending == Ending.TIME_BUDGET and epochs == 0)


def counts_towards_num_samples(trial: FrozenTrial) -> bool:
    """Whether a trial is one of the N of its search, and finished."""
    return trial.state.is_finished() and is_own(trial) and is_trained(ending_of(trial), len(trial.intermediate_values))


def rank(ending: Ending, epochs: int, val_accuracy: float) -> tuple[bool, bool, int, float]:
    """A key to sort trials by, the worst first: COMPLETE ones by val_accuracy, then others by how far they got.

    A diverged one comes before all others, however far it got.
    """
    return ending == Ending.COMPLETE, ending != Ending.DIVERGED, epochs, val_accuracy


def rank_trials(trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    """The search's own trials that have a value, best first."""
    known = [trial for trial in trials if trial.value is not None and is_own(trial)]

    def key(trial: FrozenTrial) -> Any:
        return rank(ending_of(trial), len(trial.intermediate_values), trial.value or 0.0)

    return sorted(known, key=key, reverse=True)
