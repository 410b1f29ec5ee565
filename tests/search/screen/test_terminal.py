"""The console of a command whose reader has gone."""

import subprocess
import sys
from pathlib import Path

import pytest
from searches import PROGRAMS, environment


@pytest.mark.parametrize("merged", [False, True], ids=["| head", "2>&1 | head"])
def test_a_closed_pipe_ends_the_printing_and_not_the_program(merged: bool, tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAMS / "print_on.py"), str(tmp_path / "went on")]
    errors = subprocess.STDOUT if merged else subprocess.PIPE
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None and process.stdout.readline().startswith(b"0 x")
    process.stdout.close()
    assert process.wait(timeout=60) == 0 and (tmp_path / "went on").exists()
    if process.stderr is not None:
        assert process.stderr.read() == b"also an error\n"
        process.stderr.close()
