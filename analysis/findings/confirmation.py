"""The best configurations and the defaults, trained again with fresh seeds: what of the search's result is not luck.

RUN/confirm is an ordinary run directory; each of its trials repeats the one of RUN that its `source_number` names. The
intervals are over trainings: they cover the seed, that is initialisation, order of the images and augmentation. All
trainings share one split and one test split, so that the choice of images is not covered. The test split chooses
nothing here: configurations are ranked by val accuracy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isnan, nan, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from analysis.evaluating.evaluation import plain, relocated, tested
from analysis.evaluating.test_split import OpenTest
from analysis.reading.results import AnalysisError, SearchResults, load_nested
from analysis.text import percent, plural, points, run_search
from training.checkpoint import read_meta

DIRECTORY = "confirm"
TRAINING_DTYPES = {
    "number": "int64",
    "source_number": "int64",
    "state": "object",
    "val_accuracy": "float64",
    "test_accuracy": "float64",
}


@dataclass(frozen=True)
class Confirmation:
    """Trainings that repeat trials of a search. `trainings` has one row for each; accuracies of COMPLETE ones only."""

    run: Path | str  # path or URL of the search
    trainings: pd.DataFrame  # TRAINING_DTYPES; test_accuracy is NaN until evaluate_confirmation
    results: SearchResults | None  # of RUN/confirm; None where it cannot be read
    test_images: int | None = None
    problems: list[str] = field(default_factory=list)


def load_confirmation(results: SearchResults) -> Confirmation | None:
    """Read RUN/confirm; None where there is none. Whatever else is wrong is said in `problems`."""
    try:
        repeated = load_nested(results, DIRECTORY)
    except AnalysisError as error:
        return Confirmation(results.place, trainings_table(pd.DataFrame()), None, problems=[str(error)])
    if repeated is None:
        return None
    return Confirmation(results.place, trainings_table(repeated.trials), repeated)


def trainings_table(trials: pd.DataFrame) -> pd.DataFrame:
    """The trials of RUN/confirm that name their source, with TRAINING_DTYPES; val_accuracy NaN unless COMPLETE."""
    if "source_number" not in trials:
        return pd.DataFrame({name: pd.Series(dtype=dtype) for name, dtype in TRAINING_DTYPES.items()})
    known = trials[trials["source_number"].notna()].reset_index(drop=True)
    finished = known["val_accuracy"].where(known["state"] == "COMPLETE")
    table = known.assign(val_accuracy=finished, test_accuracy=nan)[list(TRAINING_DTYPES)]
    return table.astype(TRAINING_DTYPES)


def evaluate_confirmation(
    confirmation: Confirmation,
    open_test: OpenTest,
    device: torch.device,
    report: Path,
    data_dir: str | None = None,
) -> Confirmation:
    """The same with the test accuracy of every COMPLETE training.

    `open_test` is the opener of the whole analysis, `report` the search's RUN/report, where predictions are kept.
    """
    repeated, trainings = confirmation.results, confirmation.trainings.copy()
    problems, images = list(confirmation.problems), confirmation.test_images
    if repeated is None:
        return confirmation
    epochs = dict(zip(repeated.trials["number"], repeated.trials["epochs"], strict=True))
    for row, training in trainings[trainings["state"] == "COMPLETE"].iterrows():
        number = int(training["number"])
        checkpoint = repeated.checkpoint_of(number)
        meta = checkpoint and read_meta(checkpoint)
        if not checkpoint or not meta or len(meta["results"]) < epochs[number]:
            problems.append(f"{repeated.place}: trial {number} has no readable checkpoint of its last epoch.")
            continue
        data = relocated(plain(meta["config"].data), data_dir)
        predictions = tested(checkpoint, meta, data, open_test, device, report, problems)
        if predictions is not None:
            images = len(predictions.labels)
            trainings.loc[row, "test_accuracy"] = float((predictions.logits.argmax(1) == predictions.labels).mean())
    return replace(confirmation, trainings=trainings, test_images=images, problems=list(dict.fromkeys(problems)))


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): 95 % interval of the mean of independent normal values; NaN bounds for one, all NaN for none.

    Equal values give an interval without width.
    """
    n = len(values)
    if n == 0:
        return nan, nan, nan
    mean = float(np.mean(values))
    if n == 1:
        return mean, nan, nan
    half = float(stats.t.ppf(0.975, n - 1)) * _deviation(values) / sqrt(n)
    return mean, mean - half, mean + half


@dataclass(frozen=True)
class Difference:
    """Mean of one sample minus that of another, with its 95 % interval; NaN where a sample has one value."""

    difference: float
    low: float
    high: float
    p: float  # two-sided

    @property
    def has_spread(self) -> bool:
        """Whether the values differ within a sample; without that nothing can be tested."""
        return self.high > self.low


def welch(a: Sequence[float], b: Sequence[float]) -> Difference:
    """Welch's t test of two independent samples; degrees of freedom by Welch and Satterthwaite. n >= 1 each.

    If no value differs from the others of its sample, the interval has no width and p is 1 or, for unequal means, 0.
    """
    difference = float(np.mean(a)) - float(np.mean(b))
    if min(len(a), len(b)) < 2:
        return Difference(difference, nan, nan, nan)
    ours, theirs = _deviation(a) ** 2 / len(a), _deviation(b) ** 2 / len(b)
    error = sqrt(ours + theirs)
    if error == 0:
        return Difference(difference, difference, difference, 1.0 if difference == 0 else 0.0)
    # Shares instead of squares of variances: those of nearly equal values would underflow.
    share = ours / (ours + theirs)
    freedom = 1 / (share**2 / (len(a) - 1) + (1 - share) ** 2 / (len(b) - 1))
    half = float(stats.t.ppf(0.975, freedom)) * error
    p = 2 * float(stats.t.sf(abs(difference) / error, freedom))
    return Difference(difference, difference - half, difference + half, p)


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation with n - 1; exactly 0 for equal values, whose mean may be off by rounding."""
    return 0.0 if max(values) == min(values) else float(np.std(values, ddof=1))


def confirmation_data(trainings: pd.DataFrame, search_trials: pd.DataFrame) -> pd.DataFrame:
    """One row for each configuration with a COMPLETE training: best in the search first, the defaults, trial 0, last.

    source_number, search_val_accuracy, and of the trainings val_mean, val_low, val_high, val_n, and the same of test_:
    means with 95 % t intervals, bounds NaN for n = 1, all NaN for n = 0.
    """
    in_search = dict(zip(search_trials["number"], search_trials["val_accuracy"], strict=True))
    rows = []
    for source, group in trainings[trainings["val_accuracy"].notna()].groupby("source_number"):
        row: dict[str, Any] = {
            "source_number": int(str(source)),
            "search_val_accuracy": float(in_search.get(source, nan)),
        }
        for split in ("val", "test"):
            values = group[f"{split}_accuracy"].dropna().tolist()
            mean, low, high = t_interval(values)
            row |= {f"{split}_mean": mean, f"{split}_low": low, f"{split}_high": high, f"{split}_n": len(values)}
        rows.append(row)
    columns = ["source_number", "search_val_accuracy"]
    columns += [f"{split}_{name}" for split in ("val", "test") for name in ("mean", "low", "high", "n")]
    frame = pd.DataFrame(rows, columns=columns)
    ranked = frame.assign(is_defaults=frame["source_number"] == 0).sort_values(
        ["is_defaults", "search_val_accuracy", "source_number"], ascending=[True, False, True], ignore_index=True
    )
    return ranked[columns]


def ranked_sources(data: pd.DataFrame) -> list[int]:
    """Source numbers by val accuracy in the search, best first, the defaults in their place: winner, runner-up, ..."""
    known = data[data["search_val_accuracy"].notna()]
    ranked = known.sort_values(["search_val_accuracy", "source_number"], ascending=[False, True])
    return [int(number) for number in ranked["source_number"]]


def flattery(search_val_accuracy: float, retrained: Sequence[float]) -> tuple[float, float, float]:
    """(difference, low, high): a trial's val accuracy in the search minus the mean of its retrained networks'.

    The interval is that of the mean; the search's value is one number that is there.
    """
    mean, low, high = t_interval(retrained)
    return search_val_accuracy - mean, search_val_accuracy - high, search_val_accuracy - low


def comparisons(data: pd.DataFrame, trainings: pd.DataFrame) -> dict[str, tuple[int, Difference]]:
    """Test accuracy of the winner's trainings against the `runner_up`'s and the `defaults`': source number and Welch's
    test. Left out where there is nothing to compare; a runner-up that is trial 0 stands under `defaults`."""
    ranked = ranked_sources(data)
    if not ranked:
        return {}
    opponents = {"runner_up": next((number for number in ranked[1:2] if number != 0), None), "defaults": 0}
    ours = _values(trainings, ranked[0], "test_accuracy")
    found = {}
    for role, number in opponents.items():
        theirs = [] if number is None else _values(trainings, number, "test_accuracy")
        if number is not None and number != ranked[0] and ours and theirs:
            found[role] = (number, welch(ours, theirs))
    return found


def is_better(difference: Difference) -> bool | None:
    """True or False where the 95 % interval leaves 0 out; None: not shown. Equal values in both samples show nothing:
    their spread is unknown."""
    if not difference.has_spread or difference.low <= 0 <= difference.high:
        return None
    return difference.low > 0


def _values(trainings: pd.DataFrame, source: int, column: str) -> list[float]:
    return [float(value) for value in trainings.loc[trainings["source_number"] == source, column].dropna()]


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
    states = confirmation.trainings["state"].value_counts()
    others = [
        f"{states[state]} {text}"
        for state, text in (("RUNNING", "RUNNING"), ("FAIL", "failed"), ("PRUNED", "ended early"))
        if state in states
    ]
    if not others:
        return ""
    total = plural(len(confirmation.trainings), "training")
    return f"Of {total} {int(states.get('COMPLETE', 0))} are COMPLETE, {', '.join(others)}: these are left out."


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
            ranked[0], float(winner["search_val_accuracy"]), _values(trainings, ranked[0], "val_accuracy")
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
        more, low, high = flattery(in_search, _values(trainings, ranked[0], "val_accuracy"))
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
                        "values": _values(trainings, row["source_number"], f"{split}_accuracy"),
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
