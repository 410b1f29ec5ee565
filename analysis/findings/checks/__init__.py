"""Checks of a search, each with what to run next. Pure functions of results.

The questions are those of the "Deep Learning Tuning Playbook" (Godbole, Dahl, Gilmer, Shallue and Nado, 2023). The
thresholds are rules of thumb.
"""

from analysis.findings.checks.check import VERDICTS
from analysis.findings.checks.check import Check as Check
from analysis.findings.checks.space import check_edges, check_infeasible
from analysis.findings.checks.training import check_diverged, check_early_stopping, check_epochs
from analysis.findings.checks.winner import check_enough_trials, check_winner
from analysis.reading.results import SearchResults


def checks(
    results: SearchResults, n_val: int | None = None, audited: bool = False, confirmed: bool = False
) -> list[Check]:
    """Every check of a search, what needs action first.

    n_val: images in the val split; without it the winner is not compared with the runner-up. audited, confirmed:
    whether there are results of `run_search.py --audit` and `--confirm`, which say more than the search itself.
    """
    found = [
        check_edges(results),
        check_enough_trials(results),
        check_early_stopping(results, audited),
        check_epochs(results),
        check_diverged(results),
        check_infeasible(results),
    ]
    if n_val:
        found.append(check_winner(results, n_val, confirmed))
    return sorted(found, key=lambda check: VERDICTS.index(check.verdict))
