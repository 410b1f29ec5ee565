"""All checks together, over searches of every state."""

import random
import shlex

import pytest
from checked_searches import a_trial, infeasible, plan_of, stopped
from optuna.trial import FrozenTrial, TrialState

from analysis.findings.checks import Check, checks
from analysis.findings.checks.check import VERDICTS
from search.command_line import parse


def assert_sound(found: list[Check]) -> None:
    """Sorted, finished sentences, no NaN; every command is accepted (retraining itself needs a real journal)."""
    order = [VERDICTS.index(check.verdict) for check in found]
    assert order == sorted(order)
    for check in found:
        for text in (check.name, check.finding, check.advice):
            assert text and "nan" not in text.lower().split() and "inf" not in text.lower().split()
            assert "None" not in text
        assert check.finding.endswith(".") and check.advice.endswith(".")
        assert ".." not in check.finding and "  " not in check.finding
        if check.command and ("--audit" in check.command or "--confirm" in check.command):
            parse(shlex.split(check.command)[2:])
        elif check.command:
            plan_of(check)


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [a_trial(0.8)],
        [a_trial([0.1, 0.2], TrialState.RUNNING), a_trial([], TrialState.RUNNING)],
        [a_trial([], TrialState.FAIL, reason="<script>alert(1)</script> $\\frac{"), a_trial([], TrialState.FAIL)],
        [stopped(0.1, "diverged"), stopped(0.1, "diverged")],
        [infeasible(), infeasible(reason=""), infeasible(reason="", why={})],
        [a_trial([], TrialState.PRUNED, stopped_by="time_budget", reason="the time was over")],
        [a_trial(0.8), a_trial(0.8), a_trial(0.8), stopped(0.8)],
        [a_trial([]), a_trial(0.0)],
    ],
)
def test_small_broken_and_unfinished_searches_are_survived(make, trials):
    found = checks(make(trials), n_val=100)
    assert len(found) == 7
    assert_sound(found)
    if not any(trial.state == TrialState.COMPLETE for trial in trials):
        assert sum(check.verdict == "unknown" for check in found) >= 4


def test_a_large_search_of_every_ending_is_survived(make):
    rng = random.Random(0)

    def any_trial() -> FrozenTrial:
        params = {
            "optimizer.learning_rate": 10 ** rng.uniform(-3.3, -0.3),
            "optimizer.momentum": rng.choice([None, rng.uniform(0.8, 0.99)]),
            "model.width": rng.choice([8, 16, 24, 32]),
            "model.depth": rng.randint(2, 5),
        }
        keys = {path.replace(".", "__"): value for path, value in params.items()}
        return rng.choice(
            [
                lambda: a_trial(round(rng.uniform(0.1, 0.9), 2), **keys),
                lambda: stopped(rng.random(), **keys),
                lambda: a_trial([rng.random() for _ in range(3)], TrialState.PRUNED, stopped_by="asha", **keys),
                lambda: stopped(0.1, "diverged", **keys),
                lambda: a_trial([], TrialState.FAIL, reason="lost", **keys),
                lambda: infeasible(**keys),
                lambda: a_trial([0.2], TrialState.RUNNING, **keys),
            ]
        )()

    found = checks(make([a_trial(0.5), *(any_trial() for _ in range(1000))]), n_val=12_500)
    assert len(found) == 7
    assert_sound(found)
