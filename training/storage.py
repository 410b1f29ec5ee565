"""Directories in a bucket, `s3://` or `gs://`, through pyarrow.fs: each has a copy on this machine that is worked on.

A URL may carry Arrow's parameters, such as `s3://bucket/runs?endpoint_override=127.0.0.1:9000&scheme=http`; credentials
and region come from where the cloud's own tools look for them.
"""

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pyarrow import ArrowException
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType

TRANSFERS_AT_A_TIME = 16
STORAGE_ERRORS = (OSError, ArrowException)  # what pyarrow.fs raises where storage is full, gone or refuses


class StorageError(OSError):
    """Storage that cannot be used, or is in use: says which, why, and the remedy."""


def is_url(place: str | Path) -> bool:
    """Whether a place is named by a URL; a `Path` of one has lost a slash."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)) is not None


def child_url(url: str, name: str) -> str:
    """A name below a URL, whose parameters stay at the end."""
    place, question_mark, parameters = url.partition("?")
    return f"{place.rstrip('/')}/{name}{question_mark}{parameters}"


def url_name(url: str) -> str:
    """The last part of a URL's path."""
    return PurePosixPath(url.partition("?")[0]).name


def open_url(url: str) -> tuple[FileSystem, str]:
    """The file system behind a URL, and the path in it. Raises StorageError."""
    try:
        system, path = FileSystem.from_uri(url)
    except STORAGE_ERRORS as error:
        raise StorageError(
            f"{url} is not a usable URL ({error}). Write s3://BUCKET/PATH or gs://BUCKET/PATH; a name with other "
            "characters than letters, digits, '.', '_' and '-' must be percent-encoded."
        ) from None
    if not path.strip("/"):
        raise StorageError(f"{url} names no bucket. Write s3://BUCKET/PATH or gs://BUCKET/PATH.")
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
        """Fetch files by name. Nothing is written outside of the working copy, whatever the bucket calls its files."""
        inside = [name for name in names if ".." not in PurePosixPath(name).parts]
        with ThreadPoolExecutor(TRANSFERS_AT_A_TIME) as pool:
            list(pool.map(self._fetch, inside))

    def _fetch(self, name: str) -> None:
        here = self.path / name
        with self.system.open_input_stream(f"{self.root}/{name}") as stream:
            content = stream.read()
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_bytes(content)
        self.sent[name] = _stamp(here)
        if name == self.append_only:
            self.there = self._info_there(name)

    def push(self) -> None:
        """Send every file of the working copy that has changed since it was last sent or fetched.

        The append-only file first: raises StorageError where another process has written to it.
        """
        stamps = {str(file.relative_to(self.path)): _stamp(file) for file in self.path.rglob("*") if file.is_file()}
        changed = [name for name, stamp in stamps.items() if self.sent.get(name) != stamp]
        for name in sorted(changed, key=lambda name: name != self.append_only):
            content = (self.path / name).read_bytes()
            if name == self.append_only:
                self._check_alone(name, content)
            with self.system.open_output_stream(f"{self.root}/{name}") as stream:
                stream.write(content)
            self.sent[name] = stamps[name]
            if name == self.append_only:
                self.there = self._info_there(name)

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


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
