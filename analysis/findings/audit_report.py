"""What the audit says: sentences, the advice, the table of the report and the part of test_metrics.json."""

from math import isnan
from typing import Any

import pandas as pd

from analysis.findings.audit import (
    ADVISED_FROM,
    FEWEST_FOR_RHO,
    REPLICATES,
    SAFE_SHARE,
    TOLERATED_LOSS,
    Audit,
    advised_grace,
    stopping_data,
    whole_curves,
)
from analysis.text import percent, plural, points, run_search
from search.record.endings import Ending
from search.record.run_directory import CONFIG
from search.record.storage import child_of


def state_sentence(audit: Audit) -> str:
    """How many of the stopped trials were audited, and what became of them."""
    if audit.trials.empty:
        return "No trial that ASHA had stopped has gone on yet."
    counts = audit.trials["ending"].value_counts()
    words = {
        Ending.COMPLETE: "trained all epochs",
        Ending.DIVERGED: "diverged, which counts as not above the best",
        Ending.RUNNING: "RUNNING",
        Ending.FAILED: "failed",
        Ending.TIME_BUDGET: "out of time",
    }
    parts = [f"{count} {words.get(Ending(str(end)), 'ended early')}" for end, count in counts.items()]
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
    sampled = f"95 % Wilson interval {100 * low:.{digits}f} to {percent(high, digits)}"
    if found["n"] == audit.population:
        sampled = "all stopped ones, so that there is no chance of sampling"
    text = (
        f"{found['above']} of {found['n']} would have ended above trial {number}, the best of the search with "
        f"{percent(accuracy)} val accuracy: {percent(found['share'], digits)} ({sampled})."
    )
    if not found["above"]:
        return f"{text} Stopping these early cost nothing."
    if found["n"] < audit.population:
        text += f" That is about {found['share'] * audit.population:.0f} of {audit.population} stopped trials."
    return (
        f"{text} The best of them would have added {points(found['regret'])} points, a stopped trial on average "
        f"{points(found['expected_regret'])}; each was trained once, and the highest of several is flattered by chance."
    )


def rank_correlation_sentence(data: pd.DataFrame, rungs: list[int]) -> str:
    """How well the accuracy at the first rung, where most is decided, foretells the order at the end."""
    at = rungs[0] if rungs else None
    rows = data[data["epoch"] == at]
    if rows.empty:
        return f"No rank correlation: it needs {FEWEST_FOR_RHO} audited trials with whole curves, and an earlier rung."
    texts = []
    for row in rows.to_dict("records"):
        n = row["n"]
        rho, low, high = (f"{row[name]:.2f}".replace("-", "−") for name in ("rho", "low", "high"))
        who = f"the {n} audited trials alone" if row["group"] == "stopped" else f"all trials ({n} curves)"
        if isnan(row["rho"]):
            texts.append(f"undefined among {who}, whose accuracies do not vary")
        else:
            texts.append(f"{rho} among {who} (95 % bootstrap interval {low} to {high})")
    weighted = " Among all, each audited trial counts as the stopped ones it stands for." if len(rows) > 1 else ""
    return (
        f"Spearman's rank correlation of val accuracy at the first rung, epoch {at}, with that at the end is "
        f"{' and '.join(texts)}.{weighted}"
    )


def advice(audit: Audit) -> tuple[str, str | None]:
    """(what the audit advises on the grace period, the command for it or None if nothing is to be done)."""
    run, curves, grace = str(audit.run), len(audit.curves) // audit.epochs, advised_grace(audit.replays)
    if grace is None and audit.population < ADVISED_FROM:
        stopped = f"ASHA stopped only {plural(audit.population, 'trial')}"
        return f"{stopped}; from {ADVISED_FROM} audited ones on the grace period can be judged.", None
    if grace is None:
        more = f"{ADVISED_FROM - whole_curves(audit)} more are needed"
        text = f"From {ADVISED_FROM} audited trials on the grace period can be judged; {more}."
        return text, run_search("--audit", run, "--trials", str(ADVISED_FROM))
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


def audit_rows(audit: Audit) -> list[dict[Any, Any]]:
    """The table of the report: one row of Audit.trials for each audited trial, the highest final accuracy first."""
    return audit.trials.sort_values("final_accuracy", ascending=False, kind="stable").to_dict("records")


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
