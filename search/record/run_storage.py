"""Where a run directory lies: in a file system that all nodes share, or in a bucket, with a working copy here.

The driver works on `RunStorage.path`. In a bucket, what it writes there is sent before a new trial is handed to Ray,
when a trial ends, and otherwise not long after; checkpoints go to the bucket straight from the workers.
"""

import contextlib
import shlex
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from search.config import SearchConfig
from search.record.run_directory import CONFIG, ENVIRONMENT, JOURNAL, SearchError, create_run, trial_directory
from search.record.storage import (
    STORAGE_ERRORS,
    Mirror,
    StorageError,
    child_of,
    is_url,
    patiently,
    url_name,
    why_failed,
)

RECORD = (CONFIG, ENVIRONMENT, JOURNAL)
SECONDS_BETWEEN_SAVES = 10.0


class RunStorage:
    """A run directory by path or URL. Raises SearchError for a URL that cannot be used or does not answer."""

    def __init__(self, place: Path | str) -> None:
        self.mirror: Mirror | None = None
        self.lock = threading.Lock()  # of save, which a thread also calls
        if not is_url(place):
            self.path = Path(place)
            return
        copy = tempfile.mkdtemp(prefix="convsearch-")
        weakref.finalize(self, shutil.rmtree, copy, ignore_errors=True)
        with as_search_errors(str(place)):
            self.path = Path(copy) / url_name(str(place))
            self.mirror = Mirror(str(place), self.path, append_only=JOURNAL)
            self.path.mkdir()  # its name is now known to be one
            for name in self.mirror.pull(lambda name: name in RECORD):
                if name.startswith("trial_"):  # its directory, empty, so that the journal is seen to know it
                    (self.path / name.partition("/")[0]).mkdir(exist_ok=True)

    def __str__(self) -> str:
        return str(self.path) if self.mirror is None else self.mirror.url

    @property
    def name(self) -> str:
        return self.path.name

    def child(self, name: str) -> "RunStorage":
        """A run directory within this one."""
        return RunStorage(child_of(str(self), name))

    def check_free(self) -> None:
        """Raises SearchError where there is anything of that name."""
        if self.mirror is None:
            taken = self.path.exists()
        else:
            with as_search_errors(self.mirror.url):
                taken = bool(self.mirror.names())
        if taken:
            raise SearchError(
                f"{self} exists already. Choose another --name, or go on with --resume {shlex.quote(str(self))}"
            )

    @property
    def ray_location(self) -> dict[str, Any]:
        """Ray's `storage_path` and `storage_filesystem`: of the directory that holds this one."""
        if self.mirror is None:
            return {"storage_path": str(self.path.parent)}
        return {"storage_path": self.mirror.root.rpartition("/")[0], "storage_filesystem": self.mirror.system}

    def pull_trial(self, number: int) -> None:
        """Bring the checkpoints of a trial here, where they are not."""
        if self.mirror is not None:
            prefix = trial_directory(number, "")
            self.mirror.pull(lambda name: name.startswith(prefix) and "/checkpoint_" in name)

    def for_workers(self, checkpoint: Path) -> str:
        """A checkpoint of this run directory as workers on any node find it."""
        return child_of(str(self), str(checkpoint.relative_to(self.path)))

    def save(self) -> None:
        """Send what has changed to the bucket; in a file system, make sure that it can be written to.

        Raises one of STORAGE_ERRORS.
        """
        with self.lock:
            if self.mirror is not None:
                self.mirror.push()
            else:
                probe = self.path / ".written"
                probe.write_bytes(b"\n")
                probe.unlink()

    def create(self, config: SearchConfig) -> None:
        """Make a new run directory, which holds its config. Raises SearchError where the name is taken."""
        if self.mirror is None:
            create_run(self.path, config)
        else:
            self.check_free()

    def remove(self) -> None:
        """Remove a run directory in which nothing has begun."""
        shutil.rmtree(self.path)
        if self.mirror is not None:
            self.mirror.delete(self.mirror.names())


class Keeper:
    """Keeps a search's record safe while it runs, and waits where storage does not answer, up to `patience` seconds.

    `lost` says why, once that was too long.
    """

    def __init__(self, storage: RunStorage, patience: float, notice: Callable[[str], None]) -> None:
        self.storage, self.patience, self.notice = storage, patience, notice
        self.lost: str | None = None

    def save(self) -> None:
        """Send the record to its bucket. Raises StorageError."""
        if self.storage.mirror is not None:
            try:
                patiently(self.storage.save, self.patience, self.notice)
            except StorageError as error:
                self.lost = str(error)
                raise

    @contextlib.contextmanager
    def watching(self, give_up: Callable[[], None]) -> Iterator[None]:
        """Save every few seconds in the background; `give_up` is called where storage stays away."""
        over = threading.Event()

        def notice(line: str) -> None:
            if not over.is_set():
                self.notice(line)

        def watch() -> None:
            while not over.wait(SECONDS_BETWEEN_SAVES):
                try:
                    patiently(self.storage.save, self.patience, notice)
                except StorageError as error:
                    if not over.is_set():
                        self.lost = str(error)
                        give_up()
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()


@contextlib.contextmanager
def as_search_errors(url: str) -> Iterator[None]:
    try:
        yield
    except STORAGE_ERRORS as error:
        raise SearchError(why_failed(url, error)) from None
