"""The best configurations and the defaults, trained again with fresh seeds: what of the search's result is not luck.

RUN/confirm is an ordinary run directory; each of its trials repeats the one of RUN that its `source_number` names. The
intervals are over trainings: they cover the seed, that is initialisation, order of the images and augmentation. All
trainings share one split and one test split, so that the choice of images is not covered. The test split chooses
nothing here: configurations are ranked by val accuracy alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from analysis.evaluating.evaluation import saved_network, tested
from analysis.evaluating.statistics import Difference, t_interval, welch
from analysis.evaluating.test_split import OpenTest
from analysis.reading.results import AnalysisError, SearchResults, load_nested
from analysis.reading.tables import endings
from search.record.endings import Ending

DIRECTORY = "confirm"
SPLITS = ("val", "test", "mirrored")  # that accuracies are of; mirrored: test, each image and its mirror image
TRAINING_DTYPES = {
    "number": "int64",
    "source_number": "int64",
    "ending": "object",
    "val_accuracy": "float64",
    "test_accuracy": "float64",
    "mirrored_accuracy": "float64",
}


@dataclass(frozen=True)
class Confirmation:
    """Trainings that repeat trials of a search. `trainings` has one row for each; accuracies of COMPLETE ones only."""

    run: Path | str  # path or URL of the search
    trainings: pd.DataFrame  # TRAINING_DTYPES; those of test images are NaN until evaluate_confirmation
    results: SearchResults | None  # of RUN/confirm; None if it cannot be read
    test_images: int | None = None
    problems: list[str] = field(default_factory=list)


def load_confirmation(results: SearchResults) -> Confirmation | None:
    """Read RUN/confirm; None if there is none. Whatever else is wrong is said in `problems`."""
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
    ends = endings(known)
    finished = known["val_accuracy"].where(ends == Ending.COMPLETE)
    table = known.assign(ending=ends, val_accuracy=finished, test_accuracy=nan, mirrored_accuracy=nan)
    return table[list(TRAINING_DTYPES)].astype(TRAINING_DTYPES)


def evaluate_confirmation(
    confirmation: Confirmation,
    open_test: OpenTest,
    device: torch.device,
    report: Path,
    data_dir: str | None = None,
) -> Confirmation:
    """The same with the test accuracy of every COMPLETE training, and the mirrored one if it flipped images.

    `open_test` is the opener of the whole analysis, `report` the search's RUN/report, where predictions are kept.
    """
    repeated, trainings = confirmation.results, confirmation.trainings.copy()
    problems, images = list(confirmation.problems), confirmation.test_images
    if repeated is None:
        return confirmation
    epochs = dict(zip(repeated.trials["number"], repeated.trials["epochs"], strict=True))
    for row, training in trainings[trainings["ending"] == Ending.COMPLETE].iterrows():
        number = int(training["number"])
        checkpoint = repeated.checkpoint_of(number)
        split_seed = repeated.settings.data.split_seed
        network = None if checkpoint is None else saved_network(checkpoint, device, data_dir, split_seed)
        if network is None or len(network.meta["results"]) < epochs[number]:
            problems.append(f"{repeated.place}: trial {number} has no readable checkpoint of its last epoch.")
            continue
        predictions = tested(network, open_test, report, problems)
        if predictions is not None:
            images = len(predictions.labels)
            answers = {"test_accuracy": predictions.logits, "mirrored_accuracy": predictions.mirrored_logits}
            for column, logits in answers.items():
                if logits is not None:
                    trainings.loc[row, column] = float((logits.argmax(1) == predictions.labels).mean())
    return replace(confirmation, trainings=trainings, test_images=images, problems=list(dict.fromkeys(problems)))


def confirmation_data(trainings: pd.DataFrame, search_trials: pd.DataFrame) -> pd.DataFrame:
    """One row for each configuration with a COMPLETE training: best in the search first, the defaults, trial 0, last.

    source_number, search_val_accuracy, and of the trainings val_mean, val_low, val_high, val_n, and the same of test_
    and mirrored_: means with 95 % t intervals, bounds NaN for n = 1, all NaN for n = 0.
    """
    in_search = dict(zip(search_trials["number"], search_trials["val_accuracy"], strict=True))
    rows = []
    for source, group in trainings[trainings["val_accuracy"].notna()].groupby("source_number"):
        row: dict[str, Any] = {
            "source_number": int(str(source)),
            "search_val_accuracy": float(in_search.get(source, nan)),
        }
        for split in SPLITS:
            values = group[f"{split}_accuracy"].dropna().tolist()
            mean, low, high = t_interval(values)
            row |= {f"{split}_mean": mean, f"{split}_low": low, f"{split}_high": high, f"{split}_n": len(values)}
        rows.append(row)
    columns = ["source_number", "search_val_accuracy"]
    columns += [f"{split}_{name}" for split in SPLITS for name in ("mean", "low", "high", "n")]
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
    test. Left out if there is nothing to compare; a runner-up that is trial 0 stands under `defaults`."""
    ranked = ranked_sources(data)
    if not ranked:
        return {}
    opponents = {"runner_up": next((number for number in ranked[1:2] if number != 0), None), "defaults": 0}
    ours = values_of(trainings, ranked[0], "test_accuracy")
    found = {}
    for role, number in opponents.items():
        theirs = [] if number is None else values_of(trainings, number, "test_accuracy")
        if number is not None and number != ranked[0] and ours and theirs:
            found[role] = (number, welch(ours, theirs))
    return found


def is_better(difference: Difference) -> bool | None:
    """True or False if the 95 % interval leaves 0 out; None: not shown. Equal values in both samples show nothing:
    their spread is unknown."""
    if not difference.has_spread or difference.low <= 0 <= difference.high:
        return None
    return difference.low > 0


def values_of(trainings: pd.DataFrame, source: int, column: str) -> list[float]:
    """What is known in a column of the trainings that repeat a trial."""
    return [float(value) for value in trainings.loc[trainings["source_number"] == source, column].dropna()]
