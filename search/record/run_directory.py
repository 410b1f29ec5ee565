"""The run directory on the driver's side: made, locked, its journal opened and mended, its circumstances recorded."""

import fcntl
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from search.config import SearchConfig
from search.record.endings import is_own
from search.record.storage import patiently
from training.files import new_file
from training.messages import printable

CONFIG, ENVIRONMENT, JOURNAL = "search.yaml", "environment.json", "study.journal"
CREATE_TRIAL = 4  # Optuna's code of that operation
SEARCH = "search"  # user attribute of the study: which search it is of
RESTORE = "Restore it from a copy, or start a new search: the checkpoints beside it stay as they are."
Kind = Literal["confirm", "audit"]  # of searches that train trials of another again, in a directory of it
KINDS: tuple[Kind, ...] = ("confirm", "audit")
PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy", "scikit-learn")


class SearchError(Exception):
    """Something outside the config that keeps a search from running: says what, and the remedy."""


def create_run(run: Path, config: SearchConfig) -> None:
    """Make a new run directory, which holds its config from its first moment: else a process killed now would leave a
    name that can be neither resumed nor taken. Raises SearchError where the name is taken.
    """
    unfinished = run.with_name(f".{run.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        (unfinished / CONFIG).write_text(config.to_yaml(), encoding="utf-8")
        unfinished.rename(run)
    except OSError as error:
        if run.exists():
            raise SearchError(f"{run} exists already. Choose another --name, or go on with --resume {run}") from None
        raise SearchError(f"{run} cannot be made ({error}). Choose another --runs-dir.") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def open_run(run: Path, called: str | None = None) -> None:
    """Make sure that a directory, which its user may call by a URL, holds a search. Raises SearchError."""
    if not (run / CONFIG).is_file():
        raise SearchError(
            f"{called or run} holds no search: there is no {CONFIG} in it. Name the directory that a search printed."
        )


def refuse_links(run: Path) -> None:
    """Make sure that what is written into a run directory, maybe a stranger's, stays in it. Raises SearchError.

    Directories in it may be links: a search writes only into those that it makes.
    """
    locks = set(locks_of_journal(run))
    for path in locks:
        if path.is_dir() and not path.is_symlink():
            raise SearchError(f"{path} is a directory, where Optuna locks the journal. Remove it.")
    for path in (run, *(path for path in run.glob("*") if path not in locks and not path.is_dir())):
        if path.is_symlink() or (path.exists() and not path.is_file() and not path.is_dir()):
            raise SearchError(
                f"{path} is a link, or no file: what is written there would go elsewhere. Remove it, or go on with a "
                f"copy without links: cp -rL {run} COPY"
            )


def locks_of_journal(run: Path) -> Iterator[Path]:
    """Optuna's lock, a link that is never followed; killed while it gives it back, a process leaves it renamed."""
    return run.glob(f"{JOURNAL}.lock*")


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keep a second search out of a run directory; the kernel frees the lock whatever ends this process."""
    refuse_links(run)
    try:
        stream = (run / JOURNAL).open("ab")
    except OSError as error:
        raise SearchError(f"{run / JOURNAL} cannot be written ({error}). A search needs its run directory.") from None
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SearchError(f"another search is running in {run}. Wait for it, or choose another --name.") from None
        yield


class WaitingJournal(JournalFileBackend):
    """A journal that waits where its file cannot be written, and leaves no half of a line behind for the next try."""

    def __init__(self, journal: Path, patience: float, notice: Callable[[str], None]) -> None:
        super().__init__(str(journal))
        self.journal, self.patience, self.notice = journal, patience, notice
        self._unwritten: list[dict[str, Any]] | None = None  # of `together`
        self._lines_in_file: int | None = None  # where that began

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Raises StorageError where the file stays away for longer than `patience` seconds."""
        if self._unwritten is not None:
            self._unwritten += json.loads(json.dumps(logs))  # as they will be read
            return
        with self._locked():
            self._write(logs)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        unwritten, first = self._unwritten, log_number_from
        if self._lines_in_file is None:
            for log in super().read_logs(log_number_from):
                first += 1
                yield log
        if unwritten is not None:
            if self._lines_in_file is None:
                self._lines_in_file = first
            yield from unwritten[first - self._lines_in_file :]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what this block appends at its end: one lock and one fsync for the 20 to 60 lines of a proposal.

        Others can append before it or after it. Raises StorageError as `append_logs` does.
        """
        with self._locked():
            self._unwritten = []
            try:
                yield
            finally:
                try:
                    if self._unwritten:
                        end = self._write(self._unwritten)
                        if self._lines_in_file is not None:  # else the next reader would count all lines before them
                            self._log_number_offset[self._lines_in_file + len(self._unwritten)] = end
                finally:
                    self._unwritten = self._lines_in_file = None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        patiently(self._lock.acquire, self.patience, self.notice)
        try:
            yield
        finally:
            with suppress(RuntimeError):  # the directory went away, with the lock in it
                self._lock.release()

    def _write(self, logs: list[dict[str, Any]]) -> int:
        """Append to the file; gives where it then ends."""
        content = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        before: list[int] = []

        def write() -> int:
            size = self.journal.stat().st_size
            if not before:
                before.append(size)
            elif size > before[0]:
                os.truncate(self.journal, before[0])
            with self.journal.open("ab") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                return file.tell()

        return patiently(write, self.patience, self.notice)


def written_together(study: optuna.Study) -> AbstractContextManager[None]:
    """A block whose entries in a study's journal are written at its end, at once; `open_study` has opened the study."""
    backend = getattr(study._storage, "_backend", None)
    return backend.together() if isinstance(backend, WaitingJournal) else nullcontext()


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
    storage = JournalStorage(WaitingJournal(journal, patience, notice))
    names = [study.study_name for study in storage.get_all_studies()]
    if names:
        study = optuna.load_study(study_name=names[0], storage=storage)
    else:
        study = optuna.create_study(study_name=run.name, storage=storage, direction="maximize")
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
            trials = [trial for study in studies for trial in storage.get_all_trials(study._study_id)]
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
    missing = sorted(number for number in numbers_with_directories(run) if number >= len(trials))
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


def starts(run: Path) -> list[str]:
    """When and how a search was started; the first tells it from all others. Empty where that is not recorded."""
    path = run / ENVIRONMENT
    entries = read_environment(path) if path.exists() else []
    return [f"{entry['started_at']} by {entry['command']}" for entry in entries]


def numbers_with_directories(run: Path) -> list[int]:
    """The numbers of the trials that have a directory."""
    numbers = (path.name.split("_")[1] for path in run.glob("trial_*_*"))
    return [int(number) for number in numbers if number.isdigit()]


def drop_torn_line(journal: Path) -> None:
    """Cut a journal back to its last newline: what is appended to a torn line would be lost with it."""
    content = journal.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        print(f"{journal}: its last line was torn by a crash and is dropped", file=sys.stderr)
        os.truncate(journal, whole)


def find_checkpoint(run: Path, number: int) -> Path | None:
    """The newest intact checkpoint of a trial, over all directories of its number; damaged ones are named."""
    from training.checkpoint import newest_checkpoint

    newest, problems = newest_checkpoint(run.glob(f"trial_{number:04d}_*/checkpoint_*"))
    for problem in problems:
        print(f"trial {number}: {printable(problem)}", file=sys.stderr)
    return newest


def record_environment(run: Path, command: list[str]) -> None:
    """Append versions, hardware, git commit and command line to environment.json."""
    import torch

    path = run / ENVIRONMENT
    entries = read_environment(path) if path.exists() else []
    entries.append(
        {
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(command),
            "git_commit": _git_commit(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "hardware": {
                "cpu": cpu_model(),
                "cores": os.cpu_count(),
                "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
                "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            },
        }
    )
    write_atomically(path, json.dumps(entries, indent=1))


def read_environment(path: Path) -> list[dict[str, Any]]:
    """The entries of an environment.json. Raises SearchError."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(entry["started_at"], str) for entry in entries) or not entries:
            raise ValueError("it has no entries of starts")
        return list(entries)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SearchError(
            f"{path} is damaged ({error}). It says how the search was started: restore it from a copy, or remove it."
        ) from None


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's text so that a reader, or a crash, never meets half of it."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    with new_file(unfinished) as stream:
        stream.write(text.encode())
    unfinished.replace(path)


def _git_commit() -> str | None:
    try:
        here = Path(__file__).parents[2]
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        return answer.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
