"""Accuracy after equal CPU seconds: networks and recipes against each other, two trainings side by side.

    python tests/benchmarks/recipe.py --dataset folder:PATH --seconds 205 --repetitions 5 --out DIR [--only ARM ...]

recipes.yaml (or `--arms`) names every arm and what it changes of the base config (`--config`), by path. With
`train.epochs: null` an arm trains as many whole epochs as come nearest to `--seconds`, by a sample that its first
repetition takes on a quiet machine; else it trains the config's. Each training has a process of its own with one
thread, and another one beside it all the time, since two threads share a core. Repetition r of every arm has seed r, so
that differences to the first arm are paired.

DIR keeps a record of each arm and repetition; what it holds is not trained again. Prints a table of val accuracies
after the last epoch, the best arm first.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from search.config import load_config
from training import load_data, new_state, train
from training.data import TrainData
from training.layers import count_costs
from training.timing import time_epoch

ROOT = Path(__file__).parents[2]
SECONDS_OF_A_SAMPLE = 6.0  # of an epoch
COLUMNS = ("arm", "epochs", "multiply-adds", "parameters", "CPU seconds", "val accuracy, %", "to the first arm", "n")

Arms = Mapping[str, dict[str, Any]]


# One training, in a process of its own


def train_one(options: argparse.Namespace, arms: Arms, arm: str, repetition: int) -> dict[str, Any]:
    """The record of an arm's training with one seed."""
    torch.set_num_threads(1)
    given = {"data.data_dir": options.data_dir, "train.seed": repetition, **dataset(options)}
    changes = dict(arms[arm])
    fills_the_time = changes.get("train.epochs", 0) is None
    if fills_the_time:
        del changes["train.epochs"]
    config = load_config(options.config).base.override({**changes, **given})
    data = some_images(load_data(config.data), options.images)
    if fills_the_time:
        if record_file(options, arm, 0).exists():
            epochs = read_record(options, arm, 0)["config"]["train"]["epochs"]
        else:
            epochs = max(1, round(options.seconds / time_epoch(config, data, seconds=SECONDS_OF_A_SAMPLE)))
        config = config.override({"train.epochs": epochs})
    num_params, multiply_adds = count_costs(config.model, data.train.image_shape, len(data.train.class_names))
    started, results = time.process_time(), []
    for result in train(new_state(config, data), data):
        results.append({**asdict(result), "cpu_seconds": time.process_time() - started})
    return {
        "config": config.model_dump(mode="json"),
        "num_params": num_params,
        "multiply_adds": multiply_adds,
        "results": results,
    }


def dataset(options: argparse.Namespace) -> dict[str, str]:
    return {"data.dataset": options.dataset} if options.dataset else {}


def some_images(data: TrainData, count: int | None) -> TrainData:
    """Only so many images of train, the same ones in every training."""
    chosen = np.random.default_rng(0).permutation(len(data.train.labels))[:count]
    return replace(data, train=data.train.subset(np.sort(chosen)))


# All of them


def run_missing(options: argparse.Namespace, arms: Arms) -> None:
    """Train what DIR lacks, two at a time. Beside a last one that is alone runs its twin, which is thrown away."""
    waiting = [(arm, repetition) for repetition in range(options.repetitions) for arm in arms]
    waiting = [job for job in waiting if not record_file(options, *job).exists()]
    running: dict[tuple[str, int, bool], subprocess.Popen[bytes]] = {}
    while waiting or any(counts for *_, counts in running):
        while len(running) < 2:
            job = (*waiting.pop(0), True) if waiting else (*next(iter(running))[:2], False)
            record = record_file(options, *job[:2]) if job[2] else Path("/dev/null")
            command = [sys.executable, *sys.argv, "--train", job[0], str(job[1]), str(record)]
            running[job] = subprocess.Popen(command)
        time.sleep(0.2)
        for job, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[job]
            if process.returncode:
                raise SystemExit(f"{job[0]}, repetition {job[1]}, ended with {process.returncode}")
            if job[2]:
                last = read_record(options, *job[:2])["results"][-1]
                print(
                    f"{time.strftime('%H:%M:%S')} {job[0]} {job[1]}: {last['epoch']} epochs, "
                    f"{last['cpu_seconds']:.0f} s, {last['val_accuracy']:.2%}",
                    flush=True,
                )
    for process in running.values():
        process.kill()


def record_file(options: argparse.Namespace, arm: str, repetition: int) -> Path:
    return Path(options.out) / f"{arm}-{repetition}.json"


def read_record(options: argparse.Namespace, arm: str, repetition: int) -> dict[str, Any]:
    return dict(json.loads(record_file(options, arm, repetition).read_text()))


def table(options: argparse.Namespace, arms: Arms) -> str:
    """The arms in Markdown, with means and standard deviations over repetitions; differences are paired by seed."""
    records = {arm: [read_record(options, arm, number) for number in range(options.repetitions)] for arm in arms}
    accuracies = {arm: [100 * each["results"][-1]["val_accuracy"] for each in records[arm]] for arm in arms}
    first = accuracies[next(iter(arms))]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for arm in sorted(arms, key=lambda arm: -statistics.fmean(accuracies[arm])):
        last = [record["results"][-1] for record in records[arm]]
        differences = [value - other for value, other in zip(accuracies[arm], first, strict=True)]
        cells = [
            arm,
            str(last[0]["epoch"]),
            f"{records[arm][0]['multiply_adds']:,}",
            f"{records[arm][0]['num_params']:,}",
            f"{statistics.fmean(each['cpu_seconds'] for each in last):.0f}",
            with_spread(accuracies[arm]),
            with_spread(differences, "+"),
            str(options.repetitions),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def with_spread(values: list[float], sign: str = "") -> str:
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):{sign}.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", type=Path, default=Path(__file__).with_name("recipes.yaml"))
    parser.add_argument("--only", nargs="+", metavar="ARM", help="the first is what others are compared to")
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "cifar10.yaml")
    parser.add_argument("--dataset")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--images", type=int, help="of train; default: all")
    parser.add_argument("--seconds", type=float, default=205.0, help="of an arm with `train.epochs: null`")
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--train", nargs=3, metavar=("ARM", "REPETITION", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    arms = {name: changes or {} for name, changes in yaml.safe_load(options.arms.read_text()).items()}
    if options.train:
        arm, repetition, file = options.train
        Path(file).write_text(json.dumps(train_one(options, arms, arm, int(repetition))))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    arms = {name: arms[name] for name in options.only or arms}
    run_missing(options, arms)
    print(table(options, arms))


if __name__ == "__main__":
    main()
