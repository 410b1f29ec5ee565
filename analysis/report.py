"""The report: one self-contained HTML page, its figures also as PNG files, and the tables as CSV and JSON.

Decides what is shown; numbers come from results and evaluation, words from sentences, looks from the template.
"""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from analysis import figures, sentences
from analysis.evaluation import EvaluatedTrial, Evaluation, report_directory
from analysis.results import AnalysisError, SearchResults
from analysis.style import save_png, to_svg
from analysis.tables import TRIAL_DTYPES
from training import load_model
from training.checkpoint import CheckpointError, read_meta

LEADERBOARD = 10
INDEX = "index.html"


def write_report(results: SearchResults, evaluation: Evaluation) -> Path:
    """Write RUN/report/ and return the path of its index.html. Raises AnalysisError where it cannot be written."""
    report = report_directory(results.run)
    try:
        results.trials.to_csv(report / "trials.csv", index=False)
        results.epochs.to_csv(report / "epochs.csv", index=False)
        text = json.dumps(jsonable(evaluation.metrics()), indent=1, ensure_ascii=False, allow_nan=False)
        (report / "test_metrics.json").write_text(text, encoding="utf-8")
        (report / INDEX).write_text(render(results, evaluation, report), encoding="utf-8")
    except OSError as error:
        raise AnalysisError(f"{report} cannot be written ({error}). Free space, or copy the run directory.") from error
    return report / INDEX


def render(results: SearchResults, evaluation: Evaluation, report: Path) -> str:
    """The page. Figures are written into `report` as PNG files on the way."""
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=sentences.percent, compact=sentences.compact, duration=sentences.duration)
    return environment.get_template("report.html.j2").render(
        name=results.run.resolve().name,
        notice=results.notice,
        warnings=[*results.warnings, *evaluation.problems],
        verdict=verdict(results, evaluation),
        search=search_pictures(results, report),
        network=network_part(results, evaluation, report),
        test=test_part(evaluation, report),
        leaderboard=leaderboard(results),
        openings=evaluation.openings,
        entries=[environment_rows(entry) for entry in results.environment],
        run=str(results.run),
    )


def verdict(results: SearchResults, evaluation: Evaluation) -> dict[str, Any]:
    """The headline's numbers; `winner` is None where no network can be called best."""
    best, winner = results.best_trial, evaluation.winner
    config = None if best is None else results.config_of(best.number)
    rows = [] if best is None else [(path, shown(value)) for path, value in best.params.items()]
    return {
        "best": best,
        "winner": winner and winner.metrics(),
        "defaults": evaluation.defaults and evaluation.defaults.metrics(),
        "accuracy": winner and sentences.accuracy_text(winner),
        "defaults_accuracy": evaluation.defaults and sentences.accuracy_text(evaluation.defaults),
        "gain": sentences.gain(evaluation),
        "checks": [sentences.reproduction(t, evaluation.device) for t in distinct(evaluation)],
        "cost": sentences.cost(results),
        "dataset": results.config.data.dataset,
        "device": evaluation.device,
        "params": rows,
        "epochs": config and config.train.epochs,
    }


def distinct(evaluation: Evaluation) -> list[EvaluatedTrial]:
    """Winner and defaults, or the one that is both."""
    trials = [trial for trial in (evaluation.winner, evaluation.defaults) if trial is not None]
    return list({trial.number: trial for trial in trials}.values())


def search_pictures(results: SearchResults, report: Path) -> list[dict[str, Any]]:
    """Best val accuracy over time, and learning curves by state."""
    incumbent = figures.incumbent_data(results.trials, results.environment)
    curves = figures.learning_curves_data(results.trials, results.epochs)
    best = None if results.best_trial is None else results.best_trial.number
    return [
        {
            "title": "Best val accuracy over time",
            **picture(report, "incumbent", figures.plot_incumbent(incumbent), sentences.incumbent_sentence(incumbent)),
        },
        {
            "title": "Learning curves by ending",
            **picture(
                report,
                "learning_curves",
                figures.plot_learning_curves(curves, best),
                sentences.curves_sentence(results),
            ),
        },
    ]


def network_part(results: SearchResults, evaluation: Evaluation, report: Path) -> dict[str, Any] | None:
    """The winner's layers, their diagram, and its activations where a test image is at hand."""
    winner = evaluation.winner
    if winner is None:
        return None
    meta = read_meta(winner.checkpoint)
    shape, size = meta["image_shape"], len(meta["class_names"])
    layers = figures.layer_table(meta["config"].model, shape, size)
    maps = figures.plot_feature_maps(figures.feature_maps_data(meta["config"].model, shape, size))
    return {
        "layers": layers,
        "num_params": sum(layer["num_params"] for layer in layers),
        "multiply_adds": sum(layer["multiply_adds"] for layer in layers),
        "maps": picture(report, "feature_maps", maps, sentences.network_sentence(winner.number, layers)),
        "activations": activations_picture(winner, report),
    }


def activations_picture(winner: EvaluatedTrial, report: Path) -> dict[str, Any] | None:
    """What the last of the kept test images, a correct one where there is one, excites."""
    if winner.predictions is None or not len(winner.predictions.sample_images):
        return None
    image = winner.predictions.sample_images[-1]
    label = winner.class_names[int(winner.predictions.labels[winner.predictions.sample_indices[-1]])]
    try:
        data = figures.activations_data(load_model(winner.checkpoint), image)
    except CheckpointError:
        return None
    sentence = (
        f"A test image of class {label} and, after each block, the channels that vary most over it; "
        "every channel is scaled to its own range."
    )
    return picture(report, "activations", figures.plot_activations(image, data), sentence)


def test_part(evaluation: Evaluation, report: Path) -> dict[str, Any] | None:
    """Confusion matrix, per-class table and samples of the winner; None where the test split was not evaluated."""
    winner = evaluation.winner
    if winner is None or winner.predictions is None:
        return None
    metrics, kept, names = winner.metrics(), winner.predictions, winner.class_names
    chosen = kept.sample_indices
    samples = figures.samples_data(kept.sample_images, kept.logits[chosen], kept.labels[chosen], names)
    confusion = figures.plot_confusion(metrics["confusion_matrix"], names)
    return {
        "metrics": metrics,
        "sentence": sentences.per_class_sentence(metrics),
        "confusion": picture(report, "confusion", confusion, sentences.confusion_sentence(metrics, names)),
        "samples": picture(report, "samples", figures.plot_samples(samples), sentences.samples_sentence(winner)),
    }


def picture(report: Path, name: str, figure: Figure, sentence: str) -> dict[str, Any]:
    """A figure for the template: inline SVG, also written as PNG. Its text is all paths: nothing hostile gets in."""
    save_png(figure, report / f"{name}.png")
    return {"name": name, "svg": Markup(to_svg(figure, name)), "sentence": sentence}


def leaderboard(results: SearchResults) -> dict[str, Any]:
    """The ten best trials, COMPLETE ones first, then by epochs and val accuracy; with the paths of the space."""
    trials = results.trials
    ranked = trials[trials["val_accuracy"].notna()].assign(is_complete=lambda t: t["state"] == "COMPLETE")
    ranked = ranked.sort_values(["is_complete", "epochs", "val_accuracy"], ascending=False).head(LEADERBOARD)
    paths = [name for name in trials.columns if name not in (*TRIAL_DTYPES, "source")]
    rows = [
        {
            "number": int(row["number"]),
            "val_accuracy": float(row["val_accuracy"]),
            "state": row["state"],
            "epochs": int(row["epochs"]),
            "seconds": None if pd.isna(row["seconds"]) else float(row["seconds"]),
            "num_params": None if pd.isna(row["num_params"]) else int(row["num_params"]),
            "values": [shown(row[path]) for path in paths],
        }
        for row in ranked.to_dict("records")
    ]
    return {"paths": paths, "rows": rows}


def environment_rows(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """An entry of environment.json as (what, value), whatever is in it."""
    rows = []
    for key, value in entry.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {shown(part)}" for name, part in value.items())
        rows.append((str(key).replace("_", " "), shown(value)))
    return rows


def shown(value: Any) -> str:
    """A value for a table cell; a dash for what is not there."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, list):
        return ", ".join(map(shown, value)) or "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def jsonable(value: Any) -> Any:
    """The same with NaN and infinities as None."""
    if isinstance(value, dict):
        return {key: jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
