"""What the confirmation says: sentences, the table of the report and the part of test_metrics.json."""

from collections.abc import Sequence
from math import isnan
from typing import Any

import numpy as np
import pandas as pd

from analysis.evaluating.statistics import Difference
from analysis.findings.confirmation import (
    Confirmation,
    comparisons,
    confirmation_data,
    flattery,
    is_better,
    ranked_sources,
    values_of,
)
from analysis.reading.results import SearchResults
from analysis.text import percent, plural, points, run_search
from search.record.endings import Ending


def interval_text(mean: float, low: float, high: float, n: int) -> str:
    """`81.20 % (95 % interval 80.90 to 81.50 %, n = 5)`; with one value, or equal ones, why there is no interval."""
    if n == 0:
        return "not evaluated"
    if n == 1:
        return f"{percent(mean)} (n = 1: no interval)"
    if high - low < 1e-12:
        return f"{percent(mean)} (all {n} came out equal: their spread is unknown)"
    low, high = max(0.0, low), min(1.0, high)
    return f"{percent(mean)} (95 % interval {100 * low:.2f} to {percent(high)}, n = {n})"


def difference_text(difference: Difference) -> str:
    """`+0.52 points, 95 % interval +0.20 to +0.84, Welch's t test p = 0.004`."""
    p = "p < 0.001" if difference.p < 0.001 else f"p = {difference.p:.3f}"
    low, high = points(difference.low), points(difference.high)
    return f"{points(difference.difference)} points, 95 % interval {low} to {high}, Welch's t test {p}"


def comparison_sentence(name: str, difference: Difference) -> str:
    """Whether the winner beats a configuration: yes, no or not shown, and by how much in test accuracy."""
    question = f"Does the winner beat {name} in test accuracy?"
    if isnan(difference.low):
        return (
            f"{question} Not shown: {points(difference.difference)} points, without an interval, which needs two "
            "trainings of each."
        )
    if not difference.has_spread:
        return (
            f"{question} Not shown: {points(difference.difference)} points, but all trainings of each came out equal, "
            "so that their spread is unknown."
        )
    answer = {True: "Yes", False: "No, it is worse", None: "Not shown"}[is_better(difference)]
    return f"{question} {answer}: {difference_text(difference)}."


def flattery_sentence(number: int, search_val_accuracy: float, retrained: Sequence[float]) -> str:
    """How much better the winner looked in the search than when trained again, on the same val split."""
    more, low, high = flattery(search_val_accuracy, retrained)
    mean, n = float(np.mean(retrained)), len(retrained)
    if n == 1:
        return (
            f"The val accuracy of trial {number} was {percent(search_val_accuracy)} in the search and is "
            f"{percent(mean)} now: {points(more)} points, without an interval (n = 1)."
        )
    numbers = f"{percent(search_val_accuracy)} then, {percent(mean)} in the mean of {plural(n, 'training')} now"
    within = f"{points(more)} points, 95 % interval {points(low)} to {points(high)}"
    if high - low < 1e-12:
        within = f"{points(more)} points, all {n} came out equal: their spread is unknown"
        return f"That the search flattered the winner is not shown: its val accuracy was {numbers} ({within})."
    if low > 0:
        return f"The search flattered the winner: its val accuracy was {numbers} ({within})."
    if high < 0:
        return f"The search did not flatter the winner: its val accuracy was {numbers} ({within})."
    return f"That the search flattered the winner is not shown: its val accuracy was {numbers} ({within})."


def state_sentence(confirmation: Confirmation) -> str:
    """How many trainings there are, and what became of those that are not COMPLETE; empty where all are."""
    counts = confirmation.trainings["ending"].value_counts()
    complete, running, failed = (int(counts.get(end, 0)) for end in (Ending.COMPLETE, Ending.RUNNING, Ending.FAILED))
    total = int(counts.sum())
    groups = ((running, "RUNNING"), (failed, "failed"), (total - complete - running - failed, "ended early"))
    others = ", ".join(f"{count} {words}" for count, words in groups if count)
    if not others:
        return ""
    return f"Of {plural(total, 'training')} {complete} are COMPLETE, {others}: these are left out."


def confirmation_sentences(confirmation: Confirmation, results: SearchResults) -> list[str]:
    """The verdict: what the winner reaches, whom it beats, how much the search flattered it, what the numbers cover."""
    trainings = confirmation.trainings
    data = confirmation_data(trainings, results.trials)
    ranked = ranked_sources(data)
    state = [text for text in [state_sentence(confirmation)] if text]
    if not ranked:
        return [*state, "No network has been trained again to the end yet, so nothing is confirmed."]
    winner = data[data["source_number"] == ranked[0]].iloc[0]
    name = "trial 0, the defaults," if ranked[0] == 0 else f"trial {ranked[0]}"
    sentences = [*state, *_other_winner(ranked[0], results)]
    reached = interval_text(winner["test_mean"], winner["test_low"], winner["test_high"], int(winner["test_n"]))
    sentences.append(
        f"Of the confirmed configurations {name} had the highest val accuracy in the search; trained again with fresh "
        f"seeds its mean test accuracy is {reached}."
        if winner["test_n"]
        else f"Of the confirmed configurations {name} had the highest val accuracy in the search; its retrained "
        "networks are not evaluated on the test split, so that nothing is compared."
    )
    for role, (number, difference) in comparisons(data, trainings).items():
        opponent = "the defaults, trial 0," if role == "defaults" else f"the runner-up, trial {number},"
        sentences.append(comparison_sentence(opponent, difference))
    sentences += _other_leader(data, ranked[0])
    sentences.append(
        flattery_sentence(
            ranked[0], float(winner["search_val_accuracy"]), values_of(trainings, ranked[0], "val_accuracy")
        )
    )
    if data["val_n"].max() == 1:
        top = max(1, int((data["source_number"] != 0).sum()))
        command = run_search("--confirm", str(confirmation.run), "--top", str(top), "--seeds", "5")
        sentences.append(f"An interval needs more seeds: {command}")
    else:
        sentences.append(
            "The intervals are over trainings: they cover the seed of initialisation, order and augmentation, not "
            "another split or other images, which all trainings share. The configurations were chosen by val accuracy "
            "alone; the test split chose nothing."
        )
    return sentences


def _other_winner(number: int, results: SearchResults) -> list[str]:
    best = results.best_trial
    if best is None or best.number == number or results.params[best.number] == results.params.get(number):
        return []
    command = run_search("--confirm", results.place)
    return [f"The best trial of the search, {best.number}, is not among the confirmed ones: {command}"]


def _other_leader(data: pd.DataFrame, winner: int) -> list[str]:
    """Said if another configuration has the best mean val accuracy, which is there to choose, when trained again."""
    leader = data.iloc[int(data["val_mean"].argmax())]
    mean = float(data.loc[data["source_number"] == winner, "val_mean"].iloc[0])
    if int(leader["source_number"]) == winner or leader["val_mean"] <= mean:
        return []
    name = "the defaults, trial 0, have" if leader["source_number"] == 0 else f"trial {leader['source_number']:.0f} has"
    return [
        f"By the mean val accuracy of the retrained networks {name} the lead: "
        f"{interval_text(leader['val_mean'], leader['val_low'], leader['val_high'], int(leader['val_n']))} against "
        f"{percent(mean)} of the winner."
    ]


def confirmation_rows(confirmation: Confirmation, results: SearchResults) -> list[dict[str, Any]]:
    """The table of the report: one row for each configuration, numbers and what to write in the cells."""
    data = confirmation_data(confirmation.trainings, results.trials)
    ranked = ranked_sources(data)
    return [
        {
            "number": int(row["source_number"]),
            "name": "defaults" if row["source_number"] == 0 else f"trial {row['source_number']}",
            "is_winner": ranked[:1] == [row["source_number"]],
            "search_val_accuracy": "–" if isnan(row["search_val_accuracy"]) else percent(row["search_val_accuracy"]),
            **{
                f"{split}_accuracy": interval_text(*(row[f"{split}_{part}"] for part in ("mean", "low", "high", "n")))
                for split in ("val", "test")
            },
        }
        for row in data.to_dict("records")
    ]


def confirmation_json(confirmation: Confirmation, results: SearchResults) -> dict[str, Any]:
    """What test_metrics.json says under `confirmation`; accuracies in [0, 1], NaN where there is no interval."""
    trainings = confirmation.trainings
    data = confirmation_data(trainings, results.trials)
    ranked = ranked_sources(data)
    winner = None
    if ranked:
        in_search = float(data.loc[data["source_number"] == ranked[0], "search_val_accuracy"].iloc[0])
        more, low, high = flattery(in_search, values_of(trainings, ranked[0], "val_accuracy"))
        winner = {"number": ranked[0], "flattery": more, "flattery_interval_95": [low, high]}
    return {
        "configurations": [
            {
                "number": int(row["source_number"]),
                "search_val_accuracy": row["search_val_accuracy"],
                **{
                    f"{split}_accuracy": {
                        "mean": row[f"{split}_mean"],
                        "interval_95": [row[f"{split}_low"], row[f"{split}_high"]],
                        "n": int(row[f"{split}_n"]),
                        "values": values_of(trainings, row["source_number"], f"{split}_accuracy"),
                    }
                    for split in ("val", "test")
                },
            }
            for row in data.to_dict("records")
        ],
        "winner": winner,
        "comparisons": {
            role: {
                "number": number,
                "test_difference": found.difference,
                "interval_95": [found.low, found.high],
                "p": found.p,
                "winner_is_better": is_better(found),
            }
            for role, (number, found) in comparisons(data, trainings).items()
        },
        "test_images": confirmation.test_images,
        "intervals": "over trainings with other seeds on one split: Student's t, Welch's t test",
    }
