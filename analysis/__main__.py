"""python -m analysis [RUN]: evaluate the best model of a search and write its report. Only arguments and printing."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from analysis import text
from analysis.evaluation import EvaluatedTrial, Evaluation, evaluate_search
from analysis.report import write_report
from analysis.results import AnalysisError, SearchResults, load_search, newest_run
from analysis.verdict import cost, distinct, gain, reproduction


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 2 for input that cannot be analysed."""
    arguments = parser().parse_args(argv)
    console = Console(highlight=False, soft_wrap=True)
    try:
        results = load_search(arguments.run or newest_run(arguments.runs_dir))
        with console.status("evaluating the winner and the defaults"):
            evaluation = evaluate_search(results, arguments.data_dir, arguments.device)
            index = write_report(results, evaluation)
    except AnalysisError as error:
        print(f"python -m analysis: {error}", file=sys.stderr)
        return 2
    summarise(console, results, evaluation, index)
    return 0


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m analysis",
        description="Reload the best network of a search and trial 0, the defaults, check their val accuracy, "
        "evaluate them on the test split, and write RUN/report/: index.html, its figures, trials.csv, epochs.csv and "
        "test_metrics.json.",
    )
    parser.add_argument(
        "run", nargs="?", type=Path, metavar="RUN", help="run directory (default: the newest in --runs-dir)"
    )
    parser.add_argument(
        "--runs-dir", type=Path, default=Path("runs"), metavar="DIR", help="where runs are (default: runs)"
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        help="where the images are now, if they were moved: data.data_dir, or for folder:PATH the PATH",
    )
    parser.add_argument("--device", metavar="DEV", help="cpu, cuda, cuda:1, ... (default: a GPU if there is one)")
    return parser


def summarise(console: Console, results: SearchResults, evaluation: Evaluation, index: Path) -> None:
    """The short version of the report. Text from files is never read as markup."""
    if results.notice:
        console.print(Panel(Text(results.notice), title="notice", border_style="yellow"), soft_wrap=False)
    for warning in [*results.warnings, *evaluation.problems]:
        console.print(Text(f"! {warning}", style="yellow"))
    if evaluation.winner is not None:
        console.print(results_table(evaluation))
    lines = [gain(evaluation), *(reproduction(t, evaluation.device) for t in distinct(evaluation))]
    lines += [
        cost(results),
        f"Test split opened {text.plural(len(evaluation.openings), 'time')} in this run.",
    ]
    for line in filter(None, lines):
        console.print(Text(line))
    console.print(Text(f"Report: {index}", style="bold"))


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
