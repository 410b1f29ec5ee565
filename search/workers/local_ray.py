"""Ray on this machine alone: started beside the imports, guarded by a token that only this user can read."""

import contextlib
import logging
import os
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import ray

from search.record.run_directory import SearchError
from search.workers import TOKEN_VARIABLES

TRIES = 2
SECONDS_A_TRY = 45.0  # Ray waits for 30 s, and does some things before
SECONDS_TO_UNWIND = 5.0  # that an error waits for a start that is under way
FAILED = (
    "Ray cannot be started on this machine: {error}. If the machine is busy, try again when it is less so. What Ray's "
    "processes said is below {place}."
)
NO_PLACE = (
    "Ray cannot be started on this machine: {error}. Its files lie below {place}. Where that path is too long for a "
    "socket, or cannot be written, set RAY_TMPDIR to a short one, such as /tmp."
)


def is_local(address: str | None) -> bool:
    """Whether an address asks for Ray on this machine alone; without one RAY_ADDRESS decides."""
    return (address or os.environ.get("RAY_ADDRESS")) in (None, "", "local")


@contextlib.contextmanager
def starting_meanwhile(address: str | None) -> Iterator[None]:
    """Start Ray on this machine while the block imports and loads what a search needs, both for seconds.

    `start` within it takes Ray over, and raises what went wrong. Where a cluster is joined, nothing happens.
    """
    global _starting
    if not is_local(address):
        yield
        return
    _starting = begin()
    try:
        yield
    finally:
        started, _starting = _starting, None
        with contextlib.suppress(Exception):
            if started is not None and started.exception(timeout=SECONDS_TO_UNWIND) is None:
                ray.shutdown()


_starting: Future[None] | None = None


def start(ends_at: float | None = None) -> None:
    """Start Ray, or wait for the start in the background; one try has its time even if `ends_at` comes before.

    `ends_at` is a time.monotonic(). Raises SearchError.
    """
    global _starting
    starting = begin() if _starting is None else _starting
    seconds = SECONDS_A_TRY * TRIES
    if ends_at is not None:
        seconds = min(seconds, max(SECONDS_A_TRY, ends_at - time.monotonic()))
    try:
        starting.result(seconds)
    except TimeoutError:
        error = f"it has not done so in {seconds:.0f} seconds"
        raise SearchError(FAILED.format(error=error, place=directory_of_ray())) from None
    _starting = None


def begin() -> Future[None]:
    """Start Ray in the background, with a second try where that may help."""
    started: Future[None] = Future()

    def attempt(tries_left: int) -> None:
        # Ray's processes end with the thread that has started them: those of a failed try are gone before the next.
        try:
            init()
        except OSError as error:
            started.set_exception(SearchError(NO_PLACE.format(error=error, place=directory_of_ray())))
        except Exception as error:  # Ray's own word for its node that does not answer
            if tries_left:
                threading.Thread(target=attempt, args=(tries_left - 1,), daemon=True).start()
                return
            why = str(error).strip().partition("\n")[0].rstrip(".")
            started.set_exception(SearchError(FAILED.format(error=why, place=directory_of_ray())))
        else:
            started.set_result(None)
            threading.Event().wait()

    threading.Thread(target=attempt, args=(TRIES - 1,), daemon=True).start()
    return started


def init() -> None:
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    make_token()
    ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL)


def directory_of_ray() -> Path:
    """Where Ray keeps its sockets and logs."""
    return Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray"


def make_token() -> None:
    """Let nobody but this user read the token that guards Ray, which listens on all interfaces.

    Ray would make the file with the rights that the umask leaves. If it cannot be written, as in a home directory that
    is read-only, this program has a token of its own.
    """
    if any(os.environ.get(name) for name in TOKEN_VARIABLES):
        return
    try:
        file = Path.home() / ".ray" / "auth_token"
        file.parent.mkdir(mode=0o700, exist_ok=True)
        if not file.exists():
            descriptor, temporary = tempfile.mkstemp(dir=file.parent)  # which only this user can read
            with os.fdopen(descriptor, "w") as stream:
                stream.write(secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):  # another program was faster
                os.link(temporary, file)
            Path(temporary).unlink()
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)
    except (OSError, RuntimeError):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
