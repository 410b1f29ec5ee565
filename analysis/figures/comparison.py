"""Trials compared by their val accuracy after the same number of epochs."""

import math
from dataclasses import dataclass

import pandas as pd

from analysis.reading.tables import endings
from search.record.endings import Ending

LEAST_COMPARED = 10  # trials; a comparison or an importance of fewer says little


@dataclass(frozen=True)
class Comparison:
    """Trials at equal epochs."""

    epoch: int  # counted from 1; 0 if no trial has trained
    trials: pd.DataFrame  # the COMPLETE and PRUNED ones that reached it, with compared_accuracy in [0, 1]
    diverged: pd.DataFrame  # have no accuracy at any epoch: as bad as can be, whenever it happened
    reason: str  # why at this epoch, as a clause


def at_equal_epochs(
    trials: pd.DataFrame, epochs: pd.DataFrame, share: float = 0.5, least: int = LEAST_COMPARED
) -> Comparison:
    """Trials with their val_accuracy after the same number of epochs, `compared_accuracy`.

    The epoch is the latest that at least `share` of the trained trials reached, and at least `least` of them (all, if
    there are fewer). With half of them it is the end of a search without a scheduler, and the first rung of one
    that ASHA thins out: a comparison of the few that were kept is one of the survivors, in which what made trials bad
    is no longer seen.
    """
    is_diverged = endings(trials) == Ending.DIVERGED
    ended = trials[trials["state"].isin(["COMPLETE", "PRUNED"]) & ~is_diverged]
    curves = epochs[epochs["number"].isin(ended["number"]) & epochs["val_accuracy"].notna()]
    reached = curves.groupby("epoch")["number"].nunique()
    trained = curves["number"].nunique()
    needed = min(trained, max(least, math.ceil(share * trained)))
    counted = f"at least {needed} of {trained} trials" if needed < trained else f"all {trained} trials"
    epoch, reason = 0, ""
    if (reached >= needed).any():
        epoch = int(reached.index[reached >= needed].max())
        reason = f"the latest that {counted if trained > 1 else 'the only trial'} reached"
    elif trained:  # gaps in a journal
        epoch = int(reached.index[int(reached.to_numpy().argmax())])
        reason = "the first that most trials have a val accuracy of"
    accuracy = curves.loc[curves["epoch"] == epoch, ["number", "val_accuracy"]]
    compared = ended.merge(accuracy.set_axis(["number", "compared_accuracy"], axis=1), on="number")
    return Comparison(epoch, compared, trials[is_diverged], reason)


def compared_text(comparison: Comparison, total_epochs: int) -> str:
    """After which of `total_epochs` how many trials are compared, and why then."""
    n, diverged = len(comparison.trials), len(comparison.diverged)
    left = f"; {diverged} that diverged {'has' if diverged == 1 else 'have'} no accuracy" if diverged else ""
    early = " So early, what learns fast looks good." if 2 * comparison.epoch <= total_epochs else ""
    return (
        f"Trials are compared by their val accuracy after epoch {comparison.epoch} of {total_epochs}, "
        f"{comparison.reason} (n = {n}{left}).{early}"
    )
