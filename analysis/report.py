"""The report: one self-contained HTML page, its figures also as PNG files, and the tables as CSV and JSON.

Decides what is shown and in which order; each figure and its sentence come from the file of its subject, looks from the
template.
"""

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis import text
from analysis.evaluation import Evaluation, report_directory
from analysis.network_figures import layer_table, network_pictures
from analysis.prediction_figures import per_class_sentence, prediction_pictures
from analysis.results import AnalysisError, SearchResults
from analysis.search_figures import search_pictures
from analysis.style import Picture, save_png, to_svg
from analysis.tables import TRIAL_DTYPES
from analysis.verdict import verdict
from training.checkpoint import read_meta

LEADERBOARD = 10
INDEX = "index.html"


def write_report(results: SearchResults, evaluation: Evaluation) -> Path:
    """Write RUN/report/ and return the path of its index.html. Raises AnalysisError where it cannot be written."""
    report = report_directory(results.run)
    try:
        results.trials.to_csv(report / "trials.csv", index=False)
        results.epochs.to_csv(report / "epochs.csv", index=False)
        metrics = json.dumps(jsonable(evaluation.metrics()), indent=1, ensure_ascii=False, allow_nan=False)
        (report / "test_metrics.json").write_text(metrics, encoding="utf-8")
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
    environment.filters.update(percent=text.percent, compact=text.compact, duration=text.duration)
    winner = evaluation.winner
    return environment.get_template("report.html.j2").render(
        name=results.run.resolve().name,
        notice=results.notice,
        warnings=[*results.warnings, *evaluation.problems],
        verdict=verdict(results, evaluation),
        search=drawn(search_pictures(results), report),
        network=winner and drawn(network_pictures(winner), report),
        layers=winner and layers_of(winner.checkpoint),
        test=winner and drawn(prediction_pictures(winner), report),
        per_class=winner and winner.predictions and per_class_sentence(winner.metrics()),
        leaderboard=leaderboard(results),
        openings=evaluation.openings,
        entries=[environment_rows(entry) for entry in results.environment],
        run=str(results.run),
    )


def drawn(pictures: list[Picture], report: Path) -> list[dict[str, Any]]:
    """Figures for the template: inline SVG, also written as PNG. Their text is all paths: nothing hostile gets in."""
    for picture in pictures:
        save_png(picture.figure, report / f"{picture.name}.png")
    return [
        {"title": each.title, "svg": Markup(to_svg(each.figure, each.name)), "sentence": each.sentence}
        for each in pictures
    ]


def layers_of(checkpoint: Path) -> list[dict[str, Any]]:
    """The layers of a checkpoint's network as a table."""
    meta = read_meta(checkpoint)
    return layer_table(meta["config"].model, meta["image_shape"], len(meta["class_names"]))


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
            "values": [text.shown(row[path]) for path in paths],
        }
        for row in ranked.to_dict("records")
    ]
    return {"paths": paths, "rows": rows}


def environment_rows(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """An entry of environment.json as (what, value), whatever is in it."""
    rows = []
    for key, value in entry.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {text.shown(part)}" for name, part in value.items())
        rows.append((str(key).replace("_", " "), text.shown(value)))
    return rows


def jsonable(value: Any) -> Any:
    """The same with NaN and infinities as None."""
    if isinstance(value, dict):
        return {key: jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
