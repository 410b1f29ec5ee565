"""Trials of a search for checks, made by hand, and what the search's own parser makes of an advised command."""

import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from analysis.findings.checks import Check
from search.command_line import parse
from search.config import load_config
from search.plan import Plan, plan_search
from search.record.endings import INFEASIBLE_KEY

CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"
# Else they lie at ends of the space.
INSIDE = {"model.kernel_size": 5, "model.dropout": 0.2, "train.label_smoothing": 0.1, "train.batch_size": 128}
DEFAULTS = load_config(CONFIG).search_space.default_params() | INSIDE
EPOCHS = 9
START = datetime(2030, 1, 1)


def a_trial(
    accuracies: list[float] | float = (),  # type: ignore[assignment]
    state: TrialState = TrialState.COMPLETE,
    stopped_by: str | None = None,
    reason: str | None = None,
    source: str | None = None,
    infeasible: dict[str, Any] | None = None,
    **params: Any,
) -> FrozenTrial:
    """A trial with these val accuracies by epoch (one number: of all epochs); `__` stands for the dot of a path."""
    if isinstance(accuracies, float):
        accuracies = [accuracies * epoch / EPOCHS for epoch in range(1, EPOCHS)] + [accuracies]
    given_params = {path.replace("__", "."): value for path, value in params.items()}
    attrs = {"stopped_by": stopped_by, "reason": reason, "source": source, INFEASIBLE_KEY: infeasible}
    return FrozenTrial(
        number=-1,
        state=state,
        value=[0.1, *accuracies][-1] if state == TrialState.COMPLETE else None,
        datetime_start=START,
        datetime_complete=None if state == TrialState.RUNNING else START,
        params={path: value for path, value in (DEFAULTS | given_params).items() if value is not None},
        distributions={},
        user_attrs={key: value for key, value in attrs.items() if value is not None},
        system_attrs={},
        intermediate_values=dict(enumerate(accuracies, start=1)),
        trial_id=-1,
    )


def stopped(accuracy: float = 0.3, stopped_by: str = "asha", **params: Any) -> FrozenTrial:
    return a_trial([accuracy], TrialState.PRUNED, stopped_by=stopped_by, **params)


def infeasible(
    reason: str = "impossible network: conv3", why: dict[str, Any] | None = None, **params: Any
) -> FrozenTrial:
    """A refused proposal; `why`: as it is recorded, {} as in journals that have the reason alone."""
    why = {"kind": "impossible"} if why is None else why
    return a_trial([], TrialState.PRUNED, stopped_by="infeasible", reason=reason, infeasible=why or None, **params)


def plan_of(check: Check) -> Plan:
    """What the search makes of an advised command. Raises where it is not accepted."""
    assert check.command is not None
    python, program, *arguments = shlex.split(check.command)
    assert (python, program) == ("python", "run_search.py")
    return plan_search(parse(arguments))


def space_entry(plan: Plan, path: str) -> Any:
    """The bounds or choices of a path."""
    entry = plan.config.space[path]
    return entry.choice or entry.integer or entry.real
