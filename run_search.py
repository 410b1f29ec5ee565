#!/usr/bin/env python
"""Search for a good convolutional network: `python run_search.py --num-samples 50`; `--help` explains the rest."""

import sys

from rich.console import Console

from search.command_line import parse, plan_search, report_outcome
from search.dry_run import dry_run
from search.run_directory import SearchError
from search.tuner import run_search
from training.config import ConfigError
from training.data import DataError


def main(arguments: list[str] | None = None) -> int:
    """0: the search ended by itself; 1: no trial succeeded; 2: bad input; 130: interrupted, to be resumed."""
    options = parse(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        plan = plan_search(options)
        if options.dry_run:
            dry_run(plan.config, console)
            return 0
        plan.announce(console)
        plan.make_directory()
        outcome = run_search(plan.config, plan.run, console)
        return report_outcome(outcome, plan, console)
    except (ConfigError, DataError, SearchError) as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted before the first trial.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
