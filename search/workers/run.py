"""Does what a plan says. Ray and torch, whose imports take seconds, are imported here and beside each other."""

from rich.console import Console

from search.plan import Plan


def carry_out(plan: Plan, is_dry: bool, console: Console, started: float) -> int:
    """Search, or train again, or only say what a search would cost; gives the exit code.

    `started` is the command's start by time.monotonic(). Raises ConfigError, DataError and SearchError before the first
    trial, and OSError if storage fails.
    """
    from search.workers.local_ray import starting_meanwhile

    with starting_meanwhile(plan.config.resources.address):
        from search.screen.ending import report
        from search.workers.measuring import dry_run
        from search.workers.tuner import run_retraining, run_search

        if is_dry:
            dry_run(plan.config, console, started)
            return 0
        if plan.retraining is None:
            outcome = run_search(plan.config, plan.run, plan.resume, console, started)
        else:
            outcome = run_retraining(plan.config, plan.retraining, console)
        return report(outcome, plan, console)
