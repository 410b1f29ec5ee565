"""Equal wall time on one machine: our search against the pattern of Ray Tune's CIFAR tutorial, on held-out images.

    python tests/benchmarks/equal_time.py --dataset folder:PATH --minutes 8 --repetitions 3 --out DIR
    python tests/benchmarks/equal_time.py --dataset folder:PATH --minutes 8 --repetitions 3 --out DIR --judge-only

Each repetition runs both, one after the other and in swapped order every time, with one seed for both and so one split.
`--earlier ROOT` adds the default search of another checkout of this project. The budget counts from the start of each
command. Judged is what each would select by val accuracy from the epochs
that ended within the budget, by its accuracy on the data set's test split, over time and at the end:

    ours      the best trial that trained all epochs; before there is one, the trial that got furthest; earlier alike
    pattern   the trial with the best last-reported value, the tutorial's rule

Writes DIR/equal_time.json and DIR/equal_time.png and prints a table. A repetition that DIR already holds is not run
again. Run it on a machine that does nothing else; the load average before each run is kept in DIR.
"""

import argparse
import json
import math
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from analysis.figures.style import INK, drawing, grid, save_png, styled
from search.command_line import parse
from search.config import SearchConfig
from search.plan import plan_search
from search.record.run_directory import SearchError
from training import load_model, load_test
from training.checkpoint import CheckpointError, read_meta
from training.data import ImageSet, batch_loader, load_official_train
from training.errors import ConfigError, DataError
from training.evaluate import evaluate

ROOT = Path(__file__).parents[2]
LABELS = {"ours": "convsearch", "pattern": "pattern of Ray's CIFAR tutorial", "earlier": "convsearch, earlier"}
COLOURS = {"ours": "#0072b2", "pattern": "#d55e00", "earlier": "#009e73"}  # Okabe and Ito, 2008
NO_LIMIT = "100000"  # trials: the time ends a search


# Running


def programs(options: argparse.Namespace) -> dict[str, Path]:
    """What is run for each arm."""
    arms = {"ours": ROOT / "run_search.py", "pattern": Path(__file__).with_name("tutorial_pattern.py")}
    return arms | ({"earlier": options.earlier / "run_search.py"} if options.earlier else {})


def search_arguments(options: argparse.Namespace, seed: int) -> list[str]:
    """The flags that both programs get."""
    arguments = ["--dataset", options.dataset, "--data-dir", str(options.data_dir), "--seed", str(seed)]
    arguments += ["--time-budget", f"{options.minutes * 60:g}s", "--num-samples", NO_LIMIT]
    if options.config:
        arguments += ["--config", str(options.config)]
    return arguments + [word for assignment in options.set for word in ("--set", assignment)]


def run_missing(options: argparse.Namespace) -> None:
    """Run what DIR does not hold yet, ours first in even repetitions."""
    for repetition in range(options.repetitions):
        for arm in list(programs(options))[:: -1 if repetition % 2 else 1]:
            if not record_file(options.out, arm, repetition).exists():
                run_arm(options, arm, repetition)


def record_file(out: Path, arm: str, repetition: int) -> Path:
    return out / f"{arm}-{repetition}.json"


def run_arm(options: argparse.Namespace, arm: str, repetition: int) -> None:
    """One search in a process of its own; its record is written when it has ended well."""
    name = f"{arm}-{repetition}"
    runs = options.out / "runs"
    shutil.rmtree(runs / name, ignore_errors=True)  # of a benchmark that was interrupted
    runs.mkdir(parents=True, exist_ok=True)
    seed = options.seed + repetition
    program = programs(options)[arm]
    command = [sys.executable, str(program), *search_arguments(options, seed)]
    command += ["--runs-dir", str(runs), "--name", name]
    if arm == "pattern" and options.defaults_first:
        command.append("--defaults-first")
    print(f"{datetime.now():%H:%M:%S} {name}: {options.minutes:g} minutes", flush=True)
    load, started_at, started = os.getloadavg(), datetime.now(UTC), time.monotonic()
    log = options.out / f"{name}.log"
    with log.open("w") as stream:
        root = program.parent if arm == "earlier" else ROOT
        # Without its niceness of 15 any other process starves the trials.
        environment = {**os.environ, "RAY_worker_niceness": "0", "PYTHONPATH": str(root)}
        code = subprocess.run(command, env=environment, stdout=stream, stderr=subprocess.STDOUT).returncode
    if code:
        raise SystemExit(f"{name} ended with exit code {code}: see {log}")
    record = {
        "arm": arm,
        "repetition": repetition,
        "seed": seed,
        "command": shlex.join(command),
        "started_at": started_at.isoformat(timespec="milliseconds"),
        "wall_seconds": time.monotonic() - started,
        "load_before": load,
        "load_after": os.getloadavg(),
    }
    record_file(options.out, arm, repetition).write_text(json.dumps(record, indent=1))


def check_settings(options: argparse.Namespace) -> None:
    """Keep one DIR to one comparison: what is run later must be run alike."""
    settings = {
        "arguments": search_arguments(options, options.seed),
        "defaults_first": options.defaults_first,
        "earlier": str(options.earlier) if options.earlier else None,
    }
    file = options.out / "settings.json"
    if file.exists() and json.loads(file.read_text()) != settings:
        raise SystemExit(f"{file} says that this directory holds another comparison. Choose another --out.")
    options.out.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings, indent=1))


# What a run would have selected at any time


@dataclass(frozen=True)
class Epoch:
    """A trained epoch of a trial; `seconds` is the wall time from the start of the command to its end."""

    seconds: float
    number: int
    epoch: int
    val_accuracy: float
    diverged: bool


@dataclass(frozen=True)
class Incumbent:
    """A selected model and when it became so; held_out_accuracy is None where its checkpoint is gone."""

    seconds: float
    number: int
    epoch: int
    val_accuracy: float
    held_out_accuracy: float | None = None


def read_run(run: Path, started_at: datetime) -> tuple[list[Epoch], dict[tuple[int, int], Path]]:
    """All epochs in the order of their end, and the checkpoint directory of every (number, epoch) on disk."""
    epochs: dict[tuple[int, int], Epoch] = {}
    checkpoints: dict[tuple[int, int], Path] = {}
    for directory in sorted(run.glob("trial_*/checkpoint_*")):
        try:
            meta = read_meta(directory)
        except CheckpointError:  # the end of the budget cut it off
            continue
        number = int(meta["number"])
        checkpoints[number, len(meta["results"])] = directory
        for result in meta["results"]:
            seconds = (datetime.fromisoformat(result.finished_at) - started_at).total_seconds()
            epochs[number, result.epoch] = Epoch(seconds, number, result.epoch, result.val_accuracy, result.diverged)
    return sorted(epochs.values(), key=lambda epoch: epoch.seconds), checkpoints


def select(arm: str, last_epochs: Iterable[Epoch], num_epochs: int) -> Epoch | None:
    """The model that an arm would take, given the last epoch of every trial so far."""

    def rank(last: Epoch) -> tuple[float, ...]:
        if arm == "pattern":
            return (last.val_accuracy,)
        complete = last.epoch >= num_epochs
        return (complete, 0 if complete else last.epoch, last.val_accuracy, -last.number)

    usable = [last for last in last_epochs if arm == "pattern" or not last.diverged]
    return max(usable, key=rank, default=None)


def incumbents(arm: str, epochs: Sequence[Epoch], num_epochs: int) -> list[Incumbent]:
    """Every change of the selected model."""
    found: list[Incumbent] = []
    last_epochs: dict[int, Epoch] = {}
    for epoch in epochs:
        last_epochs[epoch.number] = epoch
        best = select(arm, last_epochs.values(), num_epochs)
        if best and (not found or (best.number, best.epoch) != (found[-1].number, found[-1].epoch)):
            found.append(Incumbent(epoch.seconds, best.number, best.epoch, best.val_accuracy))
    return found


# Judging


class Judge:
    """Held-out accuracies, kept by the hash of the weights: judging again opens no test split for them."""

    def __init__(self, config: SearchConfig, kept: Path) -> None:
        self.config, self.kept = config, kept
        self.known: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
        self.test: ImageSet | None = None

    def accuracy(self, checkpoint: Path) -> float:
        """Share of the test split that a checkpoint's network classifies rightly."""
        key = read_meta(checkpoint)["sha256"]["weights.pt"]
        if key not in self.known:
            if self.test is None:
                self.test = load_test(self.config.data)
            _, accuracy = evaluate(load_model(checkpoint), batch_loader(self.test, 256))
            self.known[key] = {"accuracy": accuracy, "n": len(self.test.labels)}
            self.kept.write_text(json.dumps(self.known, indent=1))
        return float(self.known[key]["accuracy"])

    @property
    def num_images(self) -> int:
        return max((int(entry["n"]) for entry in self.known.values()), default=0)


def judge_run(out: Path, record: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """Everything about one run of one arm."""
    arm = record["arm"]
    budget = judge.config.search.time_budget_seconds
    assert budget is not None
    run = out / "runs" / f"{arm}-{record['repetition']}"
    every_epoch, checkpoints = read_run(run, datetime.fromisoformat(record["started_at"]))
    any_checkpoint = next(iter(checkpoints.values()), None)  # an earlier config may have trained other epochs
    trained = read_meta(any_checkpoint)["config"] if any_checkpoint else judge.config
    num_epochs = trained.train.epochs
    epochs = [epoch for epoch in every_epoch if epoch.seconds <= budget]
    selected = []
    for incumbent in incumbents(arm, epochs, num_epochs):
        checkpoint = checkpoints.get((incumbent.number, incumbent.epoch))
        held_out = judge.accuracy(checkpoint) if checkpoint else None
        selected.append(Incumbent(**{**asdict(incumbent), "held_out_accuracy": held_out}))
    return {
        **record,
        "budget_seconds": budget,
        "overrun_seconds": record["wall_seconds"] - budget,
        "first_epoch_seconds": epochs[0].seconds if epochs else None,
        "num_trials": len({epoch.number for epoch in epochs}),
        "num_complete": sum(epoch.epoch == num_epochs for epoch in epochs),
        "num_epochs": len(epochs),
        "num_epochs_too_late": len(every_epoch) - len(epochs),
        "final": asdict(selected[-1]) if selected else None,
        "incumbents": [asdict(incumbent) for incumbent in selected],
        "epochs": [asdict(epoch) for epoch in epochs],
    }


def held_out(run: dict[str, Any]) -> float | None:
    """The final held-out accuracy of a run."""
    return run["final"] and run["final"]["held_out_accuracy"]


def passed_at(run: dict[str, Any], accuracy: float | None) -> float | None:
    """Seconds from which on a run's selected model is at or above an accuracy until the end; a lucky peak is not it."""
    since = None
    for incumbent in run["incumbents"]:
        above = accuracy is not None and (incumbent["held_out_accuracy"] or 0.0) >= accuracy
        if not above:
            since = None
        elif since is None:
            since = float(incumbent["seconds"])
    return since


def mean_and_error(values: Sequence[float]) -> dict[str, float | int | None]:
    """Mean, standard error of the mean (None for a single value) and n."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "standard_error": error, "n": len(values)}


def judge_all(options: argparse.Namespace, config: SearchConfig) -> dict[str, Any]:
    """Judge every repetition of which DIR holds all runs."""
    arms = list(programs(options))
    judge = Judge(config, options.out / "held_out.json")
    pairs = []
    for repetition in range(options.repetitions):
        files = {arm: record_file(options.out, arm, repetition) for arm in arms}
        if all(file.exists() for file in files.values()):
            pair = {arm: judge_run(options.out, json.loads(file.read_text()), judge) for arm, file in files.items()}
            finals = {arm: held_out(run) for arm, run in pair.items()}
            for arm, run in pair.items():
                best = max((finals[other] or 0.0 for other in arms if other != arm), default=0.0)
                run["passed_others_at_seconds"] = passed_at(run, best)
            pairs.append(pair)
    if not pairs:
        raise SystemExit(f"{options.out} holds no finished repetition")
    environment = json.loads(
        (options.out / "runs" / f"ours-{pairs[0]['ours']['repetition']}/environment.json").read_text()
    )
    judged = [pair for pair in pairs if all(held_out(run) is not None for run in pair.values())]
    reached = {arm: [float(held_out(pair[arm]) or 0.0) for pair in judged] for arm in arms}
    for arm in arms[1:]:
        reached[f"ours - {arm}"] = [a - b for a, b in zip(reached["ours"], reached[arm], strict=True)]
    return {
        "command": shlex.join(["python", *sys.argv]),
        "minutes": options.minutes,
        "dataset": config.data.dataset,
        "defaults_first": options.defaults_first,
        "num_test_images": judge.num_images,
        "environment": environment[-1],
        "held_out_accuracy": {name: mean_and_error(values) for name, values in reached.items() if values},
        "repetitions": pairs,
    }


# Showing


def percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def minutes(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds / 60:.1f} min"


def table(result: dict[str, Any]) -> str:
    """Repetitions and means as markdown."""
    head = ["repetition", "arm", "trials (complete)", "epochs", "selected", "val accuracy", "held-out accuracy"]
    rows = [[*head, "n test", "passes the others' finals at"]]
    rows.append(["---"] * len(rows[0]))
    for pair in result["repetitions"]:
        for arm, run in pair.items():
            final = run["final"] or {"number": "-", "epoch": "-", "val_accuracy": None}
            rows.append(
                [
                    str(run["repetition"]),
                    arm,
                    f"{run['num_trials']} ({run['num_complete']})",
                    str(run["num_epochs"]),
                    f"trial {final['number']}, epoch {final['epoch']}",
                    percent(final["val_accuracy"]),
                    percent(held_out(run)),
                    f"{result['num_test_images']:,}",
                    minutes(run["passed_others_at_seconds"]),
                ]
            )
    means = [["held-out accuracy", "mean", "standard error", "n"], ["---"] * 4]
    for name, values in result["held_out_accuracy"].items():
        means.append([name, percent(values["mean"]), percent(values["standard_error"]), str(values["n"])])
    return "\n\n".join("\n".join(f"| {' | '.join(row)} |" for row in lines) for lines in (rows, means))


def describe_setup(result: dict[str, Any]) -> str:
    """Hardware, versions and what was compared, in a line each."""
    hardware, versions = result["environment"]["hardware"], result["environment"]["versions"]
    loads = [run["load_before"][0] for pair in result["repetitions"] for run in pair.values()]
    late = [run["overrun_seconds"] for pair in result["repetitions"] for run in pair.values()]
    cpu = f"{hardware['cores']} x {hardware['cpu']}, {hardware['memory_gib']} GiB"
    dataset = result["dataset"]
    defaults = "; the config itself is the first trial of all" if result["defaults_first"] else ""
    return (
        f"{result['minutes']:g} minutes of wall time each, from the start of the command, {dataset}{defaults}\n"
        f"{', '.join([cpu, *hardware['gpus']])}; load before the runs {min(loads):.1f} to {max(loads):.1f}; "
        f"processes ended {min(late):.0f} to {max(late):.0f} s after the budget, which does not count\n"
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}"
    )


@styled
def plot(result: dict[str, Any]) -> Figure:
    """Held-out accuracy of the selected model over wall time: a thin line a repetition, a thick mean an arm."""
    figure = drawing(height=4.4)
    axes = figure.add_subplot()
    end = result["minutes"]
    times = np.linspace(0.0, end, 2001)
    for arm in result["repetitions"][0]:
        curves = np.array([accuracy_at(pair[arm], times * 60) for pair in result["repetitions"]])
        for curve in curves:
            axes.plot(times, 100 * curve, color=COLOURS[arm], linewidth=0.7, alpha=0.6)
        draw_mean(axes, times, 100 * curves, arm)
    axes.set_xlabel("wall time since the start of the command (minutes)")
    axes.set_ylabel("held-out accuracy of the selected model (%)")
    axes.set_xlim(0, end)
    grid(axes)
    figure.legend(loc="outside lower center")
    count = len(result["repetitions"])
    title = f"n = {result['num_test_images']:,} test images; thick: mean of {count} repetition(s)"
    axes.set_title(title, color=INK, loc="left")
    return figure


def draw_mean(axes: Axes, times: NDArray[np.float64], curves: NDArray[np.float64], arm: str) -> None:
    """The mean over repetitions, from the time at which each has a judged model."""
    mean = curves.mean(axis=0)
    label = f"{LABELS[arm]}: {mean[-1]:.1f} % at the end"
    axes.plot(times, mean, color=COLOURS[arm], linewidth=2.4, label=label)


def accuracy_at(run: dict[str, Any], seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Held-out accuracy of the model selected at each time; NaN where there is none or its checkpoint is gone."""
    accuracies = np.full(len(seconds), math.nan)
    for incumbent in run["incumbents"]:
        value = incumbent["held_out_accuracy"]
        accuracies[seconds >= incumbent["seconds"]] = math.nan if value is None else value
    return accuracies


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--dataset", required=True, metavar="cifar10|digits|folder:PATH")
    parser.add_argument("--minutes", type=float, required=True, help="wall time of each search")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="holds everything")
    parser.add_argument("--config", type=Path, help="of the search (default: the data set's)")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as of run_search.py")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="downloads and decoded folders")
    parser.add_argument("--seed", type=int, default=0, help="of the first repetition; the others count up")
    parser.add_argument(
        "--defaults-first",
        action="store_true",
        help="give the pattern the config itself as its first trial, as ours has",
    )
    parser.add_argument("--earlier", type=Path, metavar="ROOT", help="another checkout of this project, as a third arm")
    parser.add_argument("--judge-only", action="store_true", help="run nothing, judge what there is")
    options = parser.parse_args(arguments)
    options.out = options.out.resolve()
    options.earlier = options.earlier and options.earlier.resolve()
    options.data_dir = options.data_dir.resolve()
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_options(arguments)
    try:
        config = plan_search(parse([*search_arguments(options, options.seed), "--dry-run"])).config
        check_settings(options)
        if not options.judge_only:
            load_official_train(config.data)  # decoded before either side's clock starts
            run_missing(options)
        result = judge_all(options, config)
    except (ConfigError, DataError, SearchError) as error:
        raise SystemExit(f"error: {error}") from None
    (options.out / "equal_time.json").write_text(json.dumps(result, indent=1))
    save_png(plot(result), options.out / "equal_time.png")
    print(f"\n{table(result)}\n\n{describe_setup(result)}\n{options.out / 'equal_time.png'}")


if __name__ == "__main__":
    main()
