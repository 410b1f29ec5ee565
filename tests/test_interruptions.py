"""Signals at every moment of a command, sent by this process, by a terminal, or to Ray's processes as well."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import textwrap
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import TrialState
from searches import PROJECT, QUICK, RUN_SEARCH, check_record, counted, metas, run, trials_of

from training import TrialConfig, load_data, new_state, train
from training.checkpoint import newest_checkpoint, read_meta

INT, TERM, KILL, HUP = signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP
LONG = [*QUICK, "--set", "data.image_size=36", "--set", "search.max_multiply_adds=null"]  # epochs to be interrupted
NOTHING_BEGUN = "Nothing was begun, and nothing was written: give the same command again."


def wait_until(what: str, is_so: Callable[[], Any], timeout_seconds: float = 180) -> None:
    """Poll, twenty times a second."""
    end = time.monotonic() + timeout_seconds
    while not is_so():
        assert time.monotonic() < end, f"not within {timeout_seconds} s: {what}"
        time.sleep(0.05)


def processes_of(marker: str) -> dict[int, str]:
    """The living processes that inherited an environment with a marker in it: process id, name."""
    found = {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if marker.encode() in (directory / "environ").read_bytes() and int(directory.name) != os.getpid():
                found[int(directory.name)] = (directory / "comm").read_text().strip()
        except OSError:
            pass  # it has ended, or is another user's
    return found


@dataclass
class Driver:
    """A search that is running, in a process group of its own; `marker` is in the environment of all its processes."""

    process: subprocess.Popen[str]
    marker: str
    lines: list[str]  # of its output, so far
    reader: threading.Thread
    directories: set[Path]  # of trials, that it found

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def send(self, *signals: signal.Signals, pause_seconds: float = 0.0, group: bool = False) -> None:
        """Send signals one after the other, to the process or to its group, until it has ended."""
        for index, number in enumerate(signals):
            time.sleep(pause_seconds if index else 0.0)
            if self.process.poll() is None:
                (os.killpg if group else os.kill)(self.process.pid, number)

    def handles(self, number: signal.Signals) -> bool:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", status, re.MULTILINE)
        assert caught is not None
        return bool(int(caught[1], 16) >> (number - 1) & 1)

    def end(self) -> int:
        """The exit code."""
        code = self.process.wait(timeout=60)
        self.reader.join(timeout=60)
        assert "Traceback" not in self.output and "Exception ignored" not in self.output, self.output
        return code


@pytest.fixture(scope="session", autouse=True)  # checked at the end, as waiting takes a while
def every_process_ends() -> Iterator[None]:
    """Ray's processes follow their drivers, however these ended; ones that were starting notice it a minute later."""
    yield
    wait_until("Ray's processes are gone", lambda: not any(map(processes_of, markers)))


markers: list[str] = []  # of all drivers


@contextlib.contextmanager
def started(command: list[str], cwd: Path, **how: Any) -> Iterator[Driver]:
    marker = f"convsearch-test-{uuid.uuid4().hex}"
    markers.append(marker)
    environment = {**os.environ, "CONVSEARCH_TEST": marker, "PYTHONPATH": str(PROJECT)}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **how}
    process = subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **streams)
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
    reader.start()
    try:
        yield Driver(process, marker, lines, reader, set(cwd.glob("runs/run/trial_*")))
    finally:
        process.kill()
        process.wait()
        reader.join()


# search.interruption alone, in programs that need neither Ray nor torch


def script(body: str, grace_seconds: float = 60.0) -> list[str]:
    """A program that prints `ready` where a signal is to come."""
    head = f"""\
        import atexit, ctypes, sys, time
        from search import interruption
        interruption.GRACE_SECONDS = {grace_seconds}

        def wait(seconds):
            print("ready", flush=True)
            time.sleep(seconds)

        def stuck():
            '''In C code that no signal ends: a mutex that is locked twice.'''
            library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
            library.pthread_mutex_lock(mutex)
            print("ready", flush=True)
            library.pthread_mutex_lock(mutex)

        def main():
            try:
                return program()
            except KeyboardInterrupt:
                interruption.say_how_to_go_on()
                return interruption.EXIT_CODE
        """
    lines = [textwrap.dedent(head), body, "interruption.run_program(main)"]
    return [sys.executable, "-c", "\n".join(lines)]


UNWINDS = """
def program():
    interruption.unwinds(lambda: "Go on.")
    try:
        wait(60)
    finally:
        time.sleep({seconds})
        print("unwound", flush=True)
"""
STUCK = """
def program():
    interruption.unwinds(lambda: "Go on.")
    stuck()
"""
RAISES = """
def program():
    interruption.unwinds(lambda: "Go on.")
    with interruption.overrules_errors():
        try:
            wait(60)
        finally:
            raise ValueError("Ray is gone")
"""
SWALLOWS = """
class Dying:
    def __del__(self):
        wait(60)

def program():
    interruption.unwinds(lambda: "Go on.")
    dying = Dying()
    del dying
    time.sleep(60)
"""
ENDS = """
def program():
    interruption.unwinds(lambda: "Go on.")
    atexit.register(wait, 2)
    return 0
"""
WORDS = ["Interrupted.", "Go on."]


@pytest.mark.parametrize(
    ("program", "grace_seconds", "signals", "pause_seconds", "code", "lines"),
    [
        pytest.param(UNWINDS.format(seconds=0), 60, [TERM], 0, 130, ["unwound", *WORDS], id="it unwinds"),
        pytest.param(UNWINDS.format(seconds=1), 60, [INT, TERM], 0.1, 130, ["unwound", *WORDS], id="a burst is one"),
        pytest.param(UNWINDS.format(seconds=60), 60, [INT, TERM], 1.5, 130, WORDS, id="a second one ends it at once"),
        pytest.param(STUCK, 1, [HUP], 0, 130, WORDS, id="a main thread that is stuck is not waited for"),
        pytest.param(RAISES, 60, [INT], 0, 130, WORDS, id="an error that follows is no error"),
        pytest.param(SWALLOWS, 1, [INT], 0, 130, WORDS, id="one lost where nothing can be raised"),
        pytest.param(ENDS, 60, [INT], 0, 0, [], id="a command that has ended keeps its exit code"),
    ],
)
def test_signals_are_answered_wherever_the_main_thread_is(
    program: str,
    grace_seconds: float,
    signals: list[signal.Signals],
    pause_seconds: float,
    code: int,
    lines: list[str],
    tmp_path: Path,
) -> None:
    with started(script(program, grace_seconds), tmp_path) as driver:
        wait_until("the program is ready", lambda: "ready\n" in driver.lines)
        driver.send(*signals, pause_seconds=pause_seconds)
        assert driver.end() == code
    assert driver.output.split() == " ".join(["ready", *lines]).split()


def test_after_main_signals_are_handled_as_before() -> None:
    from search import interruption

    numbers = [*interruption.SIGNALS, signal.SIGUSR1]
    before = [signal.getsignal(number) for number in numbers]
    with interruption.answered(), interruption.answered():
        assert signal.getsignal(signal.SIGTERM) not in before
        with interruption.ends_tune():
            pass
        assert not interruption.requested()
    assert [signal.getsignal(number) for number in numbers] == before


# The command, before Ray starts


@pytest.mark.parametrize("seconds", [0.0, 1.5])  # the imports take several
@pytest.mark.parametrize("signals", [[INT], [TERM], [HUP], [INT, INT]])
def test_a_signal_during_the_imports_ends_the_command_and_nothing_is_written(
    signals: list[signal.Signals], seconds: float, tmp_path: Path
) -> None:
    with started([*RUN_SEARCH, *LONG], tmp_path) as driver:
        wait_until("the program runs", lambda: driver.handles(signal.SIGTERM))
        time.sleep(seconds)
        driver.send(*signals, pause_seconds=0.1)
        assert driver.end() == 130
    assert driver.output == f"\nInterrupted.\n{NOTHING_BEGUN}\n"
    assert not list(tmp_path.iterdir())


def test_signals_that_are_ignored_from_outside_stay_ignored(tmp_path: Path) -> None:
    """As `nohup` does with SIGHUP, and a shell script with SIGINT for commands in the background."""

    def ignore() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with started([*RUN_SEARCH, *LONG], tmp_path, preexec_fn=ignore) as driver:
        wait_until("the program runs", lambda: driver.handles(signal.SIGTERM))
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
    """This driver's trials have saved one epoch, and a part of the next one is trained."""
    if all(path.parents[1] in driver.directories for path in directory.glob("trial_*/checkpoint_*/meta.json")):
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
    return any("val accuracy" in line for line in driver.lines)


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


def interrupt(command: list[str], kill: Kill, place: Path) -> tuple[int, Driver]:
    """Start a command, send it what `kill` says, and wait for its end; gives its exit code."""
    directory = place / "runs" / "run"
    with started(command, place) as driver:
        moment = f"{kill.moment.__name__} in {command}"
        wait_until(moment, lambda: driver.process.poll() is not None or kill.moment(directory, driver))
        driver.send(*kill.signals, pause_seconds=kill.pause_seconds, group=kill.group)
        return driver.end(), driver


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kills", "scheduler"), [(SIGNALLED, "none"), (KILLED, "asha")], ids=["signals", "SIGKILL"])
def test_a_search_that_is_interrupted_at_every_moment_loses_no_trial_and_no_epoch(
    kills: list[Kill], scheduler: str, tmp_path: Path
) -> None:
    directory, saved = tmp_path / "runs" / "run", []
    command = [*RUN_SEARCH, *LONG, "--num-samples", str(NUM_SAMPLES), "--scheduler", scheduler]
    for kill in kills:
        code, driver = interrupt(command, kill, tmp_path)
        told = f"{kill} ended with {code}:\n{driver.output}"
        if code == 0:
            assert kill.settles and "Best: trial" in driver.output, told
        elif KILL in kill.signals:
            assert code == -KILL, told
        elif kill.group and code == 1:
            pass  # Ray's processes got the signal too, and its C++ code ended the command first: only words are lost
        else:
            how_to_go_on = "Go on with:\n  python run_search.py --resume runs/run\n"
            assert code == 130 and (how_to_go_on if directory.exists() else NOTHING_BEGUN) in driver.output, told
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
    check_against_training_by_hand(directory)


def check_against_training_by_hand(directory: Path) -> None:
    """Every trial, however often it was interrupted, has the curve of one that was not."""
    torch.set_num_threads(1)
    for trial in counted(directory):
        config = TrialConfig.model_validate(metas(directory, trial.number)[-1]["config"])
        data = load_data(config.data)
        results = islice(train(new_state(config, data), data), len(trial.intermediate_values))
        assert {result.epoch: result.val_accuracy for result in results} == trial.intermediate_values


@pytest.mark.slow
@pytest.mark.parametrize("closed", [False, True], ids=["Ctrl-C is typed", "the terminal is closed"])
def test_a_terminal_interrupts_ray_as_well_and_no_trial_fails(closed: bool, tmp_path: Path) -> None:
    """It sends SIGINT, or SIGHUP, to all processes of the group."""
    directory = tmp_path / "runs" / "run"
    here, there = pty.openpty()
    streams = {"stdin": there, "stdout": there, "stderr": there}

    def take_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    with started([*RUN_SEARCH, *LONG], tmp_path, preexec_fn=take_terminal, **streams) as driver:
        os.close(there)
        over, shown = threading.Event(), list[bytes]()
        screen = threading.Thread(target=lambda: shown.extend(chunks(here, over)))
        screen.start()
        try:
            wait_until("an epoch", lambda: driver.process.poll() is not None or an_epoch_is_running(directory, driver))
            if not closed:
                os.write(here, b"\x03")
                assert driver.end() == 130
        finally:
            over.set()
            screen.join()
            os.close(here)
        assert driver.end() == 130
    text = b"".join(shown).decode(errors="replace")
    assert "Traceback" not in text, text
    if not closed:
        assert "--resume runs/run" in text, text
        assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l"), "the cursor is shown again"
    assert [trial for trial in trials_of(directory) if trial.state == TrialState.FAIL] == []
    saved = saved_epochs(directory)
    assert any(saved.values())


def chunks(terminal: int, over: threading.Event) -> Iterator[bytes]:
    """What a terminal is to show, until `over` or the end of all that write to it."""
    while not over.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                yield os.read(terminal, 65536)
            except OSError:
                return


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
