"""Storage that fills up, goes away or is in use by another search, each really caused: nothing there is lost."""

import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pyarrow.fs
import pytest
from bucket import Bucket, bucket
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from searches import QUICK, check_record, metas, run, start, trials_of, wait_for_epochs

from search.config import parse_config
from search.record.journal import check_journal, open_study, written_together
from search.record.run_directory import JOURNAL, SearchError, locked
from search.record.run_storage import RECORD, RunStorage
from search.record.storage import Mirror, StorageError

LONG = [*QUICK, "--set", "data.image_size=36", "--set", "search.max_multiply_adds=null", "--num-samples", "6"]
CONFIG = parse_config({"space": {"model.depth": {"int": [1, 4]}}}, {})


@pytest.fixture(scope="module")
def s3() -> Iterator[Bucket]:
    with bucket() as opened:
        yield opened


@pytest.fixture
def credentials(s3: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)


# What the parts do


def test_a_journal_that_could_not_be_written_is_waited_for_and_nothing_is_there_twice_or_by_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its directory is gone for a while, for an entry and for a whole proposal; then a write fails after its bytes."""
    run, away = tmp_path / "run", tmp_path / "away"
    run.mkdir()
    notices: list[str] = []
    fsync = os.fsync

    def go_away() -> None:
        run.rename(away)
        threading.Timer(1.0, away.rename, [run]).start()

    def fail_once(file: int) -> None:
        monkeypatch.setattr(os, "fsync", fsync)
        raise OSError(28, "No space left on device")

    with locked(run):
        study = open_study(run, CONFIG, patience=60.0, notice=notices.append)
        with written_together(study):
            trial = study.ask()
            CONFIG.search_space.suggest(trial)
            go_away()
        assert len(notices) == 2 and "does not answer" in notices[0] and "answers again" in notices[1]
        go_away()
        trial.report(0.5, 1)
        assert len(notices) == 4
        monkeypatch.setattr(os, "fsync", fail_once)
        study.tell(trial, 0.5)
        assert len(notices) == 6 and "No space left" in notices[4]
    lines = (run / JOURNAL).read_text().splitlines()
    assert len(lines) == len(set(lines)) and all(json.loads(line) for line in lines)
    assert trials_of(run) == study.trials
    assert study.trials[0].intermediate_values == {1: 0.5} and study.trials[0].value == 0.5


def test_what_is_written_together_is_read_as_if_it_had_been_written_one_by_one(tmp_path: Path) -> None:
    """Entries of others before, between and after included; they wait for their turn."""

    with locked(tmp_path):
        study = open_study(tmp_path, CONFIG)
        other = optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(tmp_path / JOURNAL))))
        for value in (0.1, 0.2, 0.3):
            foreign = other.ask()
            others_entry = threading.Thread(target=foreign.set_user_attr, args=("by", "another"))
            with written_together(study):
                before = (tmp_path / JOURNAL).read_bytes()
                trial = study.ask()
                CONFIG.search_space.suggest(trial)
                trial.set_user_attr("shape", (1, 2))
                others_entry.start()
                trial.report(value, 1)
                assert study.trials[trial.number].user_attrs == {"shape": [1, 2]}
                assert (tmp_path / JOURNAL).read_bytes() == before
            others_entry.join()
            other.tell(foreign, 0.0)
            study.tell(trial, value)
        with pytest.raises(ValueError, match="interrupted"), written_together(study):
            study.ask().report(0.4, 1)
            raise ValueError("interrupted")
    assert study.trials == other.trials == trials_of(tmp_path)
    assert [trial.value for trial in study.trials if trial.user_attrs.get("shape")] == [0.1, 0.2, 0.3]
    assert sum(trial.user_attrs.get("by") == "another" for trial in study.trials) == 3
    assert study.trials[-1].intermediate_values == {1: 0.4}


def test_an_empty_journal_in_a_bucket_is_refused_where_trials_have_directories(s3: Bucket, credentials: None) -> None:
    run = RunStorage(s3.url("emptied/run"))
    with locked(run.path):
        open_study(run.path, CONFIG).ask()
    (run.path / "trial_0000_x" / "checkpoint_000000").mkdir(parents=True)
    (run.path / "trial_0000_x" / "checkpoint_000000" / "meta.json").write_text("{}")
    run.save()
    assert run.mirror is not None
    whole = RunStorage(s3.url("emptied/run"))
    check_journal(whole.path, CONFIG)
    with run.mirror.system.open_output_stream(f"{run.mirror.root}/{JOURNAL}"):
        pass
    emptied = RunStorage(s3.url("emptied/run"))
    with pytest.raises(SearchError, match="is empty, but there is a directory of trial 0"):
        check_journal(emptied.path, CONFIG)


@pytest.mark.slow
def test_a_bucket_holds_what_the_working_copy_holds_and_one_search_at_a_time(
    s3: Bucket, credentials: None, tmp_path: Path
) -> None:
    url = s3.url("part/run")
    mine, theirs = RunStorage(url), RunStorage(url)
    assert mine.name == "run" and str(mine) == url
    mine.create(CONFIG)
    with locked(mine.path):
        study = open_study(mine.path, CONFIG)
        mine.save()
        with pytest.raises(SearchError, match="exists already"):
            theirs.create(CONFIG)
        late = RunStorage(url)  # two that resume at the same time: the second to write is told
        assert (late.path / JOURNAL).read_bytes() == (mine.path / JOURNAL).read_bytes()
        study.ask()
        mine.save()
        with locked(late.path):
            open_study(late.path, CONFIG).ask().report(0.1, 1)
            with pytest.raises(StorageError, match="another search is writing"):
                late.save()
    there = Mirror(url, tmp_path)
    there.pull(lambda name: True)
    assert (tmp_path / JOURNAL).read_bytes() == (mine.path / JOURNAL).read_bytes()
    nothing = RunStorage(s3.url("part/nothing"))
    assert not any((nothing.path / name).exists() for name in RECORD)


# Whole searches


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_search_in_a_bucket_survives_its_driver_a_while_without_the_bucket_and_its_loss(
    s3: Bucket, credentials: None, tmp_path: Path
) -> None:
    """SIGKILL, then a bucket that is away for a while, and then for longer than is waited for: each costs nothing."""
    new = [*LONG, "--set", "resources.storage_timeout=25", "--storage-path", s3.url("runs")]
    resume = ["--resume", s3.url("runs/run")]
    copy, saved = tmp_path / "copy", dict[int, list[Any]]()

    def lines_of(arguments: list[str], code: int) -> Iterator[str]:
        """Of its output, as they come. It ends with `code`, or is killed where no more of them are asked for."""
        with start(*arguments, cwd=tmp_path) as driver:
            try:
                yield from driver.stdout or ()
                assert driver.wait() == code
            finally:
                driver.kill()

    def fetch() -> None:
        shutil.rmtree(copy, ignore_errors=True)
        system, root = pyarrow.fs.FileSystem.from_uri(s3.url("runs/run"))
        pyarrow.fs.copy_files(root, str(copy), source_filesystem=system)

    def keep_what_is_saved() -> None:
        fetch()
        for trial in trials_of(copy):
            saved[trial.number] = max(saved.get(trial.number, []), *(m["results"] for m in metas(copy, trial.number)),
                                      [], key=len)  # fmt: skip

    with contextlib.closing(lines_of(new, 0)) as output:
        assert next(line for line in output if "trials  trial" in line).startswith("1/6 trials")
    keep_what_is_saved()
    assert any(trial.state == TrialState.RUNNING for trial in trials_of(copy))

    said, bucket_is = list[str](), "there"
    for line in lines_of(resume, 1):
        said.append(line)
        if "answers again" in line:
            bucket_is = "back"
        elif "trials  trial" in line and bucket_is == "there":
            s3.door.shut()
            threading.Timer(12.0, s3.door.open).start()
            bucket_is = "away"
        elif "trials  trial" in line and bucket_is == "back":
            s3.door.shut()
            bucket_is = "lost"
    s3.door.open()
    text = "".join(said)
    assert "Traceback" not in text, text
    assert "does not answer" in text[: text.index("answers again")]
    assert "error: storage does not answer, also after 25 s" in text and "--resume 's3://" in text, text
    keep_what_is_saved()

    text = "".join(lines_of(resume, 0))
    assert "Traceback" not in text and "Best: trial" in text
    fetch()
    check_record(copy, num_samples=6, epochs=3)
    assert any(saved.values())
    for number, results in saved.items():
        assert metas(copy, number)[-1]["results"][: len(results)] == results
    assert "exists already" in "".join(lines_of(new, 2))


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own under a directory; skips the test where mounting is not allowed."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs a privilege that this user does not have")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def lines_until(words: str, driver: subprocess.Popen[str]) -> str:
    """What a driver says up to the line with these words."""
    lines = []
    for line in driver.stdout or ():
        lines.append(line)
        if words in line:
            return "".join(lines)
    raise AssertionError(f"it never said {words!r}: {''.join(lines)}")


def fill(file: Path) -> None:
    """Take all the space that is left."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as stream:
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(b"\0" * size)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_directory_that_goes_away_is_waited_for_and_a_full_disk_stops_the_search_resumably(tmp_path: Path) -> None:
    """What was there stays intact. A network file system whose server restarts fails like this directory."""
    disk = tmp_path / "disk"
    runs, away = disk / "runs", disk / "away"
    with small_disk(disk, megabytes=20):
        impatient = ["--set", "resources.storage_timeout=25", "--set", "resources.max_failures=0"]
        driver = start(*LONG, *impatient, "--runs-dir", "disk/runs", cwd=tmp_path)
        wait_for_epochs(runs / "run", 2)
        runs.rename(away)
        runs.write_text("no directory")  # so that nobody makes a new one in its place
        said = lines_until("does not answer", driver)
        runs.unlink()
        away.rename(runs)
        said += lines_until("answers again", driver)
        fill(disk / "ballast")
        output = said + driver.communicate(timeout=200)[0]
        assert driver.returncode == 1 and "Traceback" not in output, output
        assert "No space left on device" in output and "--resume disk/runs/run" in output
        assert (disk / "ballast").stat().st_size > 0
        before = {trial.number: metas(runs / "run", trial.number) for trial in trials_of(runs / "run")}
        curves = {number: found[-1]["results"] for number, found in before.items() if found}
        assert curves and all(trial.state != TrialState.FAIL for trial in trials_of(runs / "run"))
        (disk / "ballast").unlink()
        run("--resume", "disk/runs/run", cwd=tmp_path)
        check_record(runs / "run", num_samples=6, epochs=3)
        for number, results in curves.items():
            assert metas(runs / "run", number)[-1]["results"][: len(results)] == results
