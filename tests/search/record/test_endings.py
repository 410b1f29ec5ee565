"""Endings as values: what the journal holds, which trials count, how they rank."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from search.record.endings import (
    Ending,
    Infeasible,
    counts_towards_num_samples,
    end_infeasible,
    ending,
    ending_of,
    infeasibility_of,
    rank_trials,
)


@pytest.mark.parametrize(
    ("state", "stopped_by", "expected"),
    [
        ("COMPLETE", None, Ending.COMPLETE),
        ("FAIL", None, Ending.FAILED),
        ("RUNNING", "asha", Ending.RUNNING),
        ("PRUNED", "time_budget", Ending.TIME_BUDGET),
        ("PRUNED", "diverged", Ending.DIVERGED),
        ("PRUNED", "infeasible", Ending.INFEASIBLE),
        ("PRUNED", None, Ending.ASHA),
        ("PRUNED", "something that a later version writes", Ending.ASHA),
    ],
)
def test_endings_follow_from_what_the_journal_holds(state: str, stopped_by: str | None, expected: Ending) -> None:
    assert ending(state, stopped_by) == expected


def test_why_a_network_is_infeasible_survives_the_journal() -> None:
    study = optuna.create_study()
    written = Infeasible("max_params", "num_params 300 > search.max_params 100", 300, 100)
    end_infeasible(study, study.ask(), written)
    end_infeasible(study, study.ask(), Infeasible("impossible", "impossible network: pool5"))
    above, impossible = study.trials
    assert infeasibility_of(above) == written and above.constraints == {"feasible": 2.0}
    assert infeasibility_of(impossible) == Infeasible("impossible", "impossible network: pool5")
    assert ending_of(above) == Ending.INFEASIBLE and above.value is None
    assert not counts_towards_num_samples(above)


@pytest.mark.parametrize(
    "attribute",
    [
        None,
        {"kind": "max_params", "a new field": 1},
        {"kind": ["max_params"]},
        {"kind": "max_params", "cost": 300, "bound": {}},
        "max_params",
    ],
)
def test_of_journals_of_other_versions_the_kind_is_unknown(attribute: object) -> None:
    attributes = {"stopped_by": "infeasible", "reason": "num_params 300 > search.max_params 100"}
    attributes |= {} if attribute is None else {"infeasible": attribute}
    trial = create_trial(state=TrialState.PRUNED, user_attrs=attributes)
    assert ending_of(trial) == Ending.INFEASIBLE and infeasibility_of(trial) is None


def test_complete_trials_come_first_and_diverged_ones_last() -> None:
    def trial(state: TrialState, values: list[float], **attributes: str) -> optuna.trial.FrozenTrial:
        return create_trial(
            state=state, value=values[-1], intermediate_values=dict(enumerate(values, 1)), user_attrs=attributes
        )

    trials = [
        trial(TrialState.PRUNED, [0.9, 0.9, 0.0], stopped_by="diverged"),
        trial(TrialState.PRUNED, [0.6], stopped_by="asha"),
        trial(TrialState.COMPLETE, [0.1, 0.2, 0.5]),
        trial(TrialState.PRUNED, [0.1, 0.2], stopped_by="time_budget"),
        trial(TrialState.COMPLETE, [0.1, 0.2, 0.7]),
        trial(TrialState.COMPLETE, [0.1, 0.2, 0.9], source="earlier#3"),
    ]
    ranked = rank_trials(trials)
    assert [len(each.intermediate_values) for each in ranked] == [3, 3, 2, 1, 3]
    assert [each.value for each in ranked] == [0.7, 0.5, 0.2, 0.6, 0.0]
