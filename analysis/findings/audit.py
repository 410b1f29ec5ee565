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

from analysis.evaluating.metrics import wilson_interval
from analysis.reading.files import CONFIG
from analysis.reading.results import AnalysisError, SearchResults, load_nested
from analysis.text import percent, plural, points, run_search
from search.record.rungs import rung_epochs
from search.record.storage import child_of

DIRECTORY = "audit"
ADVISED_FROM = 20  # audited trials; fewer advise nothing
FEWEST_FOR_RHO = 5  # curves; with fewer a rank correlation says next to nothing
REPLICATES = 1000  # of the bootstrap, and replays of the stopping rule
SEED = 0  # of both
TOLERATED_LOSS = 0.001  # of final val accuracy; two trainings of one configuration usually differ by more
SAFE_SHARE = 0.95  # of the replays must lose no more than that
LARGEST_REPLAY = 1000  # trials
GRACES = 20  # candidates for the grace period


@dataclass(frozen=True)
class Audit:
    """Audited trials of a search. Accuracies are val accuracies in [0, 1]."""

    run: Path | str  # path or URL of the search
    epochs: int  # of a whole training
    grace_epochs: int
    reduction_factor: float
    population: int  # trials of the search that ASHA stopped
    best: tuple[int, float] | None  # number and val accuracy of the search's best COMPLETE trial
    # number (in the search), epoch and accuracy when it was stopped, ending (complete, diverged or another, not
    # observed), final_accuracy and above (ends above the best) where complete; by number
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
        return self.trials[self.trials["ending"].isin(["complete", "diverged"])]


def load_audit(results: SearchResults) -> Audit | None:
    """Read RUN/audit; None where there is none. Whatever else is wrong is said in `problems`."""
    tables = (results.trials.iloc[:0], results.epochs.iloc[:0])
    problems: list[str] = []
    try:
        continued = load_nested(results, DIRECTORY)
        if continued is None:
            return None
        tables = (continued.trials, continued.epochs)
    except AnalysisError as error:
        problems.append(str(error))
    scheduler = results.settings.get("scheduler") or {}
    return audit_data(
        results.trials,
        results.epochs,
        *tables,
        epochs=results.config.train.epochs,
        grace_epochs=int(scheduler.get("grace_epochs", 1)),
        reduction_factor=float(scheduler.get("reduction_factor", 3)),
        run=results.place,
        problems=problems,
    )


def audit_data(
    search_trials: pd.DataFrame,
    search_epochs: pd.DataFrame,
    audit_trials: pd.DataFrame,
    audit_epochs: pd.DataFrame,
    *,
    epochs: int,
    grace_epochs: int,
    reduction_factor: float,
    run: Path | str,
    problems: list[str] | None = None,
) -> Audit:
    """What became of the audited trials, from the tables of the search and of RUN/audit."""
    stopped = search_trials[search_trials["stopped_by"] == "asha"]
    complete = search_trials[(search_trials["state"] == "COMPLETE") & search_trials["val_accuracy"].notna()]
    best = None
    if len(complete):
        first = complete.sort_values(["val_accuracy", "number"], ascending=[False, True]).iloc[0]
        best = int(first["number"]), float(first["val_accuracy"])
    audited = _audited(stopped, audit_trials, None if best is None else best[1])
    is_complete = audited["ending"] == "complete"
    sources = dict(zip(audited["audit_number"][is_complete], audited["number"][is_complete], strict=True))
    continued = audit_epochs[audit_epochs["number"].isin(list(sources))]
    curves = [
        _whole_curves(continued.assign(number=continued["number"].map(sources)), epochs, "stopped"),
        _whole_curves(search_epochs[search_epochs["number"].isin(complete["number"])], epochs, "complete"),
    ]
    return Audit(
        run=run,
        epochs=epochs,
        grace_epochs=grace_epochs,
        reduction_factor=reduction_factor,
        population=len(stopped),
        best=best,
        trials=audited.drop(columns="audit_number"),
        curves=pd.concat([curve for curve in curves if len(curve)] or curves[:1], ignore_index=True),
        problems=problems or [],
    )


def _audited(stopped: pd.DataFrame, audit_trials: pd.DataFrame, best: float | None) -> pd.DataFrame:
    """Audit.trials, with the number in RUN/audit; a trial audited again counts once, the COMPLETE one first."""
    columns = ["number", "audit_number", "epoch", "accuracy", "ending", "final_accuracy", "above"]
    if "source_number" not in audit_trials:
        audit_trials = audit_trials.assign(source_number=pd.Series(dtype="Int64"))
    known = audit_trials[audit_trials["source_number"].isin(stopped["number"])]
    rows = []
    in_search = {trial["number"]: trial for trial in stopped.to_dict("records")}
    for trial in known.to_dict("records"):
        number, ending = int(trial["source_number"]), _ending(trial)
        final = float(trial["val_accuracy"]) if ending == "complete" else nan
        rows.append(
            {
                "number": number,
                "audit_number": int(trial["number"]),
                "epoch": int(in_search[number]["epochs"]),
                "accuracy": float(in_search[number]["val_accuracy"]),
                "ending": ending,
                "final_accuracy": final,
                "above": best is not None and final > best,
            }
        )
    frame = pd.DataFrame(rows, columns=columns)
    frame["is_known"] = frame["ending"].isin(["complete", "diverged"])
    frame = frame.sort_values(["number", "is_known", "audit_number"], ascending=[True, False, True])
    return frame.drop_duplicates("number", ignore_index=True)[columns]


def _ending(trial: dict[Any, Any]) -> str:
    if trial["state"] == "COMPLETE":
        return "complete"
    if trial["state"] == "PRUNED":
        return trial["stopped_by"] or "pruned"
    return str(trial["state"]).lower()


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


def weighted_rank_correlation(
    x: NDArray[np.float64], y: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Spearman's rho of x and y, both (n,), for each row of weights (..., n); NaN where x or y does not vary.

    With whole weights it is the rho of a sample in which each value stands so many times; ties have their mean rank.
    """
    total = weights.sum(-1, keepdims=True)
    centred = []
    for values in (x, y):
        below = (values[:, None] < values) + 0.5 * (values[:, None] == values)  # [i, j]: does i stand below j
        ranks = weights @ below
        centred.append(ranks - (weights * ranks).sum(-1, keepdims=True) / total)
    a, b = centred
    spread = np.sqrt((weights * a * a).sum(-1) * (weights * b * b).sum(-1))
    scale = total[..., 0] ** 3  # of the spread: below rounding of it nothing varies
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(spread > 1e-12 * scale, np.clip((weights * a * b).sum(-1) / spread, -1, 1), nan)


def curve_matrix(
    audit: Audit, only_stopped: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """(curves, weights, is_stopped) of n whole curves: val accuracies (n, epochs), how many trials of the search each
    stands for, (n,), and whether it had been stopped, (n,). The audited trials alone have weight 1."""
    curves = audit.curves[audit.curves["group"] == "stopped"] if only_stopped else audit.curves
    table = curves.pivot_table(index=["group", "number"], columns="epoch", values="val_accuracy")
    is_stopped = np.array([group == "stopped" for group, _ in table.index], dtype=bool)
    stands_for = audit.population / max(1, int(is_stopped.sum()))
    weights = np.where(is_stopped & (not only_stopped), stands_for, 1.0)
    return table.to_numpy(dtype=float), weights, is_stopped


def rank_correlation_data(audit: Audit) -> pd.DataFrame:
    """Spearman's rho of val accuracy after an epoch with that after the last: group, epoch, rho, low, high, n.

    Group `stopped`: the audited trials alone. Group `all`: with the search's COMPLETE ones, each audited trial weighted
    as the stopped ones it stands for. 95 % percentile intervals of a bootstrap within each kind of trial. Empty with
    fewer than 5 whole curves of audited trials; the last epoch, whose rho is 1, is left out.
    """
    rows = []
    for group in ("stopped", "all") if whole_curves(audit) >= FEWEST_FOR_RHO else ():
        curves, weights, is_stopped = curve_matrix(audit, group == "stopped")
        n = len(curves)
        drawn = weights * resampled(is_stopped, np.random.default_rng(SEED))
        for epoch in range(1, audit.epochs):
            rho = float(weighted_rank_correlation(curves[:, epoch - 1], curves[:, -1], weights))
            replicates = weighted_rank_correlation(curves[:, epoch - 1], curves[:, -1], drawn)
            known = replicates[~np.isnan(replicates)]
            low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (nan, nan)
            rows.append((group, epoch, rho, float(low), float(high), n))
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
    curves, weights, is_stopped = curve_matrix(audit, only_stopped=False)
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

    The number of epochs itself, where nothing is stopped, always is one. None without replays.
    """
    safe = replays[replays["safe_share"] >= SAFE_SHARE]
    return None if safe.empty else int(safe["grace_epochs"].min())


def state_sentence(audit: Audit) -> str:
    """How many of the stopped trials were audited, and what became of them."""
    if audit.trials.empty:
        return "No trial that ASHA had stopped has gone on yet."
    counts = audit.trials["ending"].value_counts()
    words = {
        "complete": "trained all epochs",
        "diverged": "diverged, which counts as not above the best",
        "running": "RUNNING",
        "fail": "failed",
        "time_budget": "out of time",
    }
    parts = [f"{counts[ending]} {words.get(str(ending), 'ended early')}" for ending in counts.index]
    drawn = len(audit.trials)
    text = f"{drawn} of {plural(audit.population, 'trial')} that ASHA had stopped, drawn at random, went on"
    known = len(audit.observed)
    rest = f" What follows is of the {known} whose end is known; the others may differ." if known < drawn else ""
    return f"{text}: {', '.join(parts)}.{rest}"


def stopping_sentence(audit: Audit) -> str:
    """How many stopped trials would have ended above the best one, and what that cost."""
    found = stopping_data(audit)
    digits = 0 if found["n"] < 100 else 1
    if not found["n"]:
        return "The end of no stopped trial is known yet."
    if audit.best is None:
        return "The search has no COMPLETE trial with which its stopped ones could be compared."
    number, accuracy = audit.best
    low, high = found["interval"]
    sampled = (
        "all stopped ones, so that there is no chance of sampling"
        if found["n"] == audit.population
        else f"95 % Wilson interval {100 * low:.{digits}f} to {percent(high, digits)}"
    )
    text = (
        f"{found['above']} of {found['n']} would have ended above trial {number}, the best of the search with "
        f"{percent(accuracy)} val accuracy: {percent(found['share'], digits)} ({sampled})."
    )
    if found["above"] > 0 and found["n"] < audit.population:
        text += f" That is about {found['share'] * audit.population:.0f} of {audit.population} stopped trials."
    if not found["above"]:
        return f"{text} Stopping these early cost nothing."
    return (
        f"{text} The best of them would have added {points(found['regret'])} points, a stopped trial on average "
        f"{points(found['expected_regret'])}; each was trained once, and the highest of several is flattered by chance."
    )


def signed(number: float) -> str:
    return f"{number:.2f}".replace("-", "−")


def rank_correlation_sentence(data: pd.DataFrame, rungs: list[int]) -> str:
    """How well the accuracy at the first rung, where most is decided, foretells the order at the end."""
    at = rungs[0] if rungs else None
    rows = data[data["epoch"] == at]
    if rows.empty:
        return f"No rank correlation: it needs {FEWEST_FOR_RHO} audited trials with whole curves, and an earlier rung."
    texts = []
    for row in rows.to_dict("records"):
        n, rho, low, high = row["n"], row["rho"], signed(row["low"]), signed(row["high"])
        who = f"the {n} audited trials alone" if row["group"] == "stopped" else f"all trials ({n} curves)"
        if np.isnan(rho):
            texts.append(f"undefined among {who}, whose accuracies do not vary")
        else:
            texts.append(f"{signed(rho)} among {who} (95 % bootstrap interval {low} to {high})")
    weighted = " Among all, each audited trial counts as the stopped ones it stands for." if len(rows) > 1 else ""
    return (
        f"Spearman's rank correlation of val accuracy at the first rung, epoch {at}, with that at the end is "
        f"{' and '.join(texts)}.{weighted}"
    )


def advice(audit: Audit) -> tuple[str, str | None]:
    """(what the audit advises on the grace period, the command for it or None where nothing is to be done)."""
    known, run = whole_curves(audit), str(audit.run)
    curves = len(audit.curves) // audit.epochs
    grace = advised_grace(audit.replays)
    if grace is None:
        if audit.population < ADVISED_FROM:
            return (
                f"ASHA stopped only {plural(audit.population, 'trial')}; from {ADVISED_FROM} audited ones on the grace "
                "period can be judged.",
                None,
            )
        return (
            f"From {ADVISED_FROM} audited trials on the grace period can be judged; {ADVISED_FROM - known} more are "
            "needed.",
            run_search("--audit", run, "--trials", str(ADVISED_FROM)),
        )
    rows = {row["grace_epochs"]: row for row in audit.replays.to_dict("records")}
    present, best = rows[min(audit.grace_epochs, audit.epochs)], rows[grace]
    text = (
        f"The stopping rule was replayed {REPLICATES:,} times on {plural(curves, 'whole curve')}, resampled. "
        f"With the present grace period, "
        f"{plural(audit.grace_epochs, 'epoch')}, {percent(present['safe_share'], 0)} of the replays end within "
        f"{100 * TOLERATED_LOSS:.1f} points of the trial that would have been best; mean loss "
        f"{100 * present['mean_loss']:.2f} points."
    )
    if grace == audit.grace_epochs:
        return f"{text} No shorter one reaches {percent(SAFE_SHARE, 0)}: it is right as it is.", None
    cost = f"training {percent(best['epoch_share'], 0)} of all epochs instead of {percent(present['epoch_share'], 0)}"
    command = ["--config", child_of(run, CONFIG), "--warm-start", run]
    if grace >= audit.epochs:
        text += f" No grace period reaches {percent(SAFE_SHARE, 0)}, only a search without early stopping, {cost}."
        return text, run_search(*command, "--set", "scheduler.name=none")
    text += f" The shortest that reaches {percent(SAFE_SHARE, 0)} is {plural(grace, 'epoch')}, {cost}."
    return text, run_search(*command, "--set", f"scheduler.grace_epochs={grace}")


def audit_sentences(audit: Audit) -> list[str]:
    """What stopping early cost, and what to do; the command for it is advice(audit)[1]."""
    rho = rank_correlation_sentence(audit.correlations, audit.rungs)
    return [*audit.problems, state_sentence(audit), stopping_sentence(audit), rho, advice(audit)[0]]


def audit_rows(audit: Audit) -> list[dict[str, Any]]:
    """The table of the report: one row for each audited trial, the highest final accuracy first."""
    ranked = audit.trials.sort_values("final_accuracy", ascending=False, kind="stable")
    known = ranked["final_accuracy"].notna()
    finals = [percent(final) for final in ranked["final_accuracy"][known]] + ranked["ending"][~known].tolist()
    return [
        {
            "number": trial["number"],
            "stopped_after": trial["epoch"],
            "accuracy": "–" if np.isnan(trial["accuracy"]) else percent(trial["accuracy"]),
            "final_accuracy": final,
            "above": bool(trial["above"]),
        }
        for trial, final in zip(ranked.to_dict("records"), finals, strict=True)
    ]


def audit_json(audit: Audit) -> dict[str, Any]:
    """What test_metrics.json says under `audit`; val accuracies in [0, 1], NaN for what is not known."""
    return {
        "stopped_trials": audit.population,
        "audited_trials": len(audit.trials),
        **stopping_data(audit),
        "best": audit.best and {"number": audit.best[0], "val_accuracy": audit.best[1]},
        "rungs": audit.rungs,
        "trials": audit.trials.to_dict("records"),
        "rank_correlation": audit.correlations.to_dict("records"),
        "grace_periods": audit.replays.to_dict("records"),
        "advised_grace_epochs": advised_grace(audit.replays),
    }
