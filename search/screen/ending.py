"""What a command prints when its search has ended: the leaderboard, and what to do next."""

import shlex
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.text import Text

from search.plan import Plan, resume_command, shortest
from search.record.endings import Ending, ending_of, rank_trials
from search.screen.leaderboard import describe_params, leaderboard, summary_table
from training.messages import printable


@dataclass(frozen=True)
class Outcome:
    """How a search ended: `gave_up` is the reason where it found no feasible network, `out_of_time` by its budget."""

    trials: list[FrozenTrial]
    interrupted: bool
    gave_up: str | None
    out_of_time: bool


def report(outcome: Outcome, plan: Plan, console: Console) -> int:
    """Print what a command reached and what to do next; gives the exit code."""
    if outcome.interrupted:
        console.print(Text(f"Stopped; no finished epoch is lost.\n{resume_command(plan)}"))
        return 130
    if plan.retraining is None:
        return _report_search(outcome, plan, console)
    failed = [trial for trial in outcome.trials if trial.state == TrialState.FAIL]
    if failed:
        reason = printable(failed[-1].user_attrs.get("reason", "unknown"))
        console.print(Text(f"{len(failed)} training(s) failed; the last: {reason}\n{resume_command(plan)}", "bold red"))
    console.print(summary_table(plan.retraining, outcome.trials))
    source = shlex.quote(shortest(plan.retraining.source))
    console.print(Text(f"Results: {shlex.quote(shortest(plan.run))}\nWhat they say:\n  python -m analysis {source}"))
    return 0 if any(trial.state == TrialState.COMPLETE for trial in outcome.trials) else 1


def _report_search(outcome: Outcome, plan: Plan, console: Console) -> int:
    """The leaderboard, and how to evaluate its best trial."""
    run = shlex.quote(shortest(plan.run))
    failed = [trial for trial in outcome.trials if trial.state == TrialState.FAIL]
    if outcome.gave_up:
        console.print(
            Text(f"The search stopped: {outcome.gave_up}. Widen the space or the bounds in search.", "bold red")
        )
    if outcome.out_of_time:
        console.print(Text(f"The time budget of {plan.config.search.time_budget} is over."))
    if failed:
        reason = printable(failed[0].user_attrs.get("reason", "unknown"))
        console.print(Text(f"{len(failed)} trial(s) failed; the first, trial {failed[0].number}: {reason}", "bold red"))
    ranked = [trial for trial in rank_trials(outcome.trials) if ending_of(trial) != Ending.DIVERGED]
    if not ranked:
        why = "No trial had finished an epoch" if outcome.out_of_time and not failed else "No trial succeeded"
        console.print(Text(f"{why}. What there is: {run}", "bold red"))
        return 1
    console.print(leaderboard(outcome.trials, console.width))
    best, num_infeasible = ranked[0], sum(ending_of(trial) == Ending.INFEASIBLE for trial in outcome.trials)
    provisional = "" if best.state == TrialState.COMPLETE else ", provisional, as no trial trained all its epochs"
    console.print(Text(f"Best{provisional}: trial {best.number}, {describe_params(best.params)}"))
    if num_infeasible:
        console.print(Text(f"{num_infeasible} infeasible proposals took a number and no training.", style="dim"))
    console.print(Text(f"Results: {run}\nEvaluate the best model on the test set:\n  python -m analysis {run}"))
    return 0
