"""Trials that ASHA had stopped, drawn at random and trained to the last epoch: what stopping early cost, and when it
would have been safe.

RUN/audit is an ordinary run directory; each of its trials continues the one of RUN that its `source_number` names. The
audited ones are a simple random sample, without replacement, of all stopped ones. What is said of all trials of the
search therefore weighs each audited trial as the N / n stopped ones it stands for, and each COMPLETE one as 1.
"""

from dataclasses import dataclass, field
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.evaluating.statistics import weighted_rank_correlation, wilson_interval
from analysis.reading.results import AnalysisError, SearchResults, load_nested
from analysis.reading.tables import endings
from search.record.endings import Ending
from search.record.rungs import rung_epochs

DIRECTORY = "audit"
ADVISED_FROM = 20  # audited trials; fewer advise nothing
FEWEST_FOR_RHO = 5  # curves; with fewer a rank correlation says next to nothing
REPLICATES = 1000  # of the bootstrap, and replays of the stopping rule
SEED = 0  # of both
TOLERATED_LOSS = 0.001  # of final val accuracy; two trainings of one configuration usually differ by more
SAFE_SHARE = 0.95  # of the replays must lose no more than that
LARGEST_REPLAY = 1000  # trials
GRACES = 20  # candidates for the grace period
KNOWN_ENDS = (Ending.COMPLETE, Ending.DIVERGED)


@dataclass(frozen=True)
class Audit:
    """Audited trials of a search. Accuracies are val accuracies in [0, 1]."""

    run: Path | str  # path or URL of the search
    epochs: int  # of a whole training
    grace_epochs: int
    reduction_factor: float
    population: int  # trials of the search that ASHA stopped
    best: tuple[int, float] | None  # number and val accuracy of the search's best COMPLETE trial
    # number (in the search), epoch and accuracy when it was stopped, ending, final_accuracy and above (ends above the
    # best) of complete ones; by number
    trials: pd.DataFrame
    # number, epoch, val_accuracy, group: `stopped` audited COMPLETE trials, `complete` the search's own. Whole curves.
    curves: pd.DataFrame
    problems: list[str] = field(default_factory=list)

    @property
    def rungs(self) -> list[int]:
        return rung_epochs(self.grace_epochs, self.reduction_factor, self.epochs)

    @cached_property
    def correlations(self) -> pd.DataFrame:
        return rank_correlation_data(self)

    @cached_property
    def replays(self) -> pd.DataFrame:
        return grace_data(self)

    @property
    def observed(self) -> pd.DataFrame:
        """The audited trials whose end is known: those trained to the end, and those that diverged."""
        return self.trials[self.trials["ending"].isin(KNOWN_ENDS)]


def load_audit(results: SearchResults) -> Audit | None:
    """Read RUN/audit; None if there is none. Whatever else is wrong is said in `problems`."""
    try:
        continued = load_nested(results, DIRECTORY)
    except AnalysisError as error:
        return audit_data(results, results.trials.head(0), results.epochs.head(0), [str(error)])
    return None if continued is None else audit_data(results, continued.trials, continued.epochs, [])


def audit_data(
    results: SearchResults, audit_trials: pd.DataFrame, audit_epochs: pd.DataFrame, problems: list[str]
) -> Audit:
    """What became of the audited trials, from the search and the tables of RUN/audit."""
    epochs, scheduler, trials = results.config.train.epochs, results.settings.scheduler, results.trials
    stopped = trials[endings(trials) == Ending.ASHA]
    complete = trials[(trials["state"] == "COMPLETE") & trials["val_accuracy"].notna()]
    best = None
    if len(complete):
        first = complete.sort_values(["val_accuracy", "number"], ascending=[False, True]).iloc[0]
        best = int(first["number"]), float(first["val_accuracy"])
    audited = _audited(stopped, audit_trials, nan if best is None else best[1])
    sources = audited[audited["ending"] == Ending.COMPLETE].set_index("audit_number")["number"]
    continued = audit_epochs[audit_epochs["number"].isin(sources.index)]
    curves = [
        _whole_curves(continued.assign(number=continued["number"].map(sources)), epochs, "stopped"),
        _whole_curves(results.epochs[results.epochs["number"].isin(complete["number"])], epochs, "complete"),
    ]
    return Audit(
        run=results.place,
        epochs=epochs,
        grace_epochs=scheduler.grace_epochs,
        reduction_factor=scheduler.reduction_factor,
        population=len(stopped),
        best=best,
        trials=audited.drop(columns="audit_number"),
        curves=pd.concat([curve for curve in curves if len(curve)] or curves[:1], ignore_index=True),
        problems=problems,
    )


def _audited(stopped: pd.DataFrame, audit_trials: pd.DataFrame, best: float) -> pd.DataFrame:
    """Audit.trials, with the number in RUN/audit; a trial audited again counts once, the COMPLETE one first."""
    ends = endings(audit_trials)
    continued = pd.DataFrame(
        {
            "number": audit_trials.get("source_number", pd.Series(dtype="Int64")),
            "audit_number": audit_trials["number"],
            "ending": ends,
            "final_accuracy": audit_trials["val_accuracy"].where(ends == Ending.COMPLETE),
            "is_known": ends.isin(KNOWN_ENDS),
        }
    )
    in_search = stopped[["number", "epochs", "val_accuracy"]].set_axis(["number", "epoch", "accuracy"], axis=1)
    frame = in_search.merge(continued.dropna(subset="number").astype({"number": "int64"}), on="number")
    frame = frame.sort_values(["number", "is_known", "audit_number"], ascending=[True, False, True])
    frame = frame.drop_duplicates("number", ignore_index=True).assign(
        above=lambda table: table["final_accuracy"] > best
    )
    return frame[["number", "audit_number", "epoch", "accuracy", "ending", "final_accuracy", "above"]]


def _whole_curves(table: pd.DataFrame, epochs: int, group: str) -> pd.DataFrame:
    """The curves with an accuracy in each epoch from 1 to the last."""
    known = table[table["val_accuracy"].notna() & table["epoch"].between(1, epochs)]
    counts = known.groupby("number")["epoch"].transform("nunique")
    return known[counts == epochs][["number", "epoch", "val_accuracy"]].assign(group=group)


def stopping_data(audit: Audit) -> dict[str, Any]:
    """How many stopped trials would have ended above the search's best COMPLETE one, and by how much.

    share has a 95 % Wilson interval, a little too wide for a sample without replacement; if all stopped trials are
    audited it has no width. regret: what the best of the audited ones would have added; expected_regret: the mean of
    what each would have added, 0 for most. n = 0 or no COMPLETE trial: None.
    """
    observed = audit.observed
    n, above = len(observed), int(observed["above"].sum())
    if n == 0 or audit.best is None:
        return {"n": n, "above": None, "share": None, "interval": None, "regret": None, "expected_regret": None}
    share = above / n
    gains = (observed["final_accuracy"] - audit.best[1]).fillna(0.0).clip(lower=0.0)
    return {
        "n": n,
        "above": above,
        "share": share,
        "interval": (share, share) if n == audit.population else wilson_interval(above, n),
        "regret": float(gains.max()),
        "expected_regret": float(gains.mean()),
    }


def curve_matrix(audit: Audit) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """(curves, weights, is_stopped) of n whole curves: val accuracies (n, epochs), how many trials of the search each
    stands for, (n,), and whether it had been stopped, (n,)."""
    table = audit.curves.pivot_table(index=["group", "number"], columns="epoch", values="val_accuracy")
    is_stopped = np.array([group == "stopped" for group, _ in table.index], dtype=bool)
    weights = np.where(is_stopped, audit.population / max(1, int(is_stopped.sum())), 1.0)
    return table.to_numpy(dtype=float), weights, is_stopped


def rank_correlation_data(audit: Audit) -> pd.DataFrame:
    """Spearman's rho of val accuracy after an epoch with that after the last: group, epoch, rho, low, high, n.

    Group `stopped`: the audited trials alone. Group `all`: with the search's COMPLETE ones, each audited trial weighted
    as the stopped ones it stands for. 95 % percentile intervals of a bootstrap within each kind of trial. Empty with
    fewer than 5 whole curves of audited trials; the last epoch, whose rho is 1, is left out.
    """
    rows = []
    if whole_curves(audit) >= FEWEST_FOR_RHO:
        curves, weights, is_stopped = curve_matrix(audit)
        alone, everywhere = np.ones(int(is_stopped.sum())), np.ones_like(is_stopped)
        for group, there, stands_for in (("stopped", is_stopped, alone), ("all", everywhere, weights)):
            last = curves[there, -1]
            drawn = stands_for * resampled(is_stopped[there], np.random.default_rng(SEED))
            for epoch in range(1, audit.epochs):
                values = curves[there, epoch - 1]
                rho = float(weighted_rank_correlation(values, last, stands_for))
                replicates = weighted_rank_correlation(values, last, drawn)
                known = replicates[~np.isnan(replicates)]
                low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (nan, nan)
                rows.append((group, epoch, rho, float(low), float(high), len(last)))
    return pd.DataFrame(rows, columns=["group", "epoch", "rho", "low", "high", "n"])


def resampled(kinds: NDArray[np.bool_], generator: np.random.Generator) -> NDArray[np.float64]:
    """(REPLICATES, n): how often each of n values stands in a bootstrap sample, drawn within each kind."""
    counts = np.zeros((REPLICATES, len(kinds)))
    for kind in np.unique(kinds):
        places = np.flatnonzero(kinds == kind)
        counts[:, places] = generator.multinomial(len(places), [1 / len(places)] * len(places), size=REPLICATES)
    return counts


def replay(
    curves: NDArray[np.float64], drawn: NDArray[np.int64], grace_epochs: int, reduction_factor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Successive halving on whole curves (n, epochs): (losses, shares of all epochs trained), both (replays,).

    `drawn` (replays, trials) are the curves of each replay. At each rung the trials still there go on whose accuracy is
    at least the (1 - 1 / factor) quantile of theirs, as in ASHA, but all are compared at once, so that no early arrival
    slips through. A loss is the final accuracy of the best trial minus that of the best one left.
    """
    (replays, trials), epochs = drawn.shape, curves.shape[1]
    there = np.ones((replays, trials), dtype=bool)
    trained = np.full((replays, trials), epochs)
    for rung in rung_epochs(grace_epochs, reduction_factor, epochs):
        values = np.where(there, curves[:, rung - 1][drawn], -np.inf)
        left = there.sum(1)
        # At or above the interpolated quantile is at or above the next value from there.
        place = trials - left + np.ceil((1 - 1 / reduction_factor) * (left - 1) - 1e-9).astype(int)
        cutoff = np.take_along_axis(np.sort(values, axis=1), place[:, None], axis=1)
        ends = there & (values < cutoff)
        trained[ends] = rung
        there &= ~ends
    final = curves[:, -1][drawn]
    losses = final.max(1) - np.where(there, final, -np.inf).max(1)
    return losses, trained.sum(1) / (trials * epochs)


def grace_data(audit: Audit) -> pd.DataFrame:
    """Replays of the stopping rule on the whole curves for each candidate of the grace period and the present one.

    Columns grace_epochs, safe_share (of the replays, those that lose at most 0.1 points), mean_loss, epoch_share. A
    replay draws curves as a bootstrap does, for these are a sample only, and of them as many trials as the search
    trained, 1,000 at most, each curve as often as the trials it stands for. Empty with fewer than 20 audited curves.
    """
    columns = ["grace_epochs", "safe_share", "mean_loss", "epoch_share"]
    if whole_curves(audit) < ADVISED_FROM:
        return pd.DataFrame(columns=columns)
    curves, weights, is_stopped = curve_matrix(audit)
    trials, generator = min(LARGEST_REPLAY, round(weights.sum())), np.random.default_rng(SEED)
    chances = weights * resampled(is_stopped, generator)
    chances /= chances.sum(1, keepdims=True)
    drawn = np.stack([generator.choice(len(curves), trials, p=row) for row in chances])
    candidates = np.geomspace(1, audit.epochs, GRACES).round().astype(int).tolist()
    rows = []
    for grace in sorted({*candidates, min(audit.grace_epochs, audit.epochs)}):
        losses, shares = replay(curves, drawn, grace, audit.reduction_factor)
        safe = float((losses <= TOLERATED_LOSS + 1e-12).mean())
        rows.append((grace, safe, float(losses.mean()), float(shares.mean())))
    return pd.DataFrame(rows, columns=columns)


def whole_curves(audit: Audit) -> int:
    """Audited trials whose curve is known from the first epoch to the last."""
    return int((audit.curves["group"] == "stopped").sum()) // audit.epochs


def advised_grace(replays: pd.DataFrame) -> int | None:
    """The smallest grace period, in epochs, of which at least 95 % of the replays lose at most 0.1 points.

    The number of epochs itself, with which nothing is stopped, always is one. None without replays.
    """
    safe = replays[replays["safe_share"] >= SAFE_SHARE]
    return None if safe.empty else int(safe["grace_epochs"].min())
