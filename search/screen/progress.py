"""What a user sees while a search runs: a live view on a terminal, plain lines elsewhere, and TensorBoard's curves."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from ray.tune.progress_reporter import TrialProgressCallback
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.record.endings import counts_towards_num_samples, is_own, rank_trials
from search.record.storage import StorageError
from search.screen.event_file import EventFile
from search.screen.hparams import (
    OBJECTIVE_CURVE,
    experiment,
    hparam_columns,
    hparam_values,
    session_end,
    session_start,
)
from search.workers.bridge import METRIC, TIME_ATTR, LiveTrial, StudySearcher
from training.messages import printable

OUT_OF_MEMORY = r"MemoryError|[Oo]ut of memory|can't allocate memory|Unable to allocate"  # Python, CUDA, torch, numpy
CURVES = {
    "loss/train": "train_loss",
    "loss/val": "val_loss",
    "accuracy/train": "train_accuracy",
    OBJECTIVE_CURVE: "val_accuracy",
    "learning_rate": "learning_rate",
    "epoch_seconds": "epoch_seconds",
}


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


def describe_ending(trial: FrozenTrial) -> str:
    """`COMPLETE`, `PRUNED by asha`, `FAIL: reason`."""
    if trial.state == TrialState.FAIL:
        return f"FAIL: {printable(trial.user_attrs.get('reason', 'unknown reason'))}"
    stopped_by = trial.user_attrs.get("stopped_by")
    return trial.state.name + (f" by {printable(stopped_by)}" if stopped_by else "")


class Progress(TrialProgressCallback):  # in place of Ray's own, which prints of its own accord
    """Ray calls it with every result; it draws, writes TensorBoard events, and tells the searcher of failures."""

    def __init__(self, searcher: StudySearcher, run: Path, console: Console) -> None:
        self.searcher, self.run, self.console = searcher, run, console
        self.started = time.monotonic()
        self.finished_before = searcher.num_finished
        self.num_epochs = 0
        self.states: dict[str, int] = {}
        self.latest: dict[str, tuple[int, float]] = {}  # Ray's id of a live trial: (epoch, val_accuracy)
        self.best: tuple[float, int, dict[str, Any]] | None = None  # of COMPLETE trials
        self.events: dict[str, EventFile] = {}  # by Ray's id of a live trial
        self.columns = hparam_columns(searcher.space)
        for trial in searcher.study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                self._count(trial)
        self.live = Live(console=console, get_renderable=self._draw, refresh_per_second=2, transient=True)

    def __enter__(self) -> "Progress":
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Ray pickles its Tuner; nobody reads it

    # What Ray calls

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self.searcher.on_trial_start(trial.trial_id)
        if trial.trial_id not in self.events:  # else its worker died, and it starts again
            self._open_events(trial, self.searcher.live[trial.trial_id])

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        epoch = int(result[TIME_ATTR])
        for problem in result.get("passed_over", ()):
            self.console.print(
                Text(f"trial {trial.config['number']}: {printable(problem)}", style="yellow"), soft_wrap=True
            )
        if self.latest.get(trial.trial_id, (0, 0.0))[0] < epoch:
            self.num_epochs += 1
            self.latest[trial.trial_id] = epoch, float(result[METRIC])
            self._add_scalars(trial, epoch, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        self._end(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        reason = _failure_reason(trial)
        if "StorageError: " in reason:  # no fault of the trial, which stays RUNNING: the search stops, to be resumed
            raise StorageError(reason.rpartition("StorageError: ")[2])
        self.searcher.fail(trial.trial_id, reason)
        self._end(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        for trial in trials:  # Ray tells nobody where a reused worker could not be reset
            if trial.status == "ERROR" and trial.trial_id in self.searcher.live:
                self.on_trial_error(iteration, trials, trial)

    # Counting and drawing

    def _end(self, trial: Any) -> None:
        epoch, _ = self.latest.pop(trial.trial_id, (0, 0.0))
        number = trial.config["number"]
        frozen = self.searcher.study.get_trials(deepcopy=False)[number]
        events = self.events.pop(trial.trial_id, None)
        if events is not None and frozen.state.is_finished():
            events.add(session_end(frozen))
        if not frozen.state.is_finished():
            return  # interrupted
        self._count(frozen)
        value = f"val_accuracy {frozen.value:.4f} at epoch {epoch}" if frozen.value is not None else ""
        best = f"best {self.best[0]:.4f} (trial {self.best[1]})" if self.best else "none complete yet"
        done = self._trials_done()
        line = f"{done}  trial {number} {describe_ending(frozen)}  {value}  [{best}]  {describe_params(frozen.params)}"
        # On a terminal the live view follows: one line a trial. A log keeps the whole configuration.
        shape: dict[str, Any] = (
            {"no_wrap": True, "overflow": "ellipsis"} if self.live.is_started else {"soft_wrap": True}
        )
        self.console.print(Text(line), **shape)

    def _count(self, trial: FrozenTrial) -> None:
        if counts_towards_num_samples(trial):
            self.states[trial.state.name] = self.states.get(trial.state.name, 0) + 1
        if trial.state == TrialState.COMPLETE and trial.value is not None and is_own(trial):
            self.best = max(self.best or (-1.0, -1, {}), (trial.value, trial.number, trial.params), key=lambda b: b[0])

    def _trials_done(self) -> str:
        total, finished = self.searcher.config.search.num_samples, self.searcher.num_finished
        if total is None:
            return f"{finished} {'trial' if finished == 1 else 'trials'}"
        return f"{finished}/{total} trials"

    def _seconds_left(self) -> float | None:
        """To the last trial or the end of the time budget, whichever comes first; None: not known yet."""
        total, done_here = self.searcher.config.search.num_samples, self.searcher.num_finished - self.finished_before
        now, estimates = time.monotonic(), []
        if self.searcher.ends_at is not None:
            estimates.append(max(0.0, self.searcher.ends_at - now))
        if total is not None and done_here:
            estimates.append((now - self.started) / done_here * (total - self.searcher.num_finished))
        return min(estimates, default=None)

    def _draw(self) -> Group:
        seconds, seconds_left = time.monotonic() - self.started, self._seconds_left()
        left = "time left: not known yet" if seconds_left is None else f"{_clock(seconds_left)} left"
        running = sum(live.started for live in self.searcher.live.values())
        complete, pruned, failed = (self.states.get(state, 0) for state in ("COMPLETE", "PRUNED", "FAIL"))
        counts = (
            f"{self._trials_done()}  {running} running  {complete} complete  "
            f"{pruned} pruned  {failed} failed  {self.searcher.num_infeasible} infeasible\n"
            f"{_clock(seconds)} elapsed  {self.num_epochs / max(seconds, 1e-9):.2f} epochs/s  {left}"
        )
        bar = Table.grid(expand=True)
        total = self.searcher.config.search.num_samples
        if total is None:  # then the bar is one of time
            bar.add_row(ProgressBar(total=seconds + (seconds_left or 0.0), completed=seconds))
        else:
            bar.add_row(ProgressBar(total=total, completed=self.searcher.num_finished))
        return Group(bar, Text(counts), self._draw_best(), self._draw_running())

    def _draw_best(self) -> Text:
        if self.best is None:
            return Text("no trial has completed yet", style="dim")
        value, number, params = self.best
        return Text(f"best val_accuracy {value:.4f}, trial {number}: {describe_params(params)}", style="bold")

    def _draw_running(self) -> Table:
        table = Table("trial", "epoch", "val_accuracy", "configuration", box=None, padding=(0, 2, 0, 0))
        for trial_id, live in list(self.searcher.live.items()):
            if not live.started:
                continue
            epoch, value = self.latest.get(trial_id, (0, float("nan")))
            progress = f"{epoch}/{live.config.train.epochs}"
            accuracy = f"{value:.4f}" if epoch else "-"
            table.add_row(str(live.number), progress, accuracy, Text(describe_params(live.trial.params), no_wrap=True))
        return table

    def _open_events(self, trial: Any, live: LiveTrial) -> None:
        self.events[trial.trial_id] = EventFile(self.run / trial_directory(trial))
        values = hparam_values(self.searcher.space, live.trial.params)
        self.events[trial.trial_id].add(experiment(self.columns), session_start(self.columns, values))
        for result in live.results:
            self._add_scalars(trial, result.epoch, asdict(result))

    def _add_scalars(self, trial: Any, epoch: int, result: Mapping[str, Any]) -> None:
        values = {tag: float(result[key]) for tag, key in CURVES.items()}
        self.events[trial.trial_id].add_scalars(values, epoch)


def trial_directory(trial: Any) -> str:
    """`trial_0007_<Ray's id>`."""
    return f"trial_{trial.config['number']:04d}_{trial.trial_id}"


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
        differing = {path: value for path, value in trial.params.items() if defaults.get(path) != value}
        configuration = "the defaults" if trial.number == 0 else describe_params(differing)
        table.add_row(*(cell(trial) for cell in columns.values()), Text(configuration))
    return table


def _failure_reason(trial: Any) -> str:
    try:
        return failure_reason(Path(trial.error_file).read_text())
    except (OSError, TypeError, IndexError):
        return "the worker died"


def failure_reason(text: str) -> str:
    """What the last of the failures that Ray wrote down comes to, in one line. Raises IndexError for an empty text."""
    lines = [line.strip() for line in text.rpartition("Failure # ")[2].strip().splitlines()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Killed)\b", line)]
    died = [line for line in lines if "worker process has died" in line or ("node" in line and "died" in line)]
    reason = (errors or died or lines)[-1][:500]
    low = re.search(r"low on memory[^\n]* was ([^\n(]*)", text.rpartition("Failure # ")[2])
    if low is not None:
        return f"out of memory: Ray ended the worker, as its node was running low ({low[1].strip()})"
    return f"out of memory: {reason}" if re.search(OUT_OF_MEMORY, reason) else reason


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
