"""The hooks into Ray's insides: each finds what it touches, and a search passes without any."""

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from searches import QUICK, RUN_SEARCH, check_record, run, trials_of, wait_for_epochs

from search.workers import ray_hooks


def test_a_hook_that_finds_nothing_to_touch_leaves_it_and_says_so_in_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other:
        """A controller of another Ray."""

        def get_trials(self) -> list[Any]:
            return []

    monkeypatch.delenv(ray_hooks.SWITCH, raising=False)
    ray_hooks.mend(Other())
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4 and all(line.startswith("warning: Ray ") for line in lines)
    monkeypatch.setenv(ray_hooks.SWITCH, "ready_workers,every_error_is_a_death")
    ray_hooks.mend(Other())
    assert len(capsys.readouterr().err.splitlines()) == 2
    monkeypatch.setenv(ray_hooks.SWITCH, "all")
    ray_hooks.mend(Other())
    assert capsys.readouterr().err == ""


def test_the_environment_is_as_before_and_the_user_s_words_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_mine", "1")
    monkeypatch.delenv("RAY_ours", raising=False)
    before = dict(os.environ)
    with pytest.raises(KeyError), ray_hooks.environment(RAY_mine="2", RAY_ours="3"):
        assert os.environ == {**before, "RAY_ours": "3"}
        raise KeyError
    assert os.environ == before


def fields(process: Path) -> list[str]:
    """Of /proc/PID/stat, from the third on: state, parent, ..."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def workers_of(driver: int) -> dict[int, float]:
    """The processes that train a driver's trials: when each began, by time.time()."""
    parents, trains, began = {}, set(), {}
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            pid, stat = int(process.name), fields(process)
            parents[pid], began[pid] = int(stat[1]), booted + int(stat[19]) / os.sysconf("SC_CLK_TCK")
            if (process / "cmdline").read_bytes().startswith(b"ray::ImplicitFunc"):
                trains.add(pid)
    return {pid: began[pid] for pid in trains if parents.get(parents[pid]) == driver}


@pytest.mark.ray
@pytest.mark.parametrize("off", ["", "all"], ids=["with all hooks", "without any"])
def test_a_search_ends_goes_on_and_outlives_a_worker_with_hooks_and_without(
    off: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a new Ray, in which none of them finds its place, costs seconds and not the search."""
    monkeypatch.setenv(ray_hooks.SWITCH, off)
    directory, num_samples = tmp_path / "runs" / "run", max(4, os.cpu_count() or 1)  # enough for every core
    command = [*RUN_SEARCH, *QUICK, "--num-samples", str(num_samples)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        wait_for_epochs(directory, 1)
        workers, begun = workers_of(process.pid), trials_of(directory)[0].datetime_start
        assert workers and begun is not None
        were_ready = [began < begun.timestamp() for began in workers.values()]
        assert all(were_ready) if not off else not any(were_ready)
        os.kill(max(workers), signal.SIGKILL)
        wait_for_epochs(directory, 4)
        process.send_signal(signal.SIGTERM)
        errors = process.stderr.read() if process.stderr else ""
    assert process.returncode == 130 and "warning: Ray" not in errors
    assert "Best: trial" in run("--resume", "runs/run", cwd=tmp_path).stdout
    check_record(directory, num_samples, epochs=3)
