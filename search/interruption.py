"""SIGINT, SIGTERM and SIGHUP: the first one ends a command in good order and says how to go on, a second one at once.

So does the first one if good order takes too long; what is lost is no more than with SIGKILL. Nothing heavy is imported
here, as a command does this before anything else.
"""

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EXIT_CODE = 130
SAME_SECONDS = 1.0  # signals this close are one: shells, `timeout` and terminals send some of them twice
SECONDS_TO_END = 20.0  # Ray Tune waits 15 s for its trials; without Ray's processes Ray would wait for a minute
NOTHING_BEGUN = "Nothing was begun, and nothing was written: give the same command again."

_requested = False
_how_to_go_on: Callable[[], str] | None = None


def requested() -> bool:
    """Whether a signal has asked this command to end."""
    return _requested


@contextlib.contextmanager
def answered() -> Iterator[None]:
    """Answer signals: the first one ends Ray Tune's loop, and raises KeyboardInterrupt before it.

    Before `goes_on` is called it ends the process: modules that are being imported may not survive an exception.

    One that is ignored from outside, as with nohup, stays ignored. Nested, or not in the main thread, nothing changes.
    """
    global _requested, _how_to_go_on
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    if _on_signal in handlers.values() or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, signal.default_int_handler)  # that of KeyboardInterrupt
    unraisable_hook, sys.unraisablehook = sys.unraisablehook, _pass_over_interrupts
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    wakeup_before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(read_end,), daemon=True).start()
    for number in SIGNALS:
        if handlers[number] != signal.SIG_IGN:
            signal.signal(number, _on_signal)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        sys.unraisablehook = unraisable_hook
        signal.set_wakeup_fd(wakeup_before)
        os.close(write_end)
        _requested, _how_to_go_on = False, None


def goes_on(how: Callable[[], str]) -> None:
    """What an interrupted command says in the end."""
    global _how_to_go_on
    _how_to_go_on = how


def raise_if_requested() -> None:
    """Raise KeyboardInterrupt if a signal came and was lost in a place that cannot raise."""
    if requested():
        raise KeyboardInterrupt


def end_tune() -> None:
    """End Ray Tune's loop at its next step, from any thread. Before it raises KeyboardInterrupt, afterwards nothing."""
    if callable(signal.getsignal(signal.SIGUSR1)):  # once Ray Tune has begun, its handler is there, and stays
        os.kill(os.getpid(), signal.SIGUSR1)


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
    """Print the last words of an interrupted command."""
    with contextlib.suppress(OSError):  # the terminal may be gone
        how_to_go_on = NOTHING_BEGUN if _how_to_go_on is None else _how_to_go_on()
        if sys.stdout.isatty():
            os.write(1, b"\x1b[?25h")  # the cursor, which a live view hides
        os.write(2, f"\nInterrupted.\n{how_to_go_on}\n".encode())


def run_program(main: Callable[[], int]) -> NoReturn:
    """Run a program to its end, but for the teardown of modules: 2.5 s with Ray and torch, and deaf to signals."""
    with answered():
        code = main()
        goes_on(str)  # nothing; and lets go of the run, whose working copy goes with it
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(code)


def _on_signal(*_: Any) -> None:
    global _requested
    if _how_to_go_on is None:
        say_how_to_go_on()
        os._exit(EXIT_CODE)
    if not _requested:
        _requested = True
        end_tune()


def _watch(read_end: int) -> None:
    """End the process at once with a second signal, or if the first one has taken too long.

    The numbers of signals come through a pipe, into which C code writes them whatever keeps the main thread.
    """
    first: float | None = None
    with open(read_end, "rb", buffering=0) as pipe:
        while True:
            seconds = None if first is None else max(0.0, first + SECONDS_TO_END - time.monotonic())
            ready, _, _ = select.select([pipe], [], [], seconds)
            numbers = pipe.read(64) if ready else b""
            if ready and not numbers:  # closed
                return
            is_signal, now = any(number in SIGNALS for number in numbers), time.monotonic()
            if first is None:
                first = now if is_signal else None
            elif not ready or (is_signal and now - first > SAME_SECONDS):
                break
    speaker = threading.Thread(target=say_how_to_go_on, daemon=True)  # storage may not answer
    speaker.start()
    speaker.join(timeout=2.0)
    os._exit(EXIT_CODE)


def _pass_over_interrupts(unraisable: Any) -> None:
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
