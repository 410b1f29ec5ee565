"""What a user sees while a search runs: a live view on a terminal, and a line for every trial that ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.screen.leaderboard import describe_ending, describe_params
from training.messages import duration


@dataclass(frozen=True)
class RunningTrial:
    """A trial that a worker has; `epoch` is the last one it reported, 0 before the first."""

    number: int
    epoch: int
    epochs: int  # of the whole training
    val_accuracy: float
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Standing:
    """How a search stands."""

    num_samples: int | None  # None: the time alone ends it
    num_finished: int
    num_infeasible: int
    num_epochs: int  # trained since the command began
    states: Mapping[str, int]  # finished trials by state
    best: FrozenTrial | None  # of the COMPLETE ones
    running: Sequence[RunningTrial]
    seconds: float  # since the command began to train
    seconds_left: float | None  # None: not known yet

    @property
    def trials_done(self) -> str:
        if self.num_samples is None:
            return f"{self.num_finished} {'trial' if self.num_finished == 1 else 'trials'}"
        return f"{self.num_finished}/{self.num_samples} trials"


def line_of(trial: FrozenTrial, epoch: int, standing: Standing) -> Text:
    """What is said of a trial that has ended; `epoch` is the last one that it trained."""
    value = f"val_accuracy {trial.value:.4f} at epoch {epoch}" if trial.value is not None else ""
    best = "none complete yet" if standing.best is None else f"best {standing.best.value:.4f}"
    best += "" if standing.best is None else f" (trial {standing.best.number})"
    ending, params = describe_ending(trial), describe_params(trial.params)
    return Text(f"{standing.trials_done}  trial {trial.number} {ending}  {value}  [{best}]  {params}")


def draw(standing: Standing) -> Group:
    """The live view."""
    left = standing.seconds_left
    complete, pruned, failed = (standing.states.get(state, 0) for state in ("COMPLETE", "PRUNED", "FAIL"))
    counts = (
        f"{standing.trials_done}  {len(standing.running)} running  {complete} complete  "
        f"{pruned} pruned  {failed} failed  {standing.num_infeasible} infeasible\n"
        f"{duration(round(standing.seconds))} elapsed  "
        f"{standing.num_epochs / max(standing.seconds, 1e-9):.2f} epochs/s  "
        f"{'time left: not known yet' if left is None else f'{duration(round(left))} left'}"
    )
    bar = Table.grid(expand=True)
    if standing.num_samples is None:  # then the bar is one of time
        bar.add_row(ProgressBar(total=standing.seconds + (left or 0.0), completed=standing.seconds))
    else:
        bar.add_row(ProgressBar(total=standing.num_samples, completed=standing.num_finished))
    return Group(bar, Text(counts), _best(standing.best), _running(standing.running))


def _best(trial: FrozenTrial | None) -> Text:
    if trial is None:
        return Text("no trial has completed yet", style="dim")
    return Text(
        f"best val_accuracy {trial.value:.4f}, trial {trial.number}: {describe_params(trial.params)}", style="bold"
    )


def _running(trials: Sequence[RunningTrial]) -> Table:
    table = Table("trial", "epoch", "val_accuracy", "configuration", box=None, padding=(0, 2, 0, 0))
    for trial in trials:
        accuracy = f"{trial.val_accuracy:.4f}" if trial.epoch else "-"
        params = Text(describe_params(trial.params), no_wrap=True)
        table.add_row(str(trial.number), f"{trial.epoch}/{trial.epochs}", accuracy, params)
    return table
