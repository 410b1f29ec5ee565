"""A whole search against the pattern of Ray's CIFAR tutorial: the same trials, budget and data, timed from outside.

    python tests/benchmarks/whole_search.py [--dataset folder:PATH] [--trials N] [--repetitions 2] [--json FILE]

Both programs train the same number of trials of one network for the same number of epochs; only the learning rate is
drawn, so that all trials cost the same, and nothing stops early. They take turns in swapped order. Epochs per second
count from the command to the prompt. Start-up goes from the command to the first training step, the end from the last
epoch to the prompt; the busy share is that of busy.py, between the two.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from busy import busy_share, epoch_intervals

ROOT = Path(__file__).parents[2]
PROGRAMS = {"ours": ROOT / "run_search.py", "pattern": Path(__file__).with_name("tutorial_pattern.py")}
LABELS = {"ours": "convsearch", "pattern": "tutorial's pattern"}
NETWORKS: dict[str, dict[str, Any]] = {
    "convolution-bound": {},  # trial 0 of the default search
    "small": {"depth": 2, "width": 8},
}
TRIALS = {"convolution-bound": 8, "small": 16}  # about a minute of ours each


@dataclass(frozen=True)
class Run:
    """One program's search, in seconds of wall time."""

    network: str
    arm: str
    epochs: int
    wall_seconds: float
    start_seconds: float
    end_seconds: float
    busy: float

    @property
    def rate(self) -> float:
        return self.epochs / self.wall_seconds


def write_config(file: Path, network: str, epochs: int) -> None:
    config = yaml.safe_load((ROOT / "configs" / "cifar10.yaml").read_text())
    config["search"] = {}
    config["model"].update(NETWORKS[network])
    config["train"]["epochs"] = epochs
    config["sampler"], config["scheduler"] = {"name": "random"}, {"name": "none"}
    config["space"] = {"optimizer.learning_rate": {"float": [0.01, 0.1], "log": True}}
    file.write_text(yaml.safe_dump(config))


def run(arm: str, network: str, options: argparse.Namespace, seed: int) -> Run:
    trials = options.trials or TRIALS[network]
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_config(place / "config.yaml", network, options.epochs)
        flags = ["--config", str(place / "config.yaml"), "--dataset", options.dataset, "--data-dir", options.data_dir]
        flags += ["--num-samples", str(trials), "--seed", str(seed), "--runs-dir", str(place), "--name", "run"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}
        with (place / "log").open("w") as log:
            started = time.time()
            command = [sys.executable, str(PROGRAMS[arm]), *flags]
            code = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
            ended = time.time()
        if code:
            raise SystemExit(f"{' '.join(command)} ended with {code}:\n{(place / 'log').read_text()[-3000:]}")
        intervals = epoch_intervals(place / "run")
    all_epochs = [epoch for trial in intervals.values() for epoch in trial]
    if len(all_epochs) != trials * options.epochs:
        raise SystemExit(f"{arm} trained {len(all_epochs)} epochs instead of {trials * options.epochs}")
    return Run(
        network,
        arm,
        len(all_epochs),
        ended - started,
        min(start for start, _ in all_epochs) - started,
        ended - max(end for _, end in all_epochs),
        busy_share(intervals, options.cores)[0],
    )


def table(runs: list[Run]) -> str:
    lines = [
        "| network | | epochs/s | start-up (s) | end (s) | busy | wall (s) |",
        "|---|---|---|---|---|---|---|",
    ]
    for network in dict.fromkeys(run.network for run in runs):
        for arm in PROGRAMS:
            mine = [run for run in runs if (run.network, run.arm) == (network, arm)]

            def median(of: str, mine: list[Run] = mine) -> float:
                return statistics.median(getattr(run, of) for run in mine)

            cells = [network, LABELS[arm], f"{median('rate'):.2f}", f"{median('start_seconds'):.1f}"]
            cells += [f"{median('end_seconds'):.1f}", f"{median('busy'):.3f}", f"{median('wall_seconds'):.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(runs: list[Run], network: str) -> list[float]:
    """Epochs per second of ours over the pattern's, of neighbours."""
    mine = [[run.rate for run in runs if (run.network, run.arm) == (network, arm)] for arm in PROGRAMS]
    return [ours / pattern for ours, pattern in zip(*mine, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-dir", default="data")
    parser.add_argument("--trials", type=int, help="of each search (default: 8 convolution-bound ones, 16 small ones)")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runs: list[Run] = []
    for network in options.networks:
        for repetition in range(options.repetitions):
            for arm in list(PROGRAMS)[:: -1 if repetition % 2 else 1]:
                runs.append(run(arm, network, options, seed=repetition))
                print(f"{arm}: {runs[-1]}", file=sys.stderr, flush=True)
    print(table(runs))
    for network in options.networks:
        each = ratios(runs, network)
        print(
            f"\n{network}: {statistics.median(each):.2f} times the pattern's epochs per second (each: "
            f"{', '.join(f'{ratio:.2f}' for ratio in each)})"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(each) for each in runs], indent=1))


if __name__ == "__main__":
    main()
