"""What several findings ask of a search's trials. Pure functions of results."""

from typing import Any

import pandas as pd

from analysis.reading.results import SearchResults
from analysis.reading.tables import endings
from analysis.text import plural
from search.record.endings import SOURCE, Ending, is_trained


def own_trials(results: SearchResults) -> pd.DataFrame:
    """Trials of this search: none taken over from an earlier one."""
    trials = results.trials
    return trials[trials[SOURCE].isna()] if SOURCE in trials.columns else trials


def trained(results: SearchResults) -> pd.DataFrame:
    """Trials that were or are being trained, by number."""
    trials = own_trials(results)
    pairs = zip(endings(trials), trials["epochs"], strict=True)
    were = pd.Series([is_trained(end, epochs) for end, epochs in pairs], trials.index, dtype="bool")
    return trials[were].sort_values("number")


def level_with_best(results: SearchResults) -> pd.DataFrame:
    """Ended trials with as many epochs as the best one, by val accuracy; empty if that one has none."""
    trials, best = trained(results), results.best_trial
    if best is None:
        return trials.head(0)
    ended = endings(trials).isin([Ending.COMPLETE, Ending.ASHA, Ending.TIME_BUDGET])
    equals = trials[ended & (trials["epochs"] == best.epochs) & trials["val_accuracy"].notna()]
    if best.number not in set(equals["number"]):
        return equals.head(0)
    return equals.sort_values(["val_accuracy", "number"], ascending=[False, True])


def too_few_complete(results: SearchResults) -> str:
    """Why nothing can be judged yet, without a full stop."""
    complete = int((trained(results)["state"] == "COMPLETE").sum())
    return f"Too little to judge: {plural(complete, 'trial')} {'is' if complete == 1 else 'are'} COMPLETE"


def last_line(reason: Any) -> str:
    """The last line of a reason, which names the error, without a full stop."""
    lines = reason.strip().splitlines() if isinstance(reason, str) else []
    return " ".join(lines[-1].split())[:200].rstrip(".") if lines else "no reason was kept"
