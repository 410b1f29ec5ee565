"""The hooks into Ray's insides: each finds what it touches, and a search passes without any."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from searches import QUICK, RUN_SEARCH, check_record, run, wait_for_epochs

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
    assert len(lines) == 3 and all(line.startswith("warning: Ray ") for line in lines)
    monkeypatch.setenv(ray_hooks.SWITCH, "short_memory,every_error_is_a_death")
    ray_hooks.mend(Other())
    assert len(capsys.readouterr().err.splitlines()) == 1
    monkeypatch.setenv(ray_hooks.SWITCH, "all")
    ray_hooks.mend(Other())
    assert capsys.readouterr().err == ""


def workers_of(driver: int) -> set[int]:
    """The processes that train a driver's trials."""
    parents, trains = {}, set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            pid = int(process.name)
            parents[pid] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
            if (process / "cmdline").read_bytes().startswith(b"ray::ImplicitFunc"):
                trains.add(pid)
    return {pid for pid in trains if parents.get(parents[pid]) == driver}


@pytest.mark.ray
@pytest.mark.parametrize(
    "off", [pytest.param("", marks=pytest.mark.slow), "all"], ids=["with all hooks", "without any"]
)
def test_a_search_ends_goes_on_and_outlives_a_worker_with_hooks_and_without(
    off: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a new Ray, in which none of them finds its place, costs seconds and not the search."""
    monkeypatch.setenv(ray_hooks.SWITCH, off)
    directory = tmp_path / "runs" / "run"
    with subprocess.Popen(
        [*RUN_SEARCH, *QUICK, "--num-samples", "4"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_epochs(directory, 1)
        os.kill(max(workers_of(process.pid)), signal.SIGKILL)
        wait_for_epochs(directory, 4)
        process.send_signal(signal.SIGTERM)
        errors = process.stderr.read() if process.stderr else ""
    assert process.returncode == 130 and "warning: Ray" not in errors
    assert "Best: trial" in run("--resume", "runs/run", cwd=tmp_path).stdout
    check_record(directory, num_samples=4, epochs=3)
