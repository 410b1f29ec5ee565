"""What the confirmation says: sentences, and the part of test_metrics.json."""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
import pandas as pd

from analysis.evaluating.statistics import Difference
from analysis.findings.confirmation import (
    SPLITS,
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


def interval_text(row: Mapping[Any, Any] | pd.Series, split: str) -> str:
    """`81.20 % (95 % interval 80.90 to 81.50 %, n = 5)` of a row of confirmation_data and one of SPLITS; with one
    value, or equal ones, why there is no interval."""
    mean, low, high, n = (row[f"{split}_{part}"] for part in ("mean", "low", "high", "n"))
    if n == 0:
        return "not evaluated"
    if n == 1:
        return f"{percent(mean)} (n = 1: no interval)"
    if high - low < 1e-12:
        return f"{percent(mean)} (all {n:.0f} came out equal: their spread is unknown)"
    return f"{percent(mean)} (95 % interval {100 * max(0.0, low):.2f} to {percent(min(1.0, high))}, n = {n:.0f})"


def comparison_sentence(name: str, found: Difference) -> str:
    """Whether the winner beats a configuration: yes, no or not shown, and by how much in test accuracy."""
    answer = {True: "Yes", False: "No, it is worse", None: "Not shown"}[is_better(found)]
    text = f"Does the winner beat {name} in test accuracy? {answer}: {points(found.difference)} points"
    if isnan(found.low):
        return f"{text}, without an interval, which needs two trainings of each."
    if not found.has_spread:
        return f"{text}, but all trainings of each came out equal, so that their spread is unknown."
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    return f"{text}, 95 % interval {points(found.low)} to {points(found.high)}, Welch's t test {p}."


def flattery_sentence(number: int, search_val_accuracy: float, retrained: Sequence[float]) -> str:
    """How much better the winner looked in the search than when trained again, on the same val split."""
    more, low, high = flattery(search_val_accuracy, retrained)
    then, now, n = percent(search_val_accuracy), percent(float(np.mean(retrained))), len(retrained)
    if n == 1:
        accuracies = f"The val accuracy of trial {number} was {then} in the search and is {now} now"
        return f"{accuracies}: {points(more)} points, without an interval (n = 1)."
    answer = "That the search flattered the winner is not shown"
    within = f"95 % interval {points(low)} to {points(high)}"
    if high - low < 1e-12:
        within = f"all {n} came out equal: their spread is unknown"
    elif low > 0:
        answer = "The search flattered the winner"
    elif high < 0:
        answer = "The search did not flatter the winner"
    numbers = f"{then} then, {now} in the mean of {plural(n, 'training')} now ({points(more)} points, {within})"
    return f"{answer}: its val accuracy was {numbers}."


def state_sentence(confirmation: Confirmation) -> str:
    """How many trainings there are, and what became of those that are not COMPLETE; empty if all are."""
    counts = confirmation.trainings["ending"].value_counts()
    complete, running, failed = (int(counts.get(end, 0)) for end in (Ending.COMPLETE, Ending.RUNNING, Ending.FAILED))
    total = int(counts.sum())
    groups = ((running, "RUNNING"), (failed, "failed"), (total - complete - running - failed, "ended early"))
    others = ", ".join(f"{count} {words}" for count, words in groups if count)
    return others and f"Of {plural(total, 'training')} {complete} are COMPLETE, {others}: these are left out."


def confirmation_sentences(confirmation: Confirmation, results: SearchResults) -> list[str]:
    """The verdict: what the winner reaches, whom it beats, how much the search flattered it, what the numbers cover."""
    trainings, sentences = confirmation.trainings, [state_sentence(confirmation)]
    data = confirmation_data(trainings, results.trials)
    ranked = ranked_sources(data)
    if not ranked:
        sentences.append("No network has been trained again to the end yet, so nothing is confirmed.")
        return list(filter(None, sentences))
    number = ranked[0]
    winner = data[data["source_number"] == number].iloc[0]
    best = results.best_trial
    if best is not None and best.number != number and results.params[best.number] != results.params.get(number):
        command = run_search("--confirm", results.place)
        sentences.append(f"The best trial of the search, {best.number}, is not among the confirmed ones: {command}")
    name = "trial 0, the defaults," if number == 0 else f"trial {number}"
    reached = f"trained again with fresh seeds its mean test accuracy is {interval_text(winner, 'test')}."
    if not winner["test_n"]:
        reached = "its retrained networks are not evaluated on the test split, so that nothing is compared."
    sentences.append(f"Of the confirmed configurations {name} had the highest val accuracy in the search; {reached}")
    if winner["mirrored_n"]:
        sentences.append(f"Averaged over each image and its mirror image it is {interval_text(winner, 'mirrored')}.")
    for role, (source, difference) in comparisons(data, trainings).items():
        opponent = "the defaults, trial 0," if role == "defaults" else f"the runner-up, trial {source},"
        sentences.append(comparison_sentence(opponent, difference))
    sentences.append(leader_sentence(data, winner))
    in_search = float(winner["search_val_accuracy"])
    sentences.append(flattery_sentence(number, in_search, values_of(trainings, number, "val_accuracy")))
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
    return list(filter(None, sentences))


def leader_sentence(data: pd.DataFrame, winner: pd.Series) -> str:
    """Said if another configuration has the best mean val accuracy, which is there to choose, when trained again."""
    leader = data.iloc[int(data["val_mean"].argmax())]
    if leader["val_mean"] <= winner["val_mean"]:
        return ""
    name = "the defaults, trial 0, have" if leader["source_number"] == 0 else f"trial {leader['source_number']:.0f} has"
    accuracies = f"{interval_text(leader, 'val')} against {percent(winner['val_mean'])} of the winner"
    return f"By the mean val accuracy of the retrained networks {name} the lead: {accuracies}."


def confirmation_json(confirmation: Confirmation, results: SearchResults) -> dict[str, Any]:
    """What test_metrics.json says under `confirmation`; accuracies in [0, 1], NaN if there is no interval."""
    trainings = confirmation.trainings
    data = confirmation_data(trainings, results.trials)
    rows = {int(row["source_number"]): row for row in data.to_dict("records")}
    ranked, winner = ranked_sources(data), None
    if ranked:
        retrained = values_of(trainings, ranked[0], "val_accuracy")
        more, low, high = flattery(rows[ranked[0]]["search_val_accuracy"], retrained)
        winner = {"number": ranked[0], "flattery": more, "flattery_interval_95": [low, high]}
    return {
        "configurations": [
            {
                "number": number,
                "search_val_accuracy": row["search_val_accuracy"],
                **{
                    f"{split}_accuracy": {
                        "mean": row[f"{split}_mean"],
                        "interval_95": [row[f"{split}_low"], row[f"{split}_high"]],
                        "n": int(row[f"{split}_n"]),
                        "values": values_of(trainings, number, f"{split}_accuracy"),
                    }
                    for split in SPLITS
                    if split != "mirrored" or row["mirrored_n"]
                },
            }
            for number, row in rows.items()
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
