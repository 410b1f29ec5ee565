"""Does what `python -m analysis` was asked for, and prints the answers."""

import argparse
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from analysis import text
from analysis.evaluating.evaluation import EvaluatedTrial, pick_device
from analysis.evaluating.export import check_export_file, export_model, loading_code
from analysis.evaluating.predict import BestModel, classify, load_best
from analysis.findings.audit_report import advice, audit_sentences
from analysis.findings.confirmation_report import confirmation_sentences
from analysis.findings.verdict import cost, gain, mirrored, reproductions
from analysis.reading.results import AnalysisError, SearchResults, load_search, newest_run
from analysis.report import Analysis, analyse, write_report
from training.errors import DataError
from training.evaluate import Mirrored

CLASSES_SHOWN = 5  # of an image's distribution
BAR_WIDTH = 30  # characters


def carry_out(arguments: argparse.Namespace) -> int:
    """The report of a run, or its best network put to use; gives the exit code. Raises AnalysisError."""
    console = Console(highlight=False, soft_wrap=True)
    if arguments.export is not None:
        check_export_file(arguments.export)
    with console.status("reading the run"):
        results = load_search(arguments.run or newest_run(arguments.runs_dir))
    if arguments.predict or arguments.export is not None:
        return use_best_model(console, results, arguments)
    with console.status("evaluating the winner and the defaults"):
        analysis = analyse(results, arguments.data_dir, arguments.device)
    with console.status("drawing the report"):
        index = write_report(analysis)
    summarise(console, analysis, results.file(f"report/{index.name}"))
    return 0


def use_best_model(console: Console, results: SearchResults, arguments: argparse.Namespace) -> int:
    """--predict and --export. What is wrong with some files is said at the end and stops nothing else."""
    problems: list[Exception] = []
    if arguments.predict:
        best = load_best(results, pick_device(arguments.device), arguments.mirror)
        describe(console, results, best)
        for file in arguments.predict:
            try:
                print_prediction(console, file, classify(best, file))
            except DataError as error:
                problems.append(error)
    if arguments.export is not None:
        best = load_best(results, mirror=arguments.mirror)
        if not arguments.predict:
            describe(console, results, best)
        try:
            with console.status("exporting"):
                size = export_model(best, arguments.export)
            print_export(console, best, arguments.export, size)
        except AnalysisError as error:
            problems.append(error)
    for problem in problems:
        print(f"python -m analysis: {text.printable(problem)}", file=sys.stderr)
    return 2 if problems else 0


def describe(console: Console, results: SearchResults, best: BestModel) -> None:
    """Which network is used, and what a reader of its answers has to know."""
    for warning in results.warnings:
        console.print(Text(f"! {text.printable(warning)}", style="yellow"))
    role = "provisionally the best" if best.provisional else "the best"
    twice = "; its logits are averaged over each image and its mirror image" if isinstance(best.model, Mirrored) else ""
    console.print(
        Text(
            f"Trial {best.number} of {text.printable(results.place)}, {role}: {text.plural(best.epochs, 'epoch')}, "
            f"val accuracy {text.percent(best.val_accuracy)}{twice}"
        )
    )


def print_prediction(console: Console, file: Path, ranking: Sequence[tuple[str, float]]) -> None:
    """A file's label, and a bar for each of the most probable classes."""
    console.print(Text.assemble("\n", (text.printable(file), "cyan"), ": ", (text.printable(ranking[0][0]), "bold")))
    bars = Table.grid(padding=(0, 1), pad_edge=True)
    bars.add_column(overflow="fold")
    bars.add_column(width=BAR_WIDTH)
    bars.add_column(justify="right", no_wrap=True)
    for name, probability in ranking[:CLASSES_SHOWN]:
        bar = ProgressBar(total=1.0, completed=probability, width=BAR_WIDTH)
        bars.add_row(Text(text.printable(name)), bar, Text(text.percent(probability)))
    console.print(bars, soft_wrap=False)


def print_export(console: Console, best: BestModel, file: Path, size: int) -> None:
    """What was written, what it takes and returns, and how it is loaded."""
    channels, height, width = best.image_shape
    console.print(
        Text.assemble(
            ("\nExported: ", "bold"),
            (text.printable(file), "bold"),
            f" ({text.compact(size)}B). Reloaded, it answers as the network of trial {best.number} does.\n"
            f"It takes uint8 images (N, {channels}, {height}, {width}), RGB in 0 to 255, any N, and returns float32 "
            f"logits (N, {len(best.class_names)}).\n"
            f"Resize other images to {width} x {height} pixels, bilinearly. The normalisation and the class names are "
            "inside;\nloading it needs torch alone:\n",
        )
    )
    console.print(Text(textwrap.indent(loading_code(file), "    ")))


def summarise(console: Console, analysis: Analysis, index: str) -> None:
    """The short version of the report. Text from files is never read as markup."""
    results, evaluation = analysis.results, analysis.evaluation
    if results.notice:
        notice = Text(text.printable(results.notice))
        console.print(Panel(notice, title="notice", border_style="yellow"), soft_wrap=False)
    for warning in analysis.warnings:
        console.print(Text(f"! {text.printable(warning)}", style="yellow"))
    if evaluation.winner is not None:
        console.print(results_table(evaluation.winner, evaluation.defaults))
    opened = f"Test split opened {text.plural(len(evaluation.openings), 'time')} in this run."
    lines = [gain(evaluation), mirrored(evaluation), *reproductions(evaluation), cost(results), opened]
    if analysis.confirmation is not None:
        lines += confirmation_sentences(analysis.confirmation, results)
    if analysis.audit is not None:
        lines += [*audit_sentences(analysis.audit), advice(analysis.audit)[1] or ""]
    for line in filter(None, lines):
        console.print(Text(text.printable(line)))
    console.print(Text(f"Report: {text.printable(index)}", style="bold"))


def results_table(winner: EvaluatedTrial, defaults: EvaluatedTrial | None) -> Table:
    trials = {"winner, provisional" if winner.provisional else "winner": winner, "defaults": defaults}
    columns = {heading: table_cells(trial) for heading, trial in trials.items() if trial is not None}
    table = Table("", *columns)
    for name in max(columns.values(), key=len):
        table.add_row(name, *(column.get(name, "–") for column in columns.values()))
    return table


def table_cells(trial: EvaluatedTrial) -> dict[str, str]:
    metrics = trial.metrics()
    val_accuracy = text.percent(trial.val_accuracy)
    cells = {"trial": str(trial.number), "epochs": str(trial.epoch), "val accuracy": val_accuracy}
    if "test_accuracy" not in metrics:
        return {**cells, "test accuracy": "not evaluated"}
    low, high = metrics["test_accuracy_interval_95"]
    cells |= {
        "test accuracy": text.percent(metrics["test_accuracy"]),
        "  95 % interval": f"{100 * low:.2f} to {text.percent(high)}",
        "  test images (n)": f"{metrics['n']:,}",
        "balanced accuracy": text.percent(metrics["balanced_accuracy"]),
        "test loss": f"{metrics['test_loss']:.4f}",
    }
    if "mirrored_test_accuracy" in metrics:
        cells["mirrored test accuracy"] = text.percent(metrics["mirrored_test_accuracy"])
        cells["mirrored test loss"] = f"{metrics['mirrored_test_loss']:.4f}"
    return cells
