"""Signals at every moment of a command, sent by this process, by a terminal, or to Ray's processes as well."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import subprocess
import tempfile
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import pytest
from optuna.trial import TrialState
from searches import PROJECT, QUICK, RUN_SEARCH, check_record, counted, run, trials_of

from search import interruption
from search.interruption import NOTHING_BEGUN
from training.checkpoint import newest_checkpoint, read_meta

INT, TERM, KILL, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP
LONG = [*QUICK, "--set", "data.image_size=36", "--set", "search.max_multiply_adds=null"]  # epochs to be interrupted


def wait_until(what: str, is_so: Callable[[], Any], timeout_seconds: float = 180) -> None:
    """Poll, twenty times a second."""
    end = time.monotonic() + timeout_seconds
    while not is_so():
        assert time.monotonic() < end, f"not within {timeout_seconds} s: {what}"
        time.sleep(0.05)


@dataclass
class Driver:
    """A search that is running, in a process group of its own."""

    process: subprocess.Popen[bytes]
    file: IO[bytes]  # of its output
    epochs_before: set[Path]  # that it found

    @property
    def output(self) -> str:
        return os.pread(self.file.fileno(), 1_000_000, 0).decode()

    def send(self, *signals: signal.Signals, pause_seconds: float = 0.0, group: bool = False) -> None:
        """Send signals one after the other, to the process or to its group, until it has ended."""
        for index, number in enumerate(signals):
            time.sleep(pause_seconds if index else 0.0)
            if self.process.poll() is None:
                (os.killpg if group else os.kill)(self.process.pid, number)

    def answers(self) -> bool:
        """Whether it handles SIGTERM."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return bool(int(status.split("SigCgt:")[1].split()[0], 16) >> (TERM - 1) & 1)

    def end(self) -> int:
        """The exit code."""
        code = self.process.wait(timeout=60)
        assert "Traceback" not in self.output and "Exception ignored" not in self.output, self.output
        return code


markers: list[bytes] = []  # each in the environment of a driver and of all its processes


@pytest.fixture(scope="session", autouse=True)  # checked at the end, as waiting takes a while
def every_process_ends() -> Iterator[None]:
    """Ray's processes follow their drivers, however these ended; ones that were starting notice it a minute later."""
    yield
    wait_until("Ray's processes are gone", lambda: not any(map(is_of_a_driver, Path("/proc").glob("[0-9]*"))))


def is_of_a_driver(process: Path) -> bool:
    with contextlib.suppress(OSError):  # it has ended, or is another user's
        environment = (process / "environ").read_bytes()
        return any(marker in environment for marker in markers)
    return False


@contextlib.contextmanager
def started(command: list[str], cwd: Path, **how: Any) -> Iterator[Driver]:
    markers.append(f"convsearch-test-{uuid.uuid4().hex}".encode())
    environment = {**os.environ, "CONVSEARCH_TEST": markers[-1].decode(), "PYTHONPATH": str(PROJECT)}
    with tempfile.TemporaryFile() as file:
        streams = {"stdout": file, "stderr": file, **how}
        process = subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **streams)
        try:
            yield Driver(process, file, epochs_in(cwd / "runs" / "run"))
        finally:
            process.kill()
            process.wait()


def epochs_in(directory: Path) -> set[Path]:
    return set(directory.glob("trial_*/checkpoint_*/meta.json"))


# search.interruption alone


@contextlib.contextmanager
def a_command_that_has_begun() -> Iterator[None]:
    with interruption.answered():
        interruption.goes_on(lambda: "Go on.")
        yield


@pytest.mark.parametrize("number", [INT, TERM, HUP])
def test_the_first_signal_raises_one_beside_it_is_the_same_and_a_second_one_ends_the_process(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    exits = SimpleQueue[int]()
    monkeypatch.setattr(os, "_exit", exits.put)
    monkeypatch.setattr(interruption, "SAME_SECONDS", 0.5)
    with a_command_that_has_begun():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        signal.raise_signal(TERM)
        time.sleep(1)
        assert interruption.requested() and exits.empty()
        signal.raise_signal(number)
        assert exits.get(timeout=10) == 130
    assert capfd.readouterr().err == "\nInterrupted.\nGo on.\n"


def test_an_end_in_good_order_that_takes_too_long_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    exits = SimpleQueue[int]()
    monkeypatch.setattr(os, "_exit", exits.put)
    monkeypatch.setattr(interruption, "SAME_SECONDS", 0.1)
    monkeypatch.setattr(interruption, "SECONDS_TO_END", 0.1)
    with a_command_that_has_begun():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(TERM)
        assert exits.get(timeout=10) == 130


def test_while_tune_runs_a_signal_ends_its_loop_and_raises_nothing() -> None:
    ended = []
    with a_command_that_has_begun():
        signal.signal(signal.SIGUSR1, lambda *_: ended.append(True))  # as Ray Tune does
        signal.raise_signal(TERM)
        assert ended and interruption.requested()


def test_a_signal_that_is_lost_where_nothing_can_be_raised_ends_the_command_before_tune_runs(
    capfd: pytest.CaptureFixture[str],
) -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(INT)

    with a_command_that_has_begun():
        Dying()
        with pytest.raises(KeyboardInterrupt):
            interruption.raise_if_requested()
    assert capfd.readouterr().err == ""


def test_an_error_that_follows_a_signal_is_no_error() -> None:
    with a_command_that_has_begun(), pytest.raises(KeyboardInterrupt), interruption.overrules_errors():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(INT)
        raise ValueError("Ray is gone")


def test_afterwards_signals_are_handled_as_before() -> None:
    numbers = [*interruption.SIGNALS, signal.SIGUSR1]
    before = [signal.getsignal(number) for number in numbers]
    with contextlib.suppress(KeyboardInterrupt), a_command_that_has_begun(), interruption.answered():
        assert all(signal.getsignal(number) != handler for number, handler in zip(numbers, before, strict=True))
        signal.raise_signal(INT)
    assert [signal.getsignal(number) for number in numbers] == before and not interruption.requested()


def test_before_a_command_has_begun_a_signal_ends_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    with interruption.answered(), contextlib.suppress(KeyboardInterrupt):
        signal.raise_signal(HUP)
    assert exits == [130] and capfd.readouterr().err == f"\nInterrupted.\n{NOTHING_BEGUN}\n"


# The command, before Ray starts


@pytest.mark.ray
@pytest.mark.parametrize(
    ("signals", "seconds"),
    [([INT], 0.0), ([TERM], 1.5), ([HUP], 3.0), ([INT, INT], 1.0)],  # the imports take several
)
def test_a_signal_during_the_imports_ends_the_command_and_nothing_is_written(
    signals: list[signal.Signals], seconds: float, tmp_path: Path
) -> None:
    with started([*RUN_SEARCH, *LONG], tmp_path) as driver:
        wait_until("the program runs", lambda: driver.answers())
        time.sleep(seconds)
        driver.send(*signals, pause_seconds=0.1)
        assert driver.end() == 130
        assert driver.output == f"\nInterrupted.\n{NOTHING_BEGUN}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.ray
def test_signals_that_are_ignored_from_outside_stay_ignored(tmp_path: Path) -> None:
    """As `nohup` does with SIGHUP, and a shell script with SIGINT for commands in the background."""

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with started([*RUN_SEARCH, *LONG], tmp_path, preexec_fn=ignore) as driver:
        wait_until("the program runs", lambda: driver.answers())
        driver.send(signal.SIGINT, signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            driver.process.wait(timeout=1)
        driver.send(signal.SIGTERM)
        assert driver.end() == 130


# The command, to its end. What a kill leaves is looked at before the search goes on, and must be there in the end.

NUM_SAMPLES, EPOCHS = 3, 3


@dataclass(frozen=True)
class Kill:
    """Which signals come when; `settles`: the search may have ended by itself before they were seen."""

    moment: Callable[[Path, Driver], bool]
    signals: tuple[signal.Signals, ...]
    pause_seconds: float = 0.0
    group: bool = False  # to Ray's processes as well
    settles: bool = False


def run_directory_appears(directory: Path, driver: Driver) -> bool:
    return directory.exists()


def first_trial_runs(directory: Path, driver: Driver) -> bool:
    journal = directory / "study.journal"
    return journal.exists() and b'"state":0' in journal.read_bytes()  # Optuna's RUNNING


def an_epoch_is_running(directory: Path, driver: Driver) -> bool:
    """This driver has saved one epoch, and a part of the next one is trained."""
    if epochs_in(directory) <= driver.epochs_before:
        return False
    time.sleep(0.3)
    return True


def last_epoch_of_the_last_trial(directory: Path, driver: Driver) -> bool:
    trials = counted(directory) if (directory / "study.journal").exists() else []
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    return len(trials) == NUM_SAMPLES and [len(trial.intermediate_values) for trial in running] == [EPOCHS - 1]


def last_trial_is_told(directory: Path, driver: Driver) -> bool:
    return sum(trial.state.is_finished() for trial in counted(directory)) == NUM_SAMPLES


def leaderboard_begins(directory: Path, driver: Driver) -> bool:
    return "val accuracy" in driver.output


SIGNALLED = [
    Kill(run_directory_appears, (TERM,)),
    Kill(first_trial_runs, (INT, INT), 0.2),
    Kill(an_epoch_is_running, (TERM,), group=True),
    Kill(last_epoch_of_the_last_trial, (INT,)),
    Kill(leaderboard_begins, (INT, INT), 0.1, settles=True),
]
KILLED = [
    Kill(run_directory_appears, (KILL,)),
    Kill(first_trial_runs, (KILL,)),
    Kill(an_epoch_is_running, (KILL,)),
    Kill(last_trial_is_told, (KILL,), settles=True),
]


def saved_epochs(directory: Path) -> dict[int, list[Any]]:
    """The results in the newest intact checkpoint of each trial; none is behind the journal."""
    saved = {}
    for trial in counted(directory):
        newest, _ = newest_checkpoint(directory.glob(f"trial_{trial.number:04d}_*/checkpoint_*"))
        saved[trial.number] = [] if newest is None else read_meta(newest)["results"]
        assert len(saved[trial.number]) >= max(trial.intermediate_values, default=0)
    return saved


def interrupt(command: list[str], kill: Kill, place: Path) -> tuple[int, str]:
    """Start a command, send it what `kill` says, and wait for its end; gives its exit code and output."""
    with started(command, place) as driver:
        ready = partial(kill.moment, place / "runs" / "run", driver)
        wait_until(f"{kill} in {command}", lambda: driver.process.poll() is not None or ready())
        driver.send(*kill.signals, pause_seconds=kill.pause_seconds, group=kill.group)
        return driver.end(), driver.output


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kills", "scheduler"), [(SIGNALLED, "none"), (KILLED, "asha")], ids=["signals", "SIGKILL"])
def test_a_search_that_is_interrupted_at_every_moment_loses_no_trial_and_no_epoch(
    kills: list[Kill], scheduler: str, tmp_path: Path
) -> None:
    directory, saved = tmp_path / "runs" / "run", []
    command = [*RUN_SEARCH, *LONG, "--num-samples", str(NUM_SAMPLES), "--scheduler", scheduler]
    for kill in kills:
        code, output = interrupt(command, kill, tmp_path)
        told = f"{kill} ended with {code}:\n{output}"
        if code == 0:
            assert kill.settles and "Best: trial" in output, told
        elif KILL in kill.signals:
            assert code == -KILL, told
        elif kill.group and code == 1:
            pass  # Ray's processes got the signal too, and its C++ code ended the command first: only words are lost
        else:
            how_to_go_on = "Go on with:\n  python run_search.py --resume runs/run\n"
            assert code == 130 and (how_to_go_on if directory.exists() else NOTHING_BEGUN) in output, told
        if (directory / "study.journal").exists() and (directory / "study.journal").stat().st_size:
            assert all(trial.state != TrialState.FAIL for trial in trials_of(directory)), told
            saved.append(saved_epochs(directory))
        if directory.exists():
            command = [*RUN_SEARCH, "--resume", "runs/run"]
    assert "Best: trial" in run("--resume", "runs/run", cwd=tmp_path).stdout
    check_record(directory, NUM_SAMPLES, EPOCHS)
    in_the_end = saved_epochs(directory)
    for number, results in chain.from_iterable(each.items() for each in saved):
        assert in_the_end[number][: len(results)] == results


@pytest.mark.slow
@pytest.mark.parametrize("closed", [False, True], ids=["Ctrl-C is typed", "the terminal is closed"])
def test_a_terminal_interrupts_ray_as_well_and_no_trial_fails(closed: bool, tmp_path: Path) -> None:
    """It sends SIGINT, or SIGHUP, to all processes of the group."""
    directory = tmp_path / "runs" / "run"
    here, there = pty.openpty()
    streams = {"stdin": there, "stdout": there, "stderr": there}

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def shown_so_far() -> bytes:
        with contextlib.suppress(OSError):  # there is no more, or nobody is left to write it
            while more := os.read(here, 65536):
                shown.extend(more)
        return bytes(shown)

    shown = bytearray()
    os.set_blocking(here, False)
    with started([*RUN_SEARCH, *LONG], tmp_path, preexec_fn=take_terminal, **streams) as driver:
        os.close(there)
        wait_until("an epoch", lambda: shown_so_far() and an_epoch_is_running(directory, driver))
        if closed:
            os.close(here)
        else:
            os.write(here, b"\x03")
            wait_until("its end", lambda: shown_so_far() and driver.process.poll() is not None)
            assert "--resume runs/run" in shown_so_far().decode()
            assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l"), "the cursor is shown again"
            os.close(here)
        assert driver.end() == 130
    assert b"Traceback" not in shown, shown.decode(errors="replace")
    assert [trial for trial in trials_of(directory) if trial.state == TrialState.FAIL] == []
    assert any(saved_epochs(directory).values())


# Two at the same time


@pytest.mark.slow
def test_of_two_searches_with_one_name_the_second_is_refused_and_sigkill_frees_the_lock(tmp_path: Path) -> None:
    directory = tmp_path / "runs" / "run"
    command = [*RUN_SEARCH, *LONG, "--num-samples", "3"]
    with started(command, tmp_path) as first, started(command, tmp_path) as second:
        both = (first, second)
        wait_until("one is refused", lambda: any(each.process.poll() is not None for each in both))
        refused, winner = both if first.process.poll() is not None else both[::-1]
        assert refused.end() == 2
        assert re.search(r"error: .*(runs/run exists already|another search is running in .*runs/run)", refused.output)
        wait_until("an epoch", lambda: an_epoch_is_running(directory, winner))
        winner.send(signal.SIGSTOP)  # so that it does not end before the next one is refused
        late = run("--resume", "runs/run", cwd=tmp_path, check=2).stderr
        assert "another search is running in" in late and "Wait for it, or choose another --name" in late
        assert winner.process.poll() is None
        winner.send(KILL)
        assert winner.end() == -KILL
        assert "Best: trial" in run("--resume", "runs/run", cwd=tmp_path).stdout  # at once, while Ray's processes end
    check_record(directory, num_samples=3, epochs=EPOCHS)
