"""The run directory: names, lock, a journal that a crash has torn, checkpoints to go on from."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from damages import DAMAGES

from search.config import parse_config
from search.record.checkpoints import usable_checkpoint
from search.record.environment import record_environment
from search.record.journal import drop_torn_line, open_study
from search.record.run_directory import ENVIRONMENT, JOURNAL, SearchError, create_run, locked, open_run

CONFIG = parse_config({"space": {"model.depth": {"int": [1, 4]}}}, {})


def test_a_taken_name_and_a_foreign_directory_are_refused(tmp_path: Path) -> None:
    create_run(tmp_path / "a", CONFIG)
    with pytest.raises(SearchError, match="exists already"):
        create_run(tmp_path / "a", CONFIG)
    open_run(tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "b").mkdir()
    with pytest.raises(SearchError, match=r"no search.yaml"):
        open_run(tmp_path / "b")


def test_a_second_search_is_refused_and_a_dead_one_is_no_obstacle(tmp_path: Path) -> None:
    wait = f"""if True:
        from pathlib import Path
        from search.record.run_directory import locked
        with locked(Path({str(tmp_path)!r})):
            print("held", flush=True)
            input()"""
    with subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(SearchError, match="another search is running"), locked(tmp_path):
            pass
        other.kill()
    with locked(tmp_path):
        pass


def test_a_directory_in_the_locks_place_is_refused(tmp_path: Path) -> None:
    """Optuna would wait for it for ever."""
    (tmp_path / f"{JOURNAL}.lock").mkdir()
    with pytest.raises(SearchError, match="is a directory, where Optuna locks"), locked(tmp_path):
        pass


@pytest.mark.parametrize("lost", [1, 5, 20])
def test_a_torn_journal_goes_on_with_what_was_whole(tmp_path: Path, lost: int) -> None:
    with locked(tmp_path):
        study = open_study(tmp_path, CONFIG)
        for value in (0.1, 0.2):
            trial = study.ask()
            CONFIG.search_space.suggest(trial)
            study.tell(trial, value)
    journal = tmp_path / JOURNAL
    content = journal.read_bytes()
    journal.write_bytes(content[:-lost])
    whole = content[:-lost].count(b"\n")
    (tmp_path / f"{JOURNAL}.lock").symlink_to(journal)  # as a process killed in the middle of a write leaves it
    with locked(tmp_path):
        study = open_study(tmp_path, CONFIG)
        assert journal.read_bytes().count(b"\n") == whole
        trial = study.ask()
        CONFIG.search_space.suggest(trial)
        study.tell(trial, 0.3)
    reopened = optuna.load_study(study_name=None, storage=study._storage)
    assert [t.value for t in reopened.trials if t.state == optuna.trial.TrialState.COMPLETE] == [0.1, 0.3]
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_an_intact_journal_is_not_touched(tmp_path: Path) -> None:
    journal = tmp_path / JOURNAL
    for content in (b"", b"a\n", b"a\nb\n"):
        journal.write_bytes(content)
        drop_torn_line(journal)
        assert journal.read_bytes() == content


def test_trial_0_is_the_config_itself_once(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path):
            study = open_study(tmp_path, CONFIG)
    assert len(study.trials) == 1
    assert CONFIG.search_space.suggest(study.ask()) == {"model.depth": CONFIG.model.depth}


def test_environment_grows_with_each_start(tmp_path: Path) -> None:
    record_environment(tmp_path, ["run_search.py"])
    record_environment(tmp_path, ["run_search.py", "--resume", "x"])
    entries = json.loads((tmp_path / ENVIRONMENT).read_text())
    assert [entry["command"] for entry in entries] == ["run_search.py", "run_search.py --resume x"]
    assert entries[0]["hardware"]["cores"] >= 1 and entries[0]["versions"]["torch"]


def test_the_newest_intact_checkpoint_over_all_directories_of_a_number(
    tmp_path: Path, trained_checkpoints: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert usable_checkpoint(tmp_path, 7) is None
    first, second = tmp_path / "trial_0007_aaa", tmp_path / "trial_0007_bbb"
    shutil.copytree(trained_checkpoints[1], first / "checkpoint_000001")  # 2 epochs
    shutil.copytree(trained_checkpoints[0], second / "checkpoint_000000")  # 1 epoch
    shutil.copytree(trained_checkpoints[1], tmp_path / "trial_0008_ccc" / "checkpoint_000001")
    assert usable_checkpoint(tmp_path, 7) == first / "checkpoint_000001"
    DAMAGES["weights.pt: half"](first / "checkpoint_000001")
    assert usable_checkpoint(tmp_path, 7) == second / "checkpoint_000000"
    assert "weights.pt" in capsys.readouterr().err
    DAMAGES["meta.json: half"](second / "checkpoint_000000")
    assert usable_checkpoint(tmp_path, 7) is None
