"""A damaged journal is refused before anything is trained or written, and left as it is; a lock left behind is none."""

import contextlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from searches import PROGRAMS, PROJECT

import run_search
import search.workers.tuner
from search.config import SearchConfig, load_config
from search.record.environment import record_environment
from search.record.journal import check_journal, open_study
from search.record.run_directory import CONFIG, ENVIRONMENT, JOURNAL, SearchError, locked

QUICK = PROJECT / "configs" / "quick.yaml"
Resume = Callable[[Path], str]


def new_search(run: Path, config: SearchConfig) -> Path:
    """A run directory whose study holds two trials with an epoch and one that runs."""
    run.mkdir()
    (run / CONFIG).write_text(config.to_yaml())
    record_environment(run, ["run_search.py", "--name", run.name])
    with locked(run):
        study = open_study(run, config)
        for value in (0.25, 0.5, None):
            trial = study.ask()
            config.search_space.suggest(trial)
            if value is not None:
                trial.report(value, 1)
                study.tell(trial, value)
            (run / f"trial_{trial.number:04d}_x").mkdir()
    return run


@pytest.fixture
def run(tmp_path: Path, quick: SearchConfig) -> Path:
    return new_search(tmp_path / "run", quick)


@pytest.fixture
def resume(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Resume:
    """Gives the error of --resume, up to where training would begin, which is one here."""

    def begin(*_: Any) -> None:
        raise SearchError("training would begin")

    def resume(run: Path) -> str:
        assert run_search.main(["--resume", str(run)]) == 2
        return capsys.readouterr().err

    monkeypatch.setattr(search.workers.tuner, "workers", lambda *_: contextlib.nullcontext(mock.MagicMock()))
    monkeypatch.setattr(search.workers.tuner, "run_trials", begin)
    return resume


def with_second_line(line: str) -> Callable[[bytes, bytes], bytes]:
    return lambda own, _: own.replace(b"\n", f"\n{line}\n".encode(), 1)


def with_two_lines_swapped(own: bytes, _: bytes) -> bytes:
    lines = own.splitlines(keepends=True)
    return b"".join([*lines[:1], *lines[4:], *lines[1:4]])


HARMS: dict[str, tuple[Callable[[bytes, bytes], bytes], str]] = {
    "a line of another file": (with_second_line("epoch,val_accuracy"), "line 2 of"),
    "a line of JSON": (with_second_line('{"epoch": 1}'), "line 2 of"),
    "a list": (with_second_line("[1, 2]"), "line 2 of"),
    "zeros in the middle": (lambda own, _: own[:300] + bytes(40) + own[340:], "no entry of a journal"),
    "binary": (lambda own, _: bytes(range(128, 256)) * 40, "is damaged"),
    "a line lost": (lambda own, _: own.partition(b"\n")[2], "it holds no study"),
    "an unknown operation": (lambda own, _: own.replace(b'"op_code":4', b'"op_code":94', 1), "is damaged"),
    "a field lost": (lambda own, _: own.replace(b'"distribution"', b'"distri_ution"', 1), "is damaged"),
    "a field lost, and the end torn": (
        lambda own, _: own.replace(b'"distribution"', b'"distri_ution"', 1) + b'{"op_code":',
        "is damaged",
    ),
    "lines in another order": (with_two_lines_swapped, "is damaged"),
    "nothing": (lambda own, _: b"", "is empty"),
    "the beginning": (lambda own, _: own[: own.index(b'"op_code":4')].rpartition(b"\n")[0] + b"\n", "is empty"),
    "another search's": (lambda _, other: other, "is another search's"),
    "two studies": (lambda own, other: own + other.replace(b'"study_id":0', b'"study_id":1'), "holds 2 studies"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_damaged_journal_is_refused_by_name_and_left_as_it_is(
    harm: str, run: Path, tmp_path: Path, quick: SearchConfig, resume: Resume
) -> None:
    damage, message = HARMS[harm]
    journal, other = run / JOURNAL, new_search(tmp_path / "other", quick) / JOURNAL
    content = damage(journal.read_bytes(), other.read_bytes())
    journal.write_bytes(content)
    errors = resume(run)
    assert str(journal) in errors and message in errors and "Restore it from a copy" in errors
    assert "training would begin" not in errors
    assert journal.read_bytes() == content


def test_a_directory_in_the_journals_place_is_refused(run: Path, resume: Resume) -> None:
    (run / JOURNAL).unlink()
    (run / JOURNAL).mkdir()
    errors = resume(run)
    assert str(run / JOURNAL) in errors and "training would begin" not in errors


def test_the_journal_of_another_space_is_refused(run: Path, tmp_path: Path, resume: Resume) -> None:
    """Also where nothing records which search it is of, which costs an intact one nothing."""
    other = new_search(tmp_path / "other", load_config(QUICK, {"space.model.depth": {"int": [1, 4]}}))
    for _ in range(2):
        (run / ENVIRONMENT).unlink()
        for _ in range(2):
            assert "training would begin" in resume(run)
    (run / ENVIRONMENT).unlink()
    shutil.copy(other / JOURNAL, run / JOURNAL)
    assert "another search's: its trial 0 has model.depth from" in resume(run)


def test_flipped_bits_in_a_journal_are_refused_or_change_one_entry_at_most(run: Path, quick: SearchConfig) -> None:
    """A digit that becomes another digit is a value like any other; nothing else may pass, and nothing may crash."""
    content, draw, refused = (run / JOURNAL).read_bytes(), random.Random(0), 0
    for _ in range(300):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        (run / JOURNAL).write_bytes(flipped)
        try:
            check_journal(run, quick)
        except SearchError as error:
            refused += 1
            assert str(run / JOURNAL) in str(error) and "Restore it" in str(error)
        else:
            if flipped.endswith(b"\n"):  # else its last line is as good as torn
                pairs = zip(content.splitlines(), flipped.splitlines(), strict=True)
                assert sum(json.loads(before) != json.loads(after) for before, after in pairs) <= 1
        assert (run / JOURNAL).read_bytes() == flipped
    assert 100 < refused < 300


@pytest.mark.parametrize("call", ["symlink", "rename"])
def test_a_lock_file_that_a_killed_process_has_left_costs_nothing(
    call: str, run: Path, resume: Resume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Optuna would wait half a minute for it. The process is really killed, its lock taken, or half given back."""
    killed = subprocess.run([sys.executable, str(PROGRAMS / "die_locking.py"), str(run / JOURNAL), call])
    assert killed.returncode == -9
    (lock,) = run.glob(f"{JOURNAL}.*")
    assert lock.is_symlink()

    def refuse(seconds: float) -> None:
        raise AssertionError(f"waited for {seconds} s")

    monkeypatch.setattr(time, "sleep", refuse)
    assert "training would begin" in resume(run) and not lock.is_symlink()
    optuna.load_study(study_name=None, storage=JournalStorage(JournalFileBackend(str(run / JOURNAL)))).ask()
