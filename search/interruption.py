"""SIGINT, SIGTERM and SIGHUP: whenever one comes, the command ends within seconds and says how to go on.

The first one asks for an end in good order. GRACE_SECONDS later, or with another signal, the process ends at once: it
loses no more than with SIGKILL, and Ray's processes follow it. Nothing heavy is imported here, as a command does this
before anything else.
"""

import atexit
import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_CODE = 130
GRACE_SECONDS = 10.0
SAME_SECONDS = 1.0  # signals this close are one: shells, `timeout` and terminals send some of them twice
NOTHING_BEGUN = "Nothing was begun, and nothing was written: give the same command again."


@dataclass
class Interruption:
    """What this process knows of signals while it answers them."""

    answer: Callable[[], None]  # what the main thread does at the first one
    how_to_go_on: Callable[[], str] = lambda: NOTHING_BEGUN
    requested: bool = False  # one has come
    handled: list[int] = field(default_factory=list)  # signals
    stderr: int = field(default_factory=lambda: os.dup(2))  # for the last words, also while Ray's are kept off it
    said: bool = False
    saying: threading.Lock = field(default_factory=threading.Lock)


_current: Interruption | None = None


def requested() -> bool:
    """Whether a signal has asked this command to end."""
    return _current is not None and _current.requested


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Answer signals, by an immediate end until `unwinds` is called. Nested: nothing more; not in the main thread: not.

    A signal that is ignored from outside, as with nohup, stays ignored.
    """
    global _current
    if _current is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    _current = Interruption(end_at_once)
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    handlers = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGUSR1)}
    _current.handled = [number for number in SIGNALS if handlers[number] != signal.SIG_IGN]
    wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    unraisable_before, sys.unraisablehook = sys.unraisablehook, _pass_over_interrupts
    watcher = threading.Thread(target=_watch, args=(read_end,), daemon=True)
    watcher.start()
    for number in _current.handled:
        signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        sys.unraisablehook = unraisable_before
        os.write(write_end, b"\0")
        watcher.join()
        os.close(read_end)
        os.close(write_end)
        os.close(_current.stderr)
        _current = None


def unwinds(how_to_go_on: Callable[[], str] | None = None) -> None:
    """From now on the first signal raises KeyboardInterrupt; `how_to_go_on` is what to say in the end."""
    if _current is not None:
        _current.answer = _raise_keyboard_interrupt
        _current.how_to_go_on = how_to_go_on or _current.how_to_go_on


@contextlib.contextmanager
def ends_tune() -> Iterator[None]:
    """While Ray Tune runs, the first signal ends its loop; afterwards the command ends by itself, and soon."""
    with answered():
        if _current is None:
            yield
            return
        if _current.requested:
            raise KeyboardInterrupt  # the first was lost in a place that cannot raise
        for number in _current.handled:  # ray.init may have taken them
            signal.signal(number, _on_signal)
        signal.signal(signal.SIGUSR1, _raise_keyboard_interrupt)
        _current.answer = end_tune
        try:
            yield
        finally:
            _current.answer = _nothing
            signal.signal(signal.SIGUSR1, _nothing)


def end_tune() -> None:
    """End Ray Tune's loop at its next step, from any thread; KeyboardInterrupt where it has not begun."""
    if _current is not None:
        os.kill(os.getpid(), signal.SIGUSR1)  # Ray Tune handles it so


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let a first signal wait for the end of ray.init or ray.shutdown, which can lose a KeyboardInterrupt."""
    if _current is None:
        yield
        return
    had_come, answer, _current.answer = _current.requested, _current.answer, _nothing
    try:
        with handlers_kept():
            yield
    finally:
        _current.answer = answer
    if _current.requested and not had_come:
        answer()


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Keep our handlers, from any thread, where ray.init and ray.shutdown take that of SIGTERM away.

    ray.init does so in Python as well as in C, where Python does not notice.
    """
    if _current is None:
        yield
        return
    over = threading.Event()
    keeper = threading.Thread(target=_keep_handlers, args=(_current.handled, over), daemon=True)
    keeper.start()
    set_handler = signal.signal

    def keep_ours(number: Any, handler: Any) -> Any:
        return signal.getsignal(number) if number in SIGNALS else set_handler(number, handler)

    signal.signal = keep_ours  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.signal = set_handler
        over.set()
        keeper.join()


@contextlib.contextmanager
def overrules_errors() -> Iterator[None]:
    """An error after a signal follows from it, as Ray's processes may have got it too: KeyboardInterrupt instead."""
    try:
        yield
    except Exception as error:
        if requested():
            raise KeyboardInterrupt from error
        raise


def say_how_to_go_on() -> None:
    """Print the last words of an interrupted command, once."""
    if _current is None:
        return
    with _current.saying:
        if not _current.said:
            _current.said = True
            with contextlib.suppress(OSError):  # the terminal may be gone
                os.write(_current.stderr, f"\nInterrupted.\n{_current.how_to_go_on()}\n".encode())


def end_at_once() -> NoReturn:
    """End this process, saying how to go on where that takes no long time."""
    speaker = threading.Thread(target=say_how_to_go_on, daemon=True)
    speaker.start()
    speaker.join(timeout=2.0)
    if sys.stdout.isatty():
        with contextlib.suppress(OSError):
            os.write(1, b"\x1b[?25h")  # the cursor, which a live view hides
    os._exit(EXIT_CODE)


def run_program(main: Callable[[], int]) -> NoReturn:
    """Run a program to its end, but for the interpreter's own shutdown, in which signals would go unanswered."""
    with answered():
        code = main()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _keep_handlers(numbers: list[int], over: threading.Event) -> None:
    """Put the present handlers back, every 10 ms, below Python's knowledge and in any thread."""
    libc = ctypes.CDLL(None)
    actions = {number: ctypes.create_string_buffer(1024) for number in numbers}  # more than any struct sigaction
    for number, action in actions.items():
        libc.sigaction(number, None, action)
    ended = False
    while not ended:
        ended = over.wait(0.01)
        for number, action in actions.items():
            libc.sigaction(number, action, None)


def _on_signal(*_: Any) -> None:
    if _current is not None and not _current.requested:
        _current.requested = True
        _current.answer()


def _watch(read_end: int) -> None:
    """End the process after the first signal's time of grace, or with the second signal.

    The C code of Python's signal module writes each signal's number to a pipe, whatever keeps the main thread.
    """
    first: float | None = None
    while True:
        wait = None if first is None else max(0.0, first + GRACE_SECONDS - time.monotonic())
        ready, _, _ = select.select([read_end], [], [], wait)
        numbers = os.read(read_end, 64) if ready else b""
        if 0 in numbers:
            return
        now, signalled = time.monotonic(), any(number in SIGNALS for number in numbers)
        if first is None:
            first = now if signalled else None
        elif not ready or (signalled and now - first > SAME_SECONDS):
            end_at_once()


def _raise_keyboard_interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _nothing(*_: Any) -> None:
    """The command is about to end."""


def _pass_over_interrupts(unraisable: Any) -> None:
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
