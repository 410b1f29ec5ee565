#!/usr/bin/env python
"""Search for a good convolutional network: `python run_search.py --num-samples 50`; `--help` explains the rest."""

import contextlib
import gc
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from search import interruption

if TYPE_CHECKING:
    from rich.console import Console

    from search.command_line import Plan

STARTED = time.monotonic()  # what a time budget counts from: the imports below take seconds


def main(arguments: list[str] | None = None, started: float | None = None) -> int:
    """0: the search ended by itself; 1: no trial succeeded, or storage failed; 2: bad input; 130: interrupted."""
    with interruption.answered():
        try:
            return search(arguments, time.monotonic() if started is None else started)
        except KeyboardInterrupt:
            interruption.say_how_to_go_on()
            return interruption.EXIT_CODE


def search(arguments: list[str] | None, started: float) -> int:
    """Do what a command line asks for; gives the exit code. Raises KeyboardInterrupt."""
    from rich.console import Console

    from search.command_line import Plan, parse, plan_search, resume_command
    from search.record.run_directory import SearchError
    from training.errors import ConfigError, DataError
    from training.messages import printable

    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    plan: Plan | None = None
    interruption.unwinds(lambda: resume_command(plan))
    try:
        with interruption.overrules_errors():
            plan = plan_search(options)
            plan.announce(console)
            return carry_out(plan, options.dry_run, console, started)
    except (ConfigError, DataError, SearchError) as error:
        for line in str(error).splitlines():
            print(f"error: {printable(line)}", file=sys.stderr)
        return 2
    except OSError as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        print(f"error: {reason}\n{resume_command(plan)}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def garbage_left() -> Iterator[None]:
    """No garbage collection: imports make a million objects, and looking through them is a fifth of their time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def carry_out(plan: "Plan", is_dry: bool, console: "Console", started: float) -> int:
    """Search, or train again, or only say what a search would cost; gives the exit code."""
    from search.workers.local_ray import starting_meanwhile

    with starting_meanwhile(plan.config.resources, plan.num_trials):
        with garbage_left():
            from search.dry_run import dry_run
            from search.screen.ending import report_outcome, report_retraining
            from search.workers.tuner import run_retraining, run_search

        if is_dry:
            dry_run(plan.config, console, started)
            return 0
        if plan.retraining is not None:
            return report_retraining(run_retraining(plan.config, plan.retraining, console), plan, console)
        outcome = run_search(plan.config, plan.run, plan.resume, console, started)
        return report_outcome(outcome, plan, console)


if __name__ == "__main__":
    interruption.run_program(lambda: main(started=STARTED))
