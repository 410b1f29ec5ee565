"""Trials as a user reads them: in a line each, and as tables once they have ended."""

from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from rich.table import Table
from rich.text import Text

from search.record.endings import rank_trials
from search.retraining import Retraining, source_number
from training.messages import printable


def describe_params(params: Mapping[str, Any]) -> str:
    """`depth=4 kernel_size=3 optimizer=sgd learning_rate=0.05`, in the order given."""
    words = []
    for path, value in params.items():
        section, _, field = path.partition(".")
        text = (
            f"{value:.3g}"
            if isinstance(value, float)
            else str(value).lower()
            if isinstance(value, bool)
            else str(value)
        )
        words.append(f"{section if field == 'name' else field}={text}")
    return printable(" ".join(words))


def describe_difference(trial: FrozenTrial, defaults: Mapping[str, Any]) -> Text:
    """Where a trial's configuration differs from the defaults, which are trial 0's."""
    differing = {path: value for path, value in trial.params.items() if defaults.get(path) != value}
    return Text("the defaults" if trial.number == 0 else describe_params(differing))


def describe_ending(trial: FrozenTrial) -> str:
    """`COMPLETE`, `PRUNED by asha`, `FAIL: reason`."""
    if trial.state == TrialState.FAIL:
        return f"FAIL: {printable(trial.user_attrs.get('reason', 'unknown reason'))}"
    stopped_by = trial.user_attrs.get("stopped_by")
    return trial.state.name + (f" by {printable(stopped_by)}" if stopped_by else "")


def leaderboard(trials: list[FrozenTrial], width: int, rows: int = 10) -> Table:
    """The best trials of a search; on a terminal narrower than 120 columns without what they cost."""
    ranked = rank_trials(trials)[:rows]
    defaults = next((trial.params for trial in trials if trial.number == 0), {})
    columns: dict[str, Callable[[FrozenTrial], str]] = {
        "trial": lambda trial: str(trial.number),
        "val accuracy": lambda trial: f"{trial.value:.4f}",
        "epochs": lambda trial: str(max(trial.intermediate_values, default=0)),
    }
    if width >= 120:
        columns["params"] = lambda trial: f"{trial.user_attrs.get('num_params', 0):,}"
        columns["multiply-adds"] = lambda trial: f"{trial.user_attrs.get('multiply_adds', 0) / 1e6:.1f} M"
        columns["ending"] = describe_ending
    table = Table(*columns)
    table.add_column("configuration, where it differs from the defaults", overflow="fold")
    for trial in ranked:
        table.add_row(*(cell(trial) for cell in columns.values()), describe_difference(trial, defaults))
    return table


def summary_table(retraining: Retraining, trials: list[FrozenTrial]) -> Table:
    """What the trainings of each trial reached, the search's order kept."""
    table = Table("trial of the search", "val accuracy there", "trainings", "val accuracy at the last epoch")
    table.add_column("configuration, where it differs from the defaults", overflow="fold")
    defaults = retraining.trials[0].params
    for number in retraining.wanted:
        source = retraining.trials[number]
        values = [
            trial.value
            for trial in trials
            if source_number(trial) == number and trial.state == TrialState.COMPLETE and trial.value is not None
        ]
        table.add_row(
            str(number),
            "-"
            if source.value is None
            else f"{source.value:.4f} at epoch {max(source.intermediate_values, default=0)}",
            str(len(values)),
            _spread(values),
            describe_difference(source, defaults),
        )
    return table


def _spread(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else "-"
    return f"{fmean(values):.4f} on average, {min(values):.4f} to {max(values):.4f}"
