#!/usr/bin/env python
"""Search for a good convolutional network: `python run_search.py --num-samples 50`; `--help` explains the rest."""

import sys
import time

from search import interruption

STARTED = time.monotonic()  # what a time budget counts from: imports take seconds


def main(arguments: list[str] | None = None, started: float | None = None) -> int:
    """0: the search ended by itself; 1: no trial succeeded, or storage failed; 2: bad input; 130: interrupted."""
    with interruption.answered():
        try:
            with interruption.overrules_errors():
                return plan_and_carry_out(arguments, time.monotonic() if started is None else started)
        except KeyboardInterrupt:
            interruption.say_how_to_go_on()
            return interruption.EXIT_CODE


def plan_and_carry_out(arguments: list[str] | None, started: float) -> int:
    """Do what a command line asks for; gives the exit code. Raises KeyboardInterrupt."""
    # Imported here, so that signals are answered meanwhile; Ray and torch are, once the command line is checked.
    from search.command_line import parse
    from search.plan import Plan, plan_search, resume_command
    from search.record.run_directory import SearchError
    from search.screen.terminal import Terminal
    from search.workers.run import carry_out
    from training.errors import ConfigError, DataError
    from training.messages import printable

    options = parse(arguments)
    console = Terminal()
    plan: Plan | None = None
    interruption.goes_on(lambda: resume_command(plan))
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


if __name__ == "__main__":
    interruption.run_program(lambda: main(started=STARTED))
