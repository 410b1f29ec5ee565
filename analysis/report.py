"""The report: one self-contained HTML page, its figures also as PNG files, and the tables as CSV and JSON.

Decides what is shown; figures and their sentences come from analysis.figures, in its order, looks from the template.
"""

import json
import math
import shlex
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from analysis import text
from analysis.evaluating.evaluation import Evaluation, evaluate_search, pick_device, report_directory
from analysis.evaluating.test_split import opener
from analysis.figures import (
    audit_pictures,
    confirmation_pictures,
    network_pictures,
    prediction_pictures,
    search_pictures,
    space_pictures,
)
from analysis.figures.feature_maps import layer_table
from analysis.figures.style import Picture, save_png, to_svg
from analysis.findings.audit import Audit, load_audit
from analysis.findings.audit_report import advice, audit_json, audit_rows, audit_sentences
from analysis.findings.checks import checks
from analysis.findings.confirmation import (
    Confirmation,
    confirmation_data,
    evaluate_confirmation,
    load_confirmation,
    ranked_sources,
)
from analysis.findings.confirmation_report import confirmation_json, confirmation_sentences, interval_text
from analysis.findings.verdict import verdict
from analysis.reading.results import AnalysisError, SearchResults
from analysis.reading.tables import endings, hyperparameters
from analysis.tensorboard import write_evaluation
from search.record.endings import rank
from training.checkpoint import read_meta

LEADERBOARD = 10
INDEX = "index.html"


@dataclass(frozen=True)
class Analysis:
    """All that the report is about; confirmation and audit are None if they have not been run."""

    results: SearchResults
    evaluation: Evaluation
    confirmation: Confirmation | None
    audit: Audit | None

    @property
    def warnings(self) -> list[str]:
        confirmed = [] if self.confirmation is None else self.confirmation.problems
        warnings = [*self.results.warnings, *self.evaluation.problems, *confirmed]
        return list(dict.fromkeys(map(self.results.worded, warnings)))


def analyse(results: SearchResults, data_dir: str | None = None, device: str | None = None) -> Analysis:
    """Evaluate the winner, the defaults and what was trained again. Raises AnalysisError for an impossible device."""
    report = report_directory(results.run)
    open_test = opener(report, data_dir, results.send_report)
    confirmation = load_confirmation(results)
    if confirmation is not None:
        confirmation = evaluate_confirmation(confirmation, open_test, pick_device(device), report, data_dir)
    evaluation = evaluate_search(results, data_dir, device, open_test)
    results.send_report()
    return Analysis(results, evaluation, confirmation, load_audit(results))


def write_report(analysis: Analysis) -> Path:
    """Write RUN/report/ and return the path of its index.html; in a bucket it is sent there too.

    Raises AnalysisError if it cannot be written or sent.
    """
    report = report_directory(analysis.results.run)
    try:
        analysis.results.trials.to_csv(report / "trials.csv", index=False, errors="backslashreplace")
        analysis.results.epochs.to_csv(report / "epochs.csv", index=False)
        metrics = json.dumps(jsonable(metrics_of(analysis)), indent=1, ensure_ascii=False, allow_nan=False)
        (report / "test_metrics.json").write_text(metrics, encoding="utf-8", errors="backslashreplace")
        (report / INDEX).write_text(render(analysis, report), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise AnalysisError(f"{report} cannot be written ({error}). Free space, or copy the run directory.") from error
    try:
        analysis.results.send_report()
    except AnalysisError as error:
        kept = Path(tempfile.mkdtemp(prefix="report-"))
        shutil.copytree(report, kept, dirs_exist_ok=True)
        raise AnalysisError(f"{error} The report could not be sent and is kept in {kept}") from None
    return report / INDEX


def metrics_of(analysis: Analysis) -> dict[str, Any]:
    """The content of test_metrics.json."""
    metrics = analysis.evaluation.metrics()
    if analysis.confirmation is not None:
        metrics["confirmation"] = confirmation_json(analysis.confirmation, analysis.results)
    if analysis.audit is not None:
        metrics["audit"] = audit_json(analysis.audit)
    return metrics


def render(analysis: Analysis, report: Path) -> str:
    """The page. Figures are written into `report` as PNG files, and those of the test split for TensorBoard."""
    environment = Environment(
        loader=PackageLoader("analysis"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["there"] = pd.notna
    environment.filters.update(
        percent=text.percent, compact=text.compact, duration=text.duration, shown=text.shown, interval=interval_text
    )
    results, evaluation = analysis.results, analysis.evaluation
    test, layers = [], []
    if (winner := evaluation.winner) is not None:
        test, meta = prediction_pictures(winner), read_meta(winner.checkpoint)
        layers = layer_table(meta["config"].model, meta["image_shape"], len(meta["class_names"]))
        if winner.predictions is not None:
            scalars = {
                f"test/{name}": value
                for name, value in winner.metrics().items()
                if name not in ("number", "epoch", "provisional") and isinstance(value, int | float)
            }
            write_evaluation(test, scalars, results.run)
    return environment.get_template("report.html.j2").render(
        name=results.name,
        notice=results.notice,
        warnings=analysis.warnings,
        verdict=verdict(results, evaluation),
        checks=checks(results, evaluation.n_val, analysis.audit is not None, analysis.confirmation is not None),
        confirmation=confirmation_part(analysis, report),
        audit=audit_part(analysis.audit, report),
        search=drawn(search_pictures(results), report),
        space=drawn(space_pictures(results), report),
        network=drawn(network_pictures(evaluation), report),
        layers=layers,
        test=drawn(test, report),
        leaderboard=leaderboard(results),
        paths=hyperparameters(results.trials),
        openings=evaluation.openings,
        entries=[environment_rows(entry) for entry in results.environment],
        run=shlex.quote(results.place),
        in_bucket=results.mirror is not None,
    )


def drawn(pictures: Iterable[Picture], report: Path) -> list[dict[str, Any]]:
    """Figures for the template: inline SVG, also written as PNG. Their text is all paths: nothing hostile gets in."""
    shown = []
    for each in pictures:
        save_png(each.figure, report / f"{each.name}.png")
        shown.append({"title": each.title, "svg": Markup(to_svg(each.figure, each.name)), "sentence": each.sentence})
    return shown


def confirmation_part(analysis: Analysis, report: Path) -> dict[str, Any] | None:
    """What the winner is worth by trainings with fresh seeds; None if there are none."""
    confirmation, results = analysis.confirmation, analysis.results
    if confirmation is None:
        return None
    data = confirmation_data(confirmation.trainings, results.trials)
    return {
        "rows": data.to_dict("records"),
        "winner": next(iter(ranked_sources(data)), None),
        "mirrored": bool(data["mirrored_n"].any()),
        "sentences": confirmation_sentences(confirmation, results),
        "pictures": drawn(confirmation_pictures(confirmation, results), report),
    }


def audit_part(audit: Audit | None, report: Path) -> dict[str, Any] | None:
    """Whether early stopping was right, by trials that went on; None if none did."""
    if audit is None:
        return None
    return {
        "rows": audit_rows(audit),
        "sentences": audit_sentences(audit),
        "command": advice(audit)[1],
        "pictures": drawn(audit_pictures(audit), report),
    }


def leaderboard(results: SearchResults) -> list[dict[Any, Any]]:
    """The rows of the ten best trials, as every part of the project ranks them."""
    known = results.trials.assign(ending=endings(results.trials))[results.trials["val_accuracy"].notna()]
    rows = known.to_dict("records")
    return sorted(rows, key=lambda row: rank(row["ending"], row["epochs"], row["val_accuracy"]), reverse=True)[
        :LEADERBOARD
    ]


def environment_rows(entry: dict[str, Any]) -> list[tuple[str, str]]:
    """An entry of environment.json as (what, value), whatever is in it."""
    rows = []
    for key, value in entry.items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {text.shown(part)}" for name, part in value.items())
        rows.append((str(key).replace("_", " "), text.shown(value)))
    return rows


def jsonable(value: Any) -> Any:
    """The same with NaN and infinities as None, and numpy's numbers as Python's."""
    if isinstance(value, dict):
        return {key: jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
