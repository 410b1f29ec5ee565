"""Directories in a bucket, `s3://` or `gs://`, through pyarrow.fs: each has a copy on this machine that is worked on.

A URL may carry Arrow's parameters, such as `s3://bucket/runs?endpoint_override=127.0.0.1:9000&scheme=http`; credentials
and region come from where the cloud's own tools look for them.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

from pyarrow import ArrowException
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

TRANSFERS_AT_A_TIME = 16
SECONDS_BETWEEN_TRIES = 2.0
STORAGE_ERRORS = (OSError, ArrowException)  # what pyarrow.fs raises where storage is full, gone or refuses
GCS_PATIENCE = 15  # seconds; of its own, Arrow tries a request to gs:// again for 15 minutes
UNREACHABLE = ("NETWORK_CONNECTION", "UNAVAILABLE", "REQUEST_TIMEOUT")  # in messages of s3:// and gs://
REFUSED = (
    *("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "TOKEN", "FORBIDDEN", "HTTP status 403"),
    *("OAuth2", "UNAUTHENTICATED", "PERMISSION_DENIED"),
)
CREDENTIALS = (
    "Give credentials for it: for s3:// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile or the machine's role, "
    "for gs:// GOOGLE_APPLICATION_CREDENTIALS or gcloud auth application-default login."
)


T = TypeVar("T")


class StorageError(OSError):
    """Storage that cannot be used, or is in use: says which, why, and the remedy."""


def is_url(place: str | Path) -> bool:
    """Whether a place is named by a URL; a `Path` of one has lost a slash."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)) is not None


def parent_url(url: str) -> str:
    """The place that a URL's last part lies in."""
    place, question_mark, parameters = url.partition("?")
    return f"{place.rstrip('/').rpartition('/')[0]}{question_mark}{parameters}"


def url_name(url: str) -> str:
    """The last part of a URL's path."""
    return PurePosixPath(url.partition("?")[0]).name


def child_of(place: str, name: str) -> str:
    """A name below a path or a URL, whose parameters stay at the end."""
    if not is_url(place):
        return str(Path(place) / name)
    url, question_mark, parameters = place.partition("?")
    return f"{url.rstrip('/')}/{name}{question_mark}{parameters}"


def why_failed(url: str, error: BaseException) -> str:
    """What is wrong with a URL that failed with one of STORAGE_ERRORS, and the remedy."""
    if isinstance(error, StorageError):
        return str(error)
    message = _first_line(error)
    reason = message.partition(". ")[0][:300]
    if any(word in message for word in REFUSED):
        return f"access to {url} is refused ({reason}). {CREDENTIALS}"
    if any(word in message for word in UNREACHABLE):
        return (
            f"{url} cannot be reached ({reason}). Check the network, and the URL's endpoint_override, scheme and "
            "region if it has any; then try again."
        )
    return f"{url} cannot be used ({reason}). Check the URL, and the bucket's region and state."


def open_url(url: str) -> tuple[FileSystem, str]:
    """The file system behind a URL, and the path in it. Raises StorageError."""
    if re.match(r"[^/]*//[^/]*:[^/]*@", url):
        raise StorageError(f"a URL must not hold a password: it is printed and kept with the results. {CREDENTIALS}")
    if url.startswith(("gs://", "gcs://")) and "retry_limit_seconds=" not in url:
        patient = f"{url}{'&' if '?' in url else '?'}retry_limit_seconds={GCS_PATIENCE}"
    else:
        patient = url
    try:
        system, path = FileSystem.from_uri(patient)
    except STORAGE_ERRORS as error:
        if any(word in str(error) for word in (*UNREACHABLE, *REFUSED)):  # asked where the bucket is
            raise StorageError(why_failed(url, error)) from None
        raise StorageError(
            f"{url} is not a usable URL ({error}). Write s3://BUCKET/PATH or gs://BUCKET/PATH; a name with other "
            "characters than letters, digits, '.', '_' and '-' must be percent-encoded."
        ) from None
    if not path.strip("/"):
        raise StorageError(f"{url} names no bucket. Write s3://BUCKET/PATH or gs://BUCKET/PATH.")
    if ".." in PurePosixPath(path).parts:
        raise StorageError(f"{url} must not hold '..': a bucket has no directory above another. Write its whole path.")
    return system, path.rstrip("/")


class Mirror:
    """A directory in a bucket, `url`, and its working copy, `path`: brought here and back file by file.

    `append_only` is the one file that only ever grows: where the bucket's has grown by other hands, nothing is sent.
    Raises StorageError for a URL that cannot be used; methods raise one of STORAGE_ERRORS where the bucket fails.
    """

    def __init__(self, url: str, path: Path, append_only: str | None = None) -> None:
        self.url, self.path, self.append_only = url, path, append_only
        self.system, self.root = open_url(url)
        self.sent: dict[str, tuple[int, int]] = {}  # (size, mtime_ns) here, when a file was last the same there
        self.there: tuple[int, int] | None = None  # (size, mtime_ns) there, of the append-only file

    def names(self) -> list[str]:
        """All files of the bucket's directory, by their path below it; none where there is no such directory."""
        selector = FileSelector(self.root, recursive=True, allow_not_found=True)
        return [
            str(PurePosixPath(info.path).relative_to(self.root))
            for info in self.system.get_file_info(selector)
            if info.type == FileType.File
        ]

    def pull(self, wanted: Callable[[str], bool]) -> list[str]:
        """Fetch the files whose name is `wanted`, over those that are here; gives all names that the bucket holds."""
        names = self.names()
        self.fetch(name for name in names if wanted(name))
        return names

    def fetch(self, names: Iterable[str]) -> None:
        """Fetch files by name; those that are gone since they were listed are left out.

        Nothing is written outside of the working copy, whatever the bucket calls its files.
        """
        inside = [name for name in names if ".." not in PurePosixPath(name).parts]
        with ThreadPoolExecutor(TRANSFERS_AT_A_TIME) as pool:
            list(pool.map(self._fetch, inside))

    def _fetch(self, name: str) -> None:
        here = self.path / name
        try:
            with self.system.open_input_stream(f"{self.root}/{name}") as stream:
                content = stream.read()
        except FileNotFoundError:
            return
        try:
            here.parent.mkdir(parents=True, exist_ok=True)
            here.write_bytes(content)
        except OSError as error:
            raise StorageError(
                f"{name} of {self.url} cannot be kept in {self.path} ({error.strerror}). Free space there, or set "
                "TMPDIR to a directory with space."
            ) from None
        self.sent[name] = _stamp(here)
        if name == self.append_only:
            self.there = self._info_there(name)

    def push(self, wanted: Callable[[str], bool] = lambda name: True) -> None:
        """Send every `wanted` file of the working copy that has changed since it was last sent or fetched.

        The append-only file first: raises StorageError where another process has written to it.
        """
        stamps = {str(file.relative_to(self.path)): _stamp(file) for file in self.path.rglob("*") if is_own(file)}
        changed = [name for name, stamp in stamps.items() if self.sent.get(name) != stamp and wanted(name)]
        for name in sorted(changed, key=lambda name: name != self.append_only):
            content = (self.path / name).read_bytes()
            if name == self.append_only:
                self._check_alone(name, content)
            with self.system.open_output_stream(f"{self.root}/{name}") as stream:
                stream.write(content)
            self.sent[name] = stamps[name]
            if name == self.append_only:
                self.there = self._info_there(name)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files in the bucket by name."""
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self.system.delete_file(f"{self.root}/{name}")
            self.sent.pop(name, None)

    def _check_alone(self, name: str, content: bytes) -> None:
        there = self._info_there(name)
        if there in (None, self.there):
            return
        with self.system.open_input_stream(f"{self.root}/{name}") as stream:
            if content.startswith(stream.read()):  # sent by this process, which did not hear that it had arrived
                return
        raise StorageError(f"another search is writing to {self.url}. Wait for it, or choose another --name.")

    def _info_there(self, name: str) -> tuple[int, int] | None:
        info: FileInfo = self.system.get_file_info(f"{self.root}/{name}")
        return None if info.type == FileType.NotFound else (info.size, info.mtime_ns)


def is_own(file: Path) -> bool:
    """Whether a file of a working copy belongs to it: no lock, which is a link, and nothing that is being written."""
    return not file.is_symlink() and not file.name.startswith(".") and file.is_file()


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def patiently(action: Callable[[], T], seconds: float, notice: Callable[[str], None] = print) -> T:
    """The answer of `action`, which is tried again for so many seconds where storage fails; `notice` is told of it.

    Raises StorageError when the time is over, and at once where waiting is no help: that error of `action` itself.
    """
    failing_since: float | None = None
    while True:
        try:
            answer = action()
        except StorageError:
            raise
        except STORAGE_ERRORS as error:
            now = time.monotonic()
            if failing_since is None:
                failing_since = now
                notice(f"storage does not answer ({_first_line(error)}); trying again for {seconds:g} s")
            if now - failing_since >= seconds:
                waited = f", also after {seconds:g} s" if seconds else ""
                raise StorageError(f"storage does not answer{waited}: {_first_line(error)}") from error
            time.sleep(min(SECONDS_BETWEEN_TRIES, seconds))
        else:
            if failing_since is not None:
                notice(f"storage answers again, after {time.monotonic() - failing_since:.0f} s")
            return answer


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
