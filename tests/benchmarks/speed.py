"""All speed benchmarks in one go, and the part of README.md beside this file that they fill.

    python tests/benchmarks/speed.py --dataset folder:PATH --out DIR
    python tests/benchmarks/speed.py --out DIR --write-only

A benchmark whose JSON file DIR already holds is not run again. Run it on a machine that does nothing else.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import growth
import torch
import training_step
import whole_search

from search.record.environment import cpu_model

HERE = Path(__file__).parent
BEGIN, END = "<!-- speed.py begins -->", "<!-- speed.py ends -->"


@dataclass(frozen=True)
class Figure:
    """What was measured, beside its goal."""

    what: str
    goal: str
    found: str
    met: bool


def step_figures(content: dict[str, Any]) -> Iterator[Figure]:
    for step in content["steps"]:
        goal = {"small": 0.90, "medium": 0.97, "large": 0.97}[step["network"]]
        found = step["ratio"]
        yield Figure(f"train / ceiling, {step['network']} network", f"{goal:.2f}", f"{found:.3f}", found >= goal)


def search_figures(content: list[dict[str, Any]]) -> Iterator[Figure]:
    runs = [whole_search.Run(**run) for run in content]
    for network, goal in {"convolution-bound": 2.0, "small": 4.0}.items():
        found = statistics.median(whole_search.ratios(runs, network))
        what = f"whole search / tutorial's pattern, epochs per second, {network}"
        yield Figure(what, f"{goal:.0f}", f"{found:.2f}", found >= goal)
    ours = [run for run in runs if run.arm == "ours"]
    for network in ("convolution-bound", "small"):
        busy = statistics.median(run.busy for run in ours if run.network == network)
        yield Figure(f"busy share of both cores, {network}", "0.97", f"{busy:.3f}", busy >= 0.97)
    seconds = statistics.median(run.end_seconds for run in ours)
    yield Figure("last epoch to prompt", "< 3 s", f"{seconds:.1f} s", seconds < 3)


def growth_figures(content: list[dict[str, Any]]) -> Iterator[Figure]:
    costs = {(cost["arm"], cost["sampler"], cost["trials"]): growth.Cost(**cost) for cost in content}

    def per_trial(arm: str, trials: int) -> float:
        return costs[arm, "tpe", trials].driver_seconds / trials

    ratio = per_trial("ours", 1000) / per_trial("bare", 1000)
    yield Figure("driver time a trial, 1,000 with TPE, over bare Tune's", "<= 1", f"{ratio:.2f}", ratio <= 1)
    grown = per_trial("ours", 1000) / per_trial("ours", 100) - 1
    yield Figure("its growth from 100 to 1,000 trials", "< 20 %", f"{grown:.0%}", grown < 0.2)
    if ("ours", "random", 10000) not in costs:
        return
    memory = costs["ours", "random", 10000].peak_mib
    yield Figure("driver's memory at 10,000 trials", "< 1,000 MB", f"{memory * 1.048576:,.0f} MB", memory < 1e9 / 2**20)


@dataclass(frozen=True)
class Benchmark:
    """One of the commands, and what its JSON file comes to."""

    title: str
    arguments: list[str]
    figures: Callable[[Any], Iterator[Figure]]
    table: Callable[[Any], str]


BENCHMARKS = {
    "training_step": Benchmark(
        "A training step against its ceiling",
        [],
        step_figures,
        lambda content: training_step.table([training_step.Step(**step) for step in content["steps"]]),
    ),
    "whole_search": Benchmark(
        "A whole search against the tutorial's pattern",
        [],
        search_figures,
        lambda content: whole_search.table([whole_search.Run(**run) for run in content]),
    ),
    "growth": Benchmark(
        "Growth with the number of trials",
        [],
        growth_figures,
        lambda content: growth.table([growth.Cost(**cost) for cost in content]),
    ),
}


def command(name: str, options: argparse.Namespace) -> list[str]:
    arguments = BENCHMARKS[name].arguments
    if name == "whole_search":
        arguments = [*arguments, "--dataset", options.dataset, "--data-dir", options.data_dir]
    return [f"tests/benchmarks/{name}.py", *arguments]


def run(name: str, options: argparse.Namespace) -> None:
    file = options.out / f"{name}.json"
    if not file.exists():
        words = [sys.executable, *command(name, options), "--json", str(file)]
        print(shlex.join(words), flush=True)
        subprocess.run(words, cwd=HERE.parents[1], env={**os.environ, "PYTHONPATH": str(HERE.parents[1])}, check=True)


def section(options: argparse.Namespace) -> str:
    """The Markdown that README.md holds between the two marks."""
    files = {name: options.out / f"{name}.json" for name in BENCHMARKS}
    contents = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    hardware = f"{os.cpu_count()} hardware threads of {cpu_model()}, torch {torch.__version__}"
    lines = [f"On {hardware}:", "", "| what | goal | found | |", "|---|---|---|---|"]
    for name in contents:
        for figure in BENCHMARKS[name].figures(contents[name]):
            lines.append(f"| {figure.what} | {figure.goal} | {figure.found} | {'met' if figure.met else 'not met'} |")
    for name in contents:
        benchmark = BENCHMARKS[name]
        words = ["python", *(command(name, options))]
        shown = shlex.join(words).replace(options.dataset, "folder:PATH")
        lines += ["", f"### {benchmark.title}", "", f"    {shown}", "", benchmark.table(contents[name])]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--write-only", action="store_true", help="run nothing, show what there is")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.write_only:
        for name in BENCHMARKS:
            run(name, options)
    readme = HERE / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{section(options)}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
