"""A long search whose workers are killed all the time: does it lose a trial, and does its driver grow?

    python tests/benchmarks/soak.py [--trials 1000] [--trials-between-kills 8] [--place DIR]

A kill is due after so many new trials, drawn at random, and often followed by another at once or a few seconds later,
while a worker starts. Prints memory and open files of the driver over time, and what became of the trials.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

PROJECT = Path(__file__).parents[2]
SHORT = {  # trials of a fraction of a second
    "data.image_size": 8,
    "model.width": 4,
    "model.depth": 1,
    "space.model.depth": "{int: [1, 2]}",
    "train.epochs": 3,
    "train.batch_size": 256,
    "search.max_multiply_adds": "null",
    "resources.max_failures": 100_000,
}


@dataclass(frozen=True)
class Sample:
    """The driver at one moment."""

    seconds: float
    num_trials: int  # that have a directory
    memory_mib: float  # resident
    open_files: int


def soak(place: Path, num_trials: int, trials_between_kills: int, seed: int = 0) -> tuple[list[Sample], int]:
    """Run a search in `place`, kill a worker at random every so often; gives samples of its driver and the kills.

    Raises RuntimeError where the search does not end well.
    """
    sets = [word for path, value in SHORT.items() for word in ("--set", f"{path}={value}")]
    search = ["--config", str(PROJECT / "configs" / "quick.yaml"), "--name", "run", "--sampler", "random"]
    command = [sys.executable, str(PROJECT / "run_search.py"), *search, *sets, "--num-samples", str(num_trials)]
    environment = {**os.environ, "RAY_worker_niceness": "0"}
    draw, samples, kills, started = random.Random(seed), [], 0, time.monotonic()
    with (place / "log").open("w") as log:
        driver = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            due = draw.randint(1, 2 * trials_between_kills)
            while driver.poll() is None:
                time.sleep(0.5)
                with contextlib.suppress(OSError, ValueError):  # it has just ended
                    samples.append(sample(driver.pid, time.monotonic() - started, place / "runs" / "run"))
                if samples[-1].num_trials >= due:
                    kills += kill_one(driver.pid, draw)
                    if draw.random() < 0.6:
                        time.sleep(draw.uniform(0.0, 4.0))
                        kills += kill_one(driver.pid, draw)
                    due = samples[-1].num_trials + draw.randint(1, 2 * trials_between_kills)
        finally:
            driver.kill()
    if driver.returncode != 0:
        raise RuntimeError(f"the search ended with {driver.returncode}:\n{(place / 'log').read_text()[-3000:]}")
    return samples, kills


def kill_one(driver: int, draw: random.Random) -> int:
    """How many workers were killed: one, unless there is none."""
    workers = sorted(worker_pids(driver))
    if not workers:
        return 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(draw.choice(workers), signal.SIGKILL)
        return 1
    return 0


def sample(pid: int, seconds: float, run: Path) -> Sample:
    process = Path(f"/proc/{pid}")
    (resident,) = (line for line in (process / "status").read_text().splitlines() if line.startswith("VmRSS"))
    num_trials = len({path.name.split("_")[1] for path in run.glob("trial_*")})
    return Sample(seconds, num_trials, int(resident.split()[1]) / 1024, len(list((process / "fd").iterdir())))


def worker_pids(driver: int) -> Iterator[int]:
    """The workers that train, or start to, for a driver: its descendants with Ray's title for them."""
    parents, titles = {}, {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                titles[int(process.name)] = (process / "cmdline").read_bytes()
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    for pid, title in titles.items():
        if title.startswith(b"ray::ImplicitFunc"):
            ancestor = pid
            while ancestor in parents and ancestor != driver:
                ancestor = parents[ancestor]
            if ancestor == driver:
                yield pid


def check(run: Path, num_trials: int) -> Counter[str]:
    """What must hold of a search that lost nothing: gives its trials by state. Raises AssertionError."""
    storage = JournalStorage(JournalFileBackend(str(run / "study.journal")))
    (study,) = storage.get_all_studies()
    trials: list[FrozenTrial] = [
        trial for trial in storage.get_all_trials(study._study_id) if trial.user_attrs.get("stopped_by") != "infeasible"
    ]
    assert len(trials) == len({trial.number for trial in trials}) == num_trials
    states = Counter(trial.state.name for trial in trials)
    assert set(states) <= {"COMPLETE", "PRUNED"}, states
    for trial in trials:
        files = run.glob(f"trial_{trial.number:04d}_*/checkpoint_*/meta.json")
        results = max((json.loads(file.read_text())["results"] for file in files), key=len)
        curve = {result["epoch"]: result["val_accuracy"] for result in results}
        assert curve == trial.intermediate_values, f"trial {trial.number}: journal and meta.json differ"
        assert trial.value == curve[max(curve)]
        assert trial.state == TrialState.PRUNED or max(curve) == SHORT["train.epochs"]
    return states


def growth(samples: list[Sample], what: str) -> tuple[float, float]:
    """(median over the second quarter of the trials, median over the last) of a quantity."""
    total = max(sample.num_trials for sample in samples)
    second = [getattr(each, what) for each in samples if total / 4 < each.num_trials <= total / 2]
    last = [getattr(each, what) for each in samples if each.num_trials > total * 3 / 4]
    return statistics.median(second), statistics.median(last)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--trials-between-kills", type=int, default=8)
    parser.add_argument("--place", type=Path, help="where the run directory is kept (default: nowhere)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = options.place or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        samples, kills = soak(place, options.trials, options.trials_between_kills)
        states = check(place / "runs" / "run", options.trials)
    print("seconds  trials  memory (MiB)  open files")
    for each in samples[:: max(1, len(samples) // 20)]:
        print(f"{each.seconds:7.0f}  {each.num_trials:6d}  {each.memory_mib:12.0f}  {each.open_files:10d}")
    print(f"{kills} workers were killed; trials: {dict(states)}, none lost")
    for what in ("memory_mib", "open_files"):
        before, after = growth(samples, what)
        print(f"{what}: {before:.0f} in the second quarter of the trials, {after:.0f} in the last")


if __name__ == "__main__":
    main()
