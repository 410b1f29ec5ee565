"""What a search costs its driver as it grows: ours against bare Ray Tune, with a trainable that returns at once.

    python tests/benchmarks/growth.py [--trials tpe:100 tpe:1000 random:10000] [--arms ours bare] [--json FILE]

Each line is a program of its own, and both arms get the same space, sampler, number of trials and concurrency. Bare
Tune is a Tuner with stock OptunaSearch (with TPE) or its own random search, Ray's default loggers and snapshots, and,
unlike its default, workers that are used again: else starting processes would hide what is measured. Ours is
run_search.py with nothing changed but the trainable.

Driver seconds are CPU seconds of the driver process in Tuner.fit; memory is its largest resident set, imports included.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
LEFT_OUT = {"model.depth", "model.kernel_size", "model.stride", "model.padding", "model.pooling"}  # none is infeasible
CONCURRENT = 2
DEFAULTS = {"ours": {}, "bare": {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "0"}}  # Ray's; importing search would change it


@dataclass(frozen=True)
class Cost:
    """What a search of so many trials cost."""

    arm: str
    sampler: str
    trials: int
    driver_seconds: float  # CPU seconds
    wall_seconds: float  # from the first trial's start to the last one's
    peak_mib: float
    start_mib: float  # before the first trial
    disk_bytes: int
    disk_files: int


def write_config(place: Path) -> Path:
    """The default space without what makes networks infeasible: then both arms propose as often."""
    config = yaml.safe_load((ROOT / "configs" / "cifar10.yaml").read_text())
    config["space"] = {path: entry for path, entry in config["space"].items() if path not in LEFT_OUT}
    config["search"] = {"max_multiply_adds": None}
    config["data"] = {"dataset": "digits", "image_size": 8, "crop_padding": 1}
    config["model"]["depth"] = 1
    config["train"]["epochs"] = 1
    file = place / "growth.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def value_of(learning_rate: float) -> float:
    return 1 / (1 + abs(learning_rate - 0.03))


def note_start(place: str) -> None:
    """One line with the time, in one write, so that workers do not mix theirs."""
    with (Path(place) / "starts").open("ab", buffering=0) as stream:
        stream.write(f"{time.time()}\n".encode())


class Meter:
    """The driver's own resources between two moments."""

    def __enter__(self) -> "Meter":
        self.start_mib = resident_mib()
        self.started = time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.driver_seconds = time.process_time() - self.started
        self.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def run_ours(place: Path, sampler: str, trials: int) -> Meter:
    """run_search.py with a trainable that returns at once; measured is what its Tuner does."""
    import run_search
    import search.workers.tuner
    from training.loop import EpochResult

    def returns_at_once(params: dict[str, Any], data: Any) -> None:
        from ray import tune

        note_start(str(place))
        learning_rate = json.loads(params["trial_config"])["optimizer"]["learning_rate"]
        value = value_of(learning_rate)
        finished_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        tune.report(asdict(EpochResult(1, 1.0, value, 1.0, value, learning_rate, 0.1, 100.0, finished_at)))

    fit, meter = search.workers.tuner.fit, Meter()

    def measured_fit(*arguments: Any) -> bool:
        with meter:
            return fit(*arguments)

    search.workers.tuner.trainable, search.workers.tuner.fit = returns_at_once, measured_fit
    flags = ["--config", str(write_config(place)), "--sampler", sampler, "--name", "run"]
    flags += ["--num-samples", str(trials), "--max-concurrent", str(CONCURRENT), "--scheduler", "none"]
    os.chdir(place)
    if run_search.main(flags):
        raise SystemExit("the search failed")
    return meter


def run_bare(place: Path, sampler: str, trials: int) -> Meter:
    """A Tuner as its documentation shows it, with the same space."""
    import optuna
    import ray
    import torch  # noqa: F401 - which Ray's loggers import as soon as they are used
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    from search.config import load_config

    space = load_config(write_config(place)).search_space
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def returns_at_once(config: dict[str, Any]) -> None:
        note_start(str(place))
        tune.report({"val_accuracy": value_of(config["optimizer.learning_rate"])})

    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    objective = {"metric": "val_accuracy", "mode": "max"}
    shared = {"num_samples": trials, "max_concurrent_trials": CONCURRENT, "reuse_actors": True}
    if sampler == "tpe":
        proposer = OptunaSearch(space.distributions(), **objective, sampler=optuna.samplers.TPESampler(seed=0))
        tune_config = tune.TuneConfig(**shared, search_alg=proposer)
    else:
        tune_config = tune.TuneConfig(**shared, **objective)
    drawn = {
        path: distribution_of(path, distribution)
        for path, distribution in (space.distributions() if sampler == "random" else {}).items()
    }
    with Meter() as meter:
        tune.Tuner(
            returns_at_once,
            param_space=drawn,
            tune_config=tune_config,
            run_config=tune.RunConfig(name="run", storage_path=str(place / "runs"), verbose=0),
        ).fit()
    ray.shutdown()
    return meter


def distribution_of(path: str, distribution: Any) -> Any:
    """Ray's word for one of Optuna's distributions."""
    from optuna.distributions import CategoricalDistribution
    from ray import tune

    if isinstance(distribution, CategoricalDistribution):
        return tune.choice(list(distribution.choices))
    return (tune.loguniform if distribution.log else tune.uniform)(distribution.low, distribution.high)


def measure_here(arm: str, sampler: str, trials: int) -> Cost:
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        meter = (run_ours if arm == "ours" else run_bare)(place, sampler, trials)
        starts = sorted(float(line) for line in (place / "starts").read_text().split())
        if len(starts) != trials:
            raise SystemExit(f"{len(starts)} of {trials} trials ran")
        files = [path for path in (place / "runs" / "run").rglob("*") if path.is_file()]
        return Cost(
            arm,
            sampler,
            trials,
            meter.driver_seconds,
            starts[-1] - starts[0],
            meter.peak_mib,
            meter.start_mib,
            sum(path.stat().st_size for path in files),
            len(files),
        )


def measure(arm: str, sampler: str, trials: int) -> Cost:
    """In a program of its own."""
    with tempfile.NamedTemporaryFile("r") as answer:
        command = [sys.executable, __file__, "--here", arm, sampler, str(trials), answer.name]
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0", **DEFAULTS[arm]},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-3000:]}")
        return Cost(**json.load(answer))


def table(costs: list[Cost]) -> str:
    lines = [
        "| sampler | trials | | driver CPU ms a trial | wall ms a trial | peak MiB | grown by MiB | "
        "bytes a trial | files a trial |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for cost in costs:
        cells = [
            cost.sampler,
            f"{cost.trials:,}",
            {"ours": "convsearch", "bare": "bare Ray Tune"}[cost.arm],
            f"{1000 * cost.driver_seconds / cost.trials:.0f}",
            f"{1000 * cost.wall_seconds / (cost.trials - 1):.0f}",
            f"{cost.peak_mib:.0f}",
            f"{cost.peak_mib - cost.start_mib:.0f}",
            f"{cost.disk_bytes / cost.trials:,.0f}",
            f"{cost.disk_files / cost.trials:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", nargs="+", default=["tpe:100", "tpe:1000", "random:10000"], metavar="SAMPLER:N")
    parser.add_argument("--arms", nargs="+", default=["ours", "bare"], choices=["ours", "bare"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--here", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        arm, sampler, trials, answer = options.here
        Path(answer).write_text(json.dumps(asdict(measure_here(arm, sampler, int(trials)))))
        return
    costs = []
    for what in options.trials:
        sampler, _, trials = what.partition(":")
        for arm in options.arms:
            costs.append(measure(arm, sampler, int(trials)))
            print(f"{arm} {what}: {costs[-1]}", file=sys.stderr, flush=True)
            if options.json:  # the last of them take a quarter of an hour
                options.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1))
    print(table(costs))


if __name__ == "__main__":
    main()
