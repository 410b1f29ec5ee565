"""A run directory in a bucket: a working copy on this machine that lasts as long as the process.

It holds the small files, search.yaml, the journal, every meta.json, report/, also those of confirm/ and audit/. The
tensor files of a checkpoint are fetched when it is asked for; Ray's files and TensorBoard's events stay where they are.
"""

import atexit
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from pyarrow.fs import FileSelector, FileSystem, FileType

from analysis.reading.place import AnalysisError
from search.record.run_directory import CONFIG, ENVIRONMENT, JOURNAL
from search.record.storage import STORAGE_ERRORS, Mirror, open_url, why_failed
from search.record.storage import child_of as child_url
from training.checkpoint import TENSOR_FILES

REPORT = "report/"
CHECKPOINT = r"trial_\d+_[^/]*/checkpoint_[^/]*"
SMALL_FILE = re.compile(
    rf"((confirm|audit)/)?({re.escape(CONFIG)}|{re.escape(ENVIRONMENT)}|{re.escape(JOURNAL)}|{CHECKPOINT}/meta\.json)"
    rf"|{REPORT}.+"
)
CHECKPOINT_FILE = re.compile(rf"(((confirm|audit)/)?{CHECKPOINT})/.+")


def fetch_run(url: str) -> Mirror:
    """The working copy of a run directory, with its small files. Raises AnalysisError."""
    with bucket_errors(url):
        copy = Path(tempfile.mkdtemp(prefix="convsearch-"))
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        mirror = Mirror(url, copy)
        if not all(is_there(mirror.system, [f"{mirror.root}/{CONFIG}", f"{mirror.root}/{JOURNAL}"])):
            raise AnalysisError(
                f"{no_bucket(mirror.system, mirror.root)}there is no run directory {url}: it needs {CONFIG} and "
                f"{JOURNAL}. Name the URL that a search printed."
            )
        names = mirror.pull(lambda name: SMALL_FILE.fullmatch(name) is not None)
        for match in filter(None, map(CHECKPOINT_FILE.fullmatch, names)):
            (copy / match[1]).mkdir(parents=True, exist_ok=True)  # one without meta.json is damaged, not absent
    return mirror


def nested(mirror: Mirror, name: str) -> Mirror:
    """The part of a working copy that is a run directory of its own. Raises AnalysisError."""
    with bucket_errors(mirror.url):
        return Mirror(child_url(mirror.url, name), mirror.path / name)


def fetch_tensors(mirror: Mirror, checkpoint: Path) -> None:
    """Bring the tensor files of a checkpoint into the working copy, once. Raises AnalysisError."""
    names = [str((checkpoint / name).relative_to(mirror.path)) for name in TENSOR_FILES]
    with bucket_errors(mirror.url):
        mirror.fetch(name for name in names if name not in mirror.sent)


def send_report(mirror: Mirror) -> None:
    """Make the bucket's report/ what it is in the working copy; nothing else is sent. Raises AnalysisError."""
    with bucket_errors(mirror.url):
        mirror.push(lambda name: name.startswith(REPORT))
        mirror.delete([name for name in mirror.sent if name.startswith(REPORT) and not (mirror.path / name).exists()])


def newest_run_at(url: str) -> str:
    """The URL of the run below a URL whose journal was written to last. Raises AnalysisError if there is none."""
    with bucket_errors(url):
        system, root = open_url(url)
        listed = system.get_file_info(FileSelector(root, allow_not_found=True))
        places = [info.path for info in listed if info.type == FileType.Directory]
        has_config = is_there(system, [f"{place}/{CONFIG}" for place in places])
        journals = system.get_file_info([f"{place}/{JOURNAL}" for place in places])
        written = {
            place: journal.mtime_ns
            for place, journal, usable in zip(places, journals, has_config, strict=True)
            if usable and journal.type == FileType.File
        }
        if not written:
            raise AnalysisError(
                f"{no_bucket(system, root)}there is no run in {url}. Name a run's URL, say where runs are with "
                "--runs-dir, or make one: python run_search.py --num-samples 50"
            )
    return child_url(url, quote(PurePosixPath(max(written, key=lambda place: (written[place], place))).name))


def is_there(system: FileSystem, paths: list[str]) -> list[bool]:
    """Which of these files exist."""
    return [info.type == FileType.File for info in system.get_file_info(paths)]


def no_bucket(system: FileSystem, root: str) -> str:
    """The beginning of a message if even the bucket is missing."""
    bucket = root.partition("/")[0]
    if bucket and system.get_file_info(bucket).type == FileType.NotFound:
        return f"there is no bucket {bucket}, so "
    return ""


@contextmanager
def bucket_errors(url: str) -> Iterator[None]:
    """A bucket's failures as AnalysisError, with the remedy."""
    try:
        yield
    except STORAGE_ERRORS as error:
        raise AnalysisError(why_failed(url, error)) from None
