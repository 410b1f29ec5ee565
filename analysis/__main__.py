"""python -m analysis [RUN]: evaluate the best model of a search and write its report, or put the model to use.

Only arguments and printing.
"""

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
from analysis.evaluating.evaluation import EvaluatedTrial, Evaluation, pick_device
from analysis.evaluating.export import check_export_file, export_model, loading_code
from analysis.evaluating.predict import BestModel, classify, load_best
from analysis.findings.audit_report import advice, audit_sentences
from analysis.findings.confirmation_report import confirmation_sentences
from analysis.findings.verdict import cost, distinct, gain, reproduction
from analysis.reading.results import AnalysisError, SearchResults, load_search, newest_run
from analysis.report import Analysis, analyse, write_report
from search.flags import parse_flags
from training.errors import DataError

CLASSES_SHOWN = 5  # of an image's distribution
BAR_WIDTH = 30  # characters
DESCRIPTION = """\
Reload the best network of a search and trial 0, the defaults, check their val accuracy,
evaluate them on the test split, and write RUN/report/: index.html, its figures, trials.csv,
epochs.csv and test_metrics.json.

With --predict or --export the best network is put to use instead: no report is written,
and the test split is not opened."""
EXAMPLES = """\
examples:
  python -m analysis                                      the report of the newest run
  python -m analysis runs/NAME                            the report of this run
  python -m analysis s3://BUCKET/searches/NAME            the report of a run in a bucket, written there
  python -m analysis runs/NAME --predict cat.jpg dog.png  what the best network sees in these images
  python -m analysis runs/NAME --export best.pt2          the best network as a file that needs torch alone"""


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 for input that cannot be analysed."""
    arguments = parse_flags(parser(), argv)
    console = Console(highlight=False, soft_wrap=True)
    try:
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
    except AnalysisError as error:
        for line in str(error).splitlines():
            print(f"python -m analysis: {text.printable(line)}", file=sys.stderr)
        return 2
    summarise(console, analysis, results.file(f"report/{index.name}"))
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run", nargs="?", metavar="RUN", help="run directory, also a URL (default: the newest in --runs-dir)"
    )
    parser.add_argument("--runs-dir", default="runs", metavar="DIR", help="where runs are, also a URL (default: runs)")
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="where the images are now, if they were moved: data.data_dir, or for folder:PATH the PATH. Only there, or "
        "in ./data, are CIFAR downloaded and decoded folders kept",
    )
    parser.add_argument("--device", metavar="DEV", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    parser.add_argument(
        "--predict",
        nargs="+",
        default=[],
        type=Path,
        metavar="IMAGE",
        help="print the label and the most probable classes of image files of any format, mode and size",
    )
    parser.add_argument(
        "--export",
        type=Path,
        metavar="FILE.pt2",
        help="write the best network as a program of torch.export, with its normalisation and class names",
    )
    return parser


def use_best_model(console: Console, results: SearchResults, arguments: argparse.Namespace) -> int:
    """--predict and --export. What is wrong with some files is said at the end and stops nothing else."""
    problems: list[Exception] = []
    if arguments.predict:
        best = load_best(results, pick_device(arguments.device))
        describe(console, results, best)
        for file in arguments.predict:
            try:
                print_prediction(console, file, classify(best, file))
            except DataError as error:
                problems.append(error)
    if arguments.export is not None:
        best = load_best(results)
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
    console.print(
        Text(
            f"Trial {best.number} of {text.printable(results.place)}, {role}: {text.plural(best.epochs, 'epoch')}, "
            f"val accuracy {text.percent(best.val_accuracy)}"
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
        console.print(results_table(evaluation))
    lines = [gain(evaluation), *(reproduction(t, evaluation.device) for t in distinct(evaluation))]
    lines += [
        cost(results),
        f"Test split opened {text.plural(len(evaluation.openings), 'time')} in this run.",
    ]
    if analysis.confirmation is not None:
        lines += confirmation_sentences(analysis.confirmation, results)
    if analysis.audit is not None:
        lines += [*audit_sentences(analysis.audit), advice(analysis.audit)[1] or ""]
    for line in filter(None, lines):
        console.print(Text(text.printable(line)))
    console.print(Text(f"Report: {text.printable(index)}", style="bold"))


def results_table(evaluation: Evaluation) -> Table:
    assert evaluation.winner is not None
    table = Table("", "winner, provisional" if evaluation.winner.provisional else "winner")
    columns = [table_cells(evaluation.winner)]
    if evaluation.defaults is not None:
        table.add_column("defaults")
        columns.append(table_cells(evaluation.defaults))
    for name in columns[0]:
        table.add_row(name, *(column.get(name, "–") for column in columns))
    return table


def table_cells(trial: EvaluatedTrial) -> dict[str, str]:
    metrics = trial.metrics()
    cells = {
        "trial": str(trial.number),
        "epochs": str(trial.epoch),
        "val accuracy": text.percent(trial.val_accuracy),
    }
    if "test_accuracy" not in metrics:
        return {**cells, "test accuracy": "not evaluated"}
    low, high = metrics["test_accuracy_interval_95"]
    return {
        **cells,
        "test accuracy": text.percent(metrics["test_accuracy"]),
        "  95 % interval": f"{100 * low:.2f} to {text.percent(high)}",
        "  test images (n)": f"{metrics['n']:,}",
        "balanced accuracy": text.percent(metrics["balanced_accuracy"]),
        "test loss": f"{metrics['test_loss']:.4f}",
    }


if __name__ == "__main__":
    sys.exit(main())
