"""What Ray Tune calls with every result and failure: tells the searcher, writes TensorBoard's events, draws."""

import contextlib
import pickle
import re
import time
import traceback
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.error import TuneError
from ray.tune.progress_reporter import TrialProgressCallback
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from search.record.endings import counts_towards_num_samples, is_own
from search.record.run_directory import trial_directory
from search.record.storage import StorageError
from search.screen.live import RunningTrial, Standing, draw, line_of
from search.screen.tensorboard import (
    CURVES,
    EventFile,
    experiment,
    hparam_columns,
    hparam_values,
    session_end,
    session_start,
)
from search.workers.bridge import METRIC, TIME_ATTR, LiveTrial, StudySearcher
from training.messages import printable

OUT_OF_MEMORY = r"[Oo]ut of memory|can't allocate memory"  # CUDA's words, and torch's: a RuntimeError
LONGEST_REASON = 500  # characters


class Progress(TrialProgressCallback):  # in place of Ray's own, which prints of its own accord
    """Follows the trials of a searcher; on a terminal with a live view, while it is entered."""

    def __init__(self, searcher: StudySearcher, run: Path, console: Console) -> None:
        self.searcher, self.run, self.console = searcher, run, console
        self.started = time.monotonic()
        self.finished_before = searcher.num_finished
        self.num_epochs = 0
        self.states: Counter[str] = Counter()
        self.latest: dict[str, tuple[int, float]] = {}  # Ray's id of a live trial: (epoch, val_accuracy)
        self.best: FrozenTrial | None = None  # of COMPLETE trials
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
        error = last_error(trial)
        if isinstance(error, StorageError):  # the trial is to be resumed, and stays RUNNING
            raise error
        self.searcher.fail(trial.trial_id, reason_of(error))
        self._end(trial)

    def on_step_end(self, iteration: int, trials: list[Any], **_: Any) -> None:
        for trial in trials:  # Ray tells nobody where a reused worker could not be reset
            if trial.status == "ERROR" and trial.trial_id in self.searcher.live:
                self.on_trial_error(iteration, trials, trial)

    # What is seen of it

    def _end(self, trial: Any) -> None:
        epoch, _ = self.latest.pop(trial.trial_id, (0, 0.0))
        frozen = self.searcher.study.get_trials(deepcopy=False)[trial.config["number"]]
        events = self.events.pop(trial.trial_id, None)
        if not frozen.state.is_finished():
            return  # interrupted
        if events is not None:
            events.add(session_end(frozen))
        self._count(frozen)
        # On a terminal the live view follows: one line a trial. A log keeps the whole configuration.
        shape: dict[str, Any] = (
            {"no_wrap": True, "overflow": "ellipsis"} if self.live.is_started else {"soft_wrap": True}
        )
        self.console.print(line_of(frozen, epoch, self.standing()), **shape)

    def _count(self, trial: FrozenTrial) -> None:
        if counts_towards_num_samples(trial):
            self.states[trial.state.name] += 1
        if trial.state == TrialState.COMPLETE and trial.value is not None and is_own(trial):
            self.best = max(self.best or trial, trial, key=lambda each: each.value or 0.0)

    def _draw(self) -> Group:
        return draw(self.standing())

    def standing(self) -> Standing:
        """How the search stands now; also called from the live view's thread."""
        searcher, running = self.searcher, []
        for trial_id, live in list(searcher.live.items()):
            if live.started:
                epoch, value = self.latest.get(trial_id, (0, 0.0))
                params = live.trial.params
                running.append(RunningTrial(live.number, epoch, live.config.train.epochs, value, params))
        return Standing(
            searcher.config.search.num_samples,
            searcher.num_finished,
            searcher.num_infeasible,
            self.num_epochs,
            self.states,
            self.best,
            running,
            time.monotonic() - self.started,
            self._seconds_left(),
        )

    def _seconds_left(self) -> float | None:
        """To the last trial or the end of the time budget, whichever comes first; None: not known yet."""
        total, done_here = self.searcher.config.search.num_samples, self.searcher.num_finished - self.finished_before
        now, estimates = time.monotonic(), []
        if self.searcher.ends_at is not None:
            estimates.append(max(0.0, self.searcher.ends_at - now))
        if total is not None and done_here:
            estimates.append((now - self.started) / done_here * (total - self.searcher.num_finished))
        return min(estimates, default=None)

    def _open_events(self, trial: Any, live: LiveTrial) -> None:
        self.events[trial.trial_id] = EventFile(self.run / trial_directory(live.number, trial.trial_id))
        values = hparam_values(self.searcher.space, live.trial.params)
        self.events[trial.trial_id].add(experiment(self.columns), session_start(self.columns, values))
        for result in live.results:
            self._add_scalars(trial, result.epoch, asdict(result))

    def _add_scalars(self, trial: Any, epoch: int, result: Mapping[str, Any]) -> None:
        values = {tag: float(result[key]) for tag, key in CURVES.items()}
        self.events[trial.trial_id].add_scalars(values, epoch)


def last_error(trial: Any) -> BaseException:
    """What one of Ray's trials failed of at last; what its worker raised, if it did so.

    Ray keeps the exceptions of workers. Of one of this process it keeps the traceback, whose last line names the class.
    """
    try:
        text = Path(trial.error_file).read_text()
    except (OSError, TypeError):
        return TuneError("the worker died")
    with contextlib.suppress(Exception):  # there is none, or it is of a class that only the worker has
        error = pickle.loads(Path(trial.pickled_error_file).read_bytes())  # which this process has written
        if text.endswith(f"{error}\n"):  # else it is from an earlier try
            return error.cause if isinstance(error, RayTaskError) else error
    last_line = (text.strip().splitlines() or ["the worker died"])[-1]
    name, _, message = last_line.partition(": ")
    return StorageError(message) if name.endswith(StorageError.__name__) else TuneError(last_line)


def reason_of(error: BaseException) -> str:
    """Why a trial failed, in a line for the user; that memory was short comes first in it."""
    if isinstance(error, RayActorError):
        low = re.search(r"low on memory[^\n]* was ([^\n(]*)", str(error))  # Ray's words: no class
        if low is not None:
            return f"out of memory: Ray ended the worker, as its node was running low ({low[1].strip()})"
        return f"the worker died: {str(error).strip().splitlines()[-1]}"[:LONGEST_REASON]
    if isinstance(error, TuneError):
        return str(error)[:LONGEST_REASON]
    reason = "".join(traceback.format_exception_only(error)).strip().splitlines()[0][:LONGEST_REASON]
    is_short = isinstance(error, MemoryError) or re.search(OUT_OF_MEMORY, reason)
    return f"out of memory: {reason}" if is_short else reason
