"""Results and evaluations of searches as the analysis reads them, from numbers."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import TrialState, create_trial

from analysis import BestTrial, SearchResults
from analysis.evaluating.evaluation import EvaluatedTrial, Evaluation, TrainingBatch
from analysis.evaluating.metrics import random_sample, surest_mistakes
from analysis.evaluating.test_split import Predictions
from analysis.reading.tables import EPOCH_DTYPES, trials_table, typed_table
from search.config import SearchConfig, written_config
from search.space import SpaceEntry
from training.config import DataConfig, TrainConfig


def read_space(written: dict[str, Any]) -> dict[str, SpaceEntry]:
    return written_config({"space": written})[0].space


SPACE = read_space(
    {
        "model.depth": {"int": [1, 4]},
        "model.kernel_size": {"choice": [3, 5], "per_layer": True},
        "model.padding": {"choice": ["same", 0, 1]},
        "model.batch_norm": {"choice": [True, False]},
        "optimizer.name": {"choice": ["sgd", "adam", "adamw"]},
        "optimizer.learning_rate": {"float": [0.0005, 0.5], "log": True},
        "optimizer.momentum": {"float": [0.8, 0.99], "when": {"optimizer.name": "sgd"}},
        "train.label_smoothing": {"float": [0.0, 0.2], "step": 0.05},
    }
)
PARAMS = {"model.depth": 1, "model.kernel_size.0": 3, "optimizer.name": "sgd", "optimizer.learning_rate": 0.1}
COMPLETE, PRUNED, FAIL, RUNNING = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING


def distribution_of(name: str, space: dict[str, SpaceEntry] = SPACE) -> BaseDistribution:
    return (space.get(name) or space[name.rpartition(".")[0]]).distribution()


def searched(*rows: dict[str, Any], total: int = 9, space: dict[str, SpaceEntry] = SPACE) -> SearchResults:
    """A search from rows of curve (val accuracies), optionally state, stopped_by, params, costs, seconds, losses."""
    trials, epochs = [], []
    for number, row in enumerate(rows):
        curve, params = row["curve"], row.get("params", PARAMS)
        state = row.get("state", COMPLETE if len(curve) == total else PRUNED)
        trial = create_trial(
            state=state,
            value=curve[-1] if state == COMPLETE else None,
            params=params,
            distributions={name: distribution_of(name, space) for name in params},
            user_attrs={name: row[name] for name in ("stopped_by", "num_params", "multiply_adds") if name in row},
            intermediate_values=dict(enumerate(curve, start=1)),
        )
        trial.number = number
        trials.append(trial)
        losses, known = row.get("losses", [None] * len(curve)), {"epoch_seconds": row.get("seconds", 1.0)}
        for epoch, (value, loss) in enumerate(zip(curve, losses, strict=True), start=1):
            epochs.append({"number": number, "epoch": epoch, "val_accuracy": value, "val_loss": loss, **known})
    complete = [trial for trial in trials if trial.state == COMPLETE]
    best = max(complete, key=lambda trial: trial.value or 0.0, default=None)
    return SearchResults(
        run=Path("run"),
        settings=SearchConfig(train=TrainConfig(epochs=total), space=space),
        environment=[],
        trials=trials_table(trials, {}, space),
        epochs=typed_table(epochs, EPOCH_DTYPES),
        best_trial=best and BestTrial(best.number, best.value, total, dict(best.params), False),
        params={trial.number: dict(trial.params) for trial in trials},
    )


def large(n: int = 1000, seed: int = 0) -> SearchResults:
    """A search of 27 epochs with inactive, per-layer and mixed columns; a third goes on at each rung, some diverge."""
    draw, rows = random.Random(seed), []
    for number in range(n):
        params: dict[str, Any] = {"model.depth": draw.randint(1, 4)}
        params |= {f"model.kernel_size.{layer}": draw.choice([3, 5]) for layer in range(params["model.depth"])}
        params |= {"model.padding": draw.choice(["same", 0, 1]), "model.batch_norm": draw.random() < 0.7}
        params |= {"optimizer.name": draw.choice(["sgd", "adam", "adamw"])}
        params |= {"optimizer.learning_rate": 0.0005 * 1000 ** draw.random()}
        if params["optimizer.name"] == "sgd":
            params["optimizer.momentum"] = draw.uniform(0.8, 0.99)
        params["train.label_smoothing"] = 0.05 * draw.randint(0, 4)
        good = 0.5 - 0.05 * abs(math.log10(params["optimizer.learning_rate"] / 0.05)) + 0.1 * params["model.batch_norm"]
        epochs = draw.choices([1, 3, 9, 27], [18, 6, 2, 1])[0]
        curve = [good + 0.3 * (1 - 1 / epoch) + draw.gauss(0, 0.02) for epoch in range(1, epochs + 1)]
        row: dict[str, Any] = {"curve": curve, "params": params, "seconds": draw.uniform(1, 30)}
        row |= {"num_params": 10 ** draw.randint(4, 6) * draw.randint(1, 9)}
        row |= {"multiply_adds": draw.randint(10**6, 10**8)}
        if epochs < 27:
            row["stopped_by"] = "diverged" if number % 50 == 7 else "asha"
        rows.append(row)
    return searched(*rows, total=27)


def answers(n: int, num_classes: int, skill: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random logits (n, num_classes), higher by `skill` at the true class, and labels (n,)."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, n)
    logits = generator.normal(size=(n, num_classes))
    logits[np.arange(n), labels] += skill
    return logits.astype(np.float32), labels


def evaluated(logits: np.ndarray, labels: np.ndarray, names: tuple[str, ...], checkpoint: Path) -> Evaluation:
    """What an evaluation found, with random images of 8 x 8 pixels."""
    images = np.random.default_rng(1).integers(0, 256, (len(labels), 8, 8, 3)).astype(np.uint8)
    drawn, mistakes = random_sample(logits, labels), surest_mistakes(logits, labels)
    kept = Predictions(logits, labels, drawn, images[drawn], mistakes, images[mistakes])
    trial = EvaluatedTrial(4, 2, False, {}, checkpoint, "hash", names, 0.5, 0.5, kept)
    batch = TrainingBatch(4, images[:16], labels[:16], names, DataConfig(cutout=2))
    return Evaluation(trial, None, [], "cpu", [], batch)
