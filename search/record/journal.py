"""The journal, which is the record: opened and mended by its only writer, read by everybody else."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from search.config import SearchConfig
from search.record.endings import SOURCE, SOURCE_NUMBER, is_own
from search.record.environment import starts
from search.record.run_directory import CONFIG, JOURNAL, SearchError, locks_of_journal, trial_number
from search.record.storage import patiently
from training.messages import shown

CREATE_TRIAL = 4  # Optuna's code of that operation
SEARCH = "search"  # user attribute of the study: which search it is of
RESTORE = "Restore it from a copy, or start a new search: the checkpoints beside it stay as they are."


class JournalError(Exception):
    """A journal that cannot be read: says why."""


def read_trials(journal: Path) -> list[FrozenTrial] | None:
    """The trials of a journal that have begun, maybe while it is written to; None: it holds no study yet.

    A torn last line is passed over. Raises JournalError.
    """
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        studies = storage.get_all_studies()
        trials = all_trials(storage, studies[0].study_name) if studies else []
        for trial in trials:
            check_trial(trial)
    except Exception as error:  # Optuna raises whatever a damaged line leads to
        raise JournalError(f"{journal} is damaged ({error!r})") from error
    return [trial for trial in trials if trial.state != TrialState.WAITING] if studies else None


def all_trials(storage: JournalStorage, study_name: str) -> list[FrozenTrial]:
    return storage.get_all_trials(storage.get_study_id_from_name(study_name), deepcopy=False)


def check_trial(trial: FrozenTrial) -> None:
    """Raises for a trial that no search has written: Optuna reads a journal without looking at types."""
    values = trial.values or []
    if len(values) != (1 if trial.state == TrialState.COMPLETE else trial.values is not None):
        raise ValueError(f"trial {trial.number} is {trial.state.name} with {len(values)} values")
    for number in (*values, *trial.intermediate_values.values(), *trial.constraints.values()):
        if not isinstance(number, int | float):
            raise TypeError(f"trial {trial.number} has {shown(number)} where a number must be")
    for name in ("stopped_by", "reason", SOURCE):
        if not isinstance(trial.user_attrs.get(name), str | None):
            raise TypeError(f"trial {trial.number} has {shown(trial.user_attrs[name])} as its {name}")
    for name in (SOURCE_NUMBER, "num_params", "multiply_adds"):
        value = trial.user_attrs.get(name, 0)
        if not isinstance(value, int) or not 0 <= value < 2**63:
            raise TypeError(f"trial {trial.number} has {shown(value)} as its {name}")


class WaitingJournal(BaseJournalBackend):
    """A journal that waits where its file cannot be written, and leaves no half of a line behind for the next try."""

    def __init__(self, journal: Path, patience: float, notice: Callable[[str], None]) -> None:
        self.journal, self.patience, self.notice = journal, patience, notice
        self.lock = JournalFileSymlinkLock(str(journal))
        self.unwritten: list[dict[str, Any]] | None = None  # of `together`
        self.read_so_far = 0, 0  # lines, bytes
        journal.touch()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Raises StorageError where the file stays away for longer than `patience` seconds."""
        if self.unwritten is not None:
            self.unwritten += json.loads(json.dumps(logs))  # as they will be read
            return
        with self.locked():
            self.write(logs)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The entries from this one on. What another process has not written to its end is passed over."""
        number, offset = self.read_so_far if log_number_from >= self.read_so_far[0] else (0, 0)
        with self.journal.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                if number >= log_number_from:
                    yield json.loads(line)
                number, offset = number + 1, offset + len(line)
        self.read_so_far = number, offset
        yield from (self.unwritten or [])[max(0, log_number_from - number) :]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what this block appends at its end: one lock and one fsync for the 20 to 60 lines of a proposal.

        Others can append before it or after it. Raises StorageError as `append_logs` does.
        """
        with self.locked():
            self.unwritten = []
            try:
                yield
            finally:
                unwritten, self.unwritten = self.unwritten, None
                if unwritten:
                    self.write(unwritten)

    @contextmanager
    def locked(self) -> Iterator[None]:
        patiently(self.lock.acquire, self.patience, self.notice)
        try:
            yield
        finally:
            with suppress(RuntimeError):  # the directory went away, with the lock in it
                self.lock.release()

    def write(self, logs: list[dict[str, Any]]) -> None:
        content = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        before: list[int] = []

        def append() -> None:
            size = self.journal.stat().st_size
            if not before:
                before.append(size)
            elif size > before[0]:
                os.truncate(self.journal, before[0])
            with self.journal.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

        patiently(append, self.patience, self.notice)


_journals: WeakKeyDictionary[optuna.Study, WaitingJournal] = WeakKeyDictionary()  # of `open_study`


def written_together(study: optuna.Study) -> AbstractContextManager[None]:
    """A block whose entries in a study's journal are written at its end, at once; `open_study` has opened the study."""
    return _journals[study].together() if study in _journals else nullcontext()


def open_study(
    run: Path, config: SearchConfig | None, patience: float = 0.0, notice: Callable[[str], None] = print
) -> optuna.Study:
    """The one study of a locked run directory, made where it is new. Mends what a SIGKILL leaves in the journal, and
    touches none that is damaged or another search's. Raises SearchError.

    The config itself is queued as trial 0 of an empty study; None: its trials are queued by others. Where storage does
    not answer, writing waits up to `patience` seconds, and `notice` is told.
    """
    journal = run / JOURNAL
    check_journal(run, config)
    drop_torn_line(journal)
    for lock in locks_of_journal(run):  # ours alone: we hold the directory's
        lock.unlink(missing_ok=True)
    backend = WaitingJournal(journal, patience, notice)
    storage = JournalStorage(backend)
    names = [study.study_name for study in storage.get_all_studies()]
    if names:
        study = optuna.load_study(study_name=names[0], storage=storage)
    else:
        study = optuna.create_study(study_name=run.name, storage=storage, direction="maximize")
    _journals[study] = backend
    for first in starts(run)[:1]:
        if study.user_attrs.get(SEARCH) != first:
            study.set_user_attr(SEARCH, first)
    if config is not None and not study.get_trials(deepcopy=False):
        study.enqueue_trial(config.search_space.default_params())
    return study


def check_journal(run: Path, config: SearchConfig | None) -> None:
    """Make sure that the journal is whole, but for a last line that a crash has torn, and this search's own.

    Reads only. `config` None: the trials come from another search's space. Raises SearchError.
    """
    journal = run / JOURNAL
    content = journal.read_bytes()
    problem = damaged_line(content)
    studies, trials = [], []
    if problem is None:
        try:
            storage = JournalStorage(JournalFileBackend(str(journal)))
            studies = storage.get_all_studies()
            trials = [trial for study in studies for trial in all_trials(storage, study.study_name)]
            problem = next(filter(None, map(damaged_trial, trials)), None)
            problem = "it holds no study" if not studies and b"\n" in content else problem
        except Exception as error:  # Optuna raises whatever a damaged entry leads to
            problem = f"{type(error).__name__}: {error}"
    if problem is not None:
        raise SearchError(f"{journal} is damaged: {problem}. {RESTORE}")
    if len(studies) > 1:
        names = ", ".join(repr(study.study_name) for study in studies)
        raise SearchError(f"{journal} holds {len(studies)} studies ({names}), a search's holds its own. {RESTORE}")
    stranger = studies and why_foreign(run, config, studies[0].user_attrs.get(SEARCH), trials)
    if stranger:
        raise SearchError(f"{journal} is another search's: {stranger}. {RESTORE}")
    directories = (trial_number(path.name) for path in run.glob("trial_*_*"))
    missing = sorted(number for number in directories if number is not None and number >= len(trials))
    if missing:
        what = "is empty" if not trials else f"ends with trial {len(trials) - 1}"
        raise SearchError(f"{journal} {what}, but there is a directory of trial {missing[0]}. {RESTORE}")


def damaged_line(content: bytes) -> str | None:
    """What is wrong with the first line of a journal that is no entry; a last one without its end may be torn."""
    *lines, tail = content.split(b"\n")
    num_trials = 0
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            num_trials += entry["op_code"] == CREATE_TRIAL
            of_trial = entry.get("trial_id")
            if of_trial is not None and not 0 <= of_trial < num_trials:
                return f"line {number} of {len(lines)} is of trial {of_trial}, which has not begun there"
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return f"line {number} of {len(lines)} is no entry of a journal: {line[:60]!r}"
    torn = tail.rstrip(b"\0")  # a file system that crashes may leave zeros
    return f"it ends with {torn[:60]!r}" if torn and not torn.startswith(b'{"'[: len(torn)]) else None


def damaged_trial(trial: FrozenTrial) -> str | None:
    """What contradicts itself in a trial of this search, else None."""
    if not is_own(trial):
        return None
    steps = sorted(trial.intermediate_values)
    if steps != list(range(1, len(steps) + 1)):
        return f"trial {trial.number} lacks an epoch among {steps}"
    if steps and trial.value not in (None, trial.intermediate_values[steps[-1]]):
        return f"trial {trial.number} has the value {trial.value}, which is not that of its last epoch"
    return None


def why_foreign(run: Path, config: SearchConfig | None, search: str | None, trials: list[FrozenTrial]) -> str | None:
    """What shows that a journal is not that of the search that a run directory holds, else None."""
    known = starts(run)
    if search is not None and len(known) > 1 and search != known[0]:  # one is this very start
        return f"of the one started at {search}, not at {known[0]}"
    space = {} if config is None else config.search_space.distributions()
    for trial in trials if config is not None else []:
        for path, distribution in trial.distributions.items():
            if space.get(path) != distribution:
                return f"its trial {trial.number} has {path} from {distribution}, which {CONFIG} does not give"
    return None


def drop_torn_line(journal: Path) -> None:
    """Cut a journal back to its last newline: what is appended to a torn line would be lost with it."""
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        print(f"{journal}: its last line was torn by a crash and is dropped", file=sys.stderr)
        os.truncate(journal, whole)
