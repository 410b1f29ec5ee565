"""How busy a search kept its cores: sum of epoch_seconds over cores x wall time, from a run directory.

    python tests/benchmarks/busy.py runs/NAME [--cores N]

The wall time goes from the start of the first epoch to the start of the last trial, so that the tail, in which cores
run out of trials, does not count; an epoch that ends later counts with the part before that.
"""

import argparse
import json
from datetime import datetime
from pathlib import Path


def epoch_intervals(run: Path) -> dict[int, list[tuple[float, float]]]:
    """(start, end) in seconds of every epoch of every trial number, from meta.json; the last word on an epoch wins."""
    epochs: dict[tuple[int, int], tuple[float, float]] = {}
    metas = sorted(run.glob("trial_*/checkpoint_*/meta.json"), key=lambda path: path.stat().st_mtime)
    for meta in (json.loads(path.read_text()) for path in metas):
        for result in meta["results"]:
            end = datetime.fromisoformat(result["finished_at"]).timestamp()
            epochs[meta["number"], result["epoch"]] = end - result["epoch_seconds"], end
    intervals: dict[int, list[tuple[float, float]]] = {}
    for (number, _), interval in sorted(epochs.items()):
        intervals.setdefault(number, []).append(interval)
    return intervals


def busy_share(intervals: dict[int, list[tuple[float, float]]], cores: int) -> tuple[float, float]:
    """(busy share in [0, 1], wall seconds) between the first epoch's start and the last trial's start."""
    begin = min(start for trial in intervals.values() for start, _ in trial)
    end = max(trial[0][0] for trial in intervals.values())
    busy = sum(max(0.0, min(stop, end) - start) for trial in intervals.values() for start, stop in trial)
    return busy / (cores * (end - begin)), end - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--cores", type=int, help="default: the hardware of environment.json")
    options = parser.parse_args()
    environment = json.loads((options.run / "environment.json").read_text())[-1]
    cores = options.cores or environment["hardware"]["cores"]
    intervals = epoch_intervals(options.run)
    share, seconds = busy_share(intervals, cores)
    epochs = sum(map(len, intervals.values()))
    hardware = f"{cores} cores ({environment['hardware']['cpu']})"
    print(f"{options.run.name}: {len(intervals)} trials, {epochs} epochs, {hardware}")
    print(f"busy {share:.3f} of {cores} cores over {seconds:.0f} s")


if __name__ == "__main__":
    main()
