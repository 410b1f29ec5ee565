"""What a dry run expects of a search, against what the search then took: epochs, seconds and bytes.

    python tests/benchmarks/expected_cost.py [--dataset digits --num-samples 30 ...]

Arguments are run_search.py's. Both commands run in a directory that is removed afterwards.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN_SEARCH = Path(__file__).parents[2] / "run_search.py"
SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}
BYTES = {"kB": 1e3, "MB": 1e6, "GB": 1e9}


def expected_and_found(arguments: list[str], place: Path) -> dict[str, tuple[float, float]]:
    """(expected, found) epochs, seconds and bytes of a search with these arguments, run in `place`."""
    expected = read_dry_run(_run([*arguments, "--name", "run", "--dry-run"], place))
    started = time.monotonic()
    _run([*arguments, "--name", "run"], place)
    seconds = time.monotonic() - started
    run = place / "runs" / "run"
    found = {"epochs": count_epochs(run), "seconds": seconds, "bytes": directory_bytes(run)}
    return {what: (expected[what], found[what]) for what in expected}


def read_dry_run(output: str) -> dict[str, float]:
    """Epochs, seconds and bytes from the table that a dry run prints."""
    epochs = re.search(r"about (\d+) for \d+ trials", output)
    total = re.search(r"total time\W+about ((?: ?[\d.]+ (?:s|min|h)\b)+)", output)
    disk = re.search(r"disk\W+about ([\d.]+) (kB|MB|GB)\b", output)
    if not (epochs and total and disk):
        raise ValueError(f"no expected cost in what the dry run printed:\n{output}")
    return {
        "epochs": float(epochs[1]),
        "seconds": sum(float(n) * SECONDS[unit] for n, unit in re.findall(r"([\d.]+) (\w+)", total[1])),
        "bytes": float(disk[1]) * BYTES[disk[2]],
    }


def count_epochs(run: Path) -> int:
    """Epochs that the trials of a run directory trained, from the newest meta.json of each."""
    longest: dict[int, int] = {}
    for file in run.glob("trial_*/checkpoint_*/meta.json"):
        meta = json.loads(file.read_text())
        longest[meta["number"]] = max(longest.get(meta["number"], 0), len(meta["results"]))
    return sum(longest.values())


def directory_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def _run(arguments: list[str], place: Path) -> str:
    command = [sys.executable, str(RUN_SEARCH), *arguments]
    return subprocess.run(command, cwd=place, stdout=subprocess.PIPE, text=True, check=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _, arguments = parser.parse_known_args()
    arguments = arguments or ["--dataset", "digits", "--num-samples", "30"]
    with tempfile.TemporaryDirectory() as place:
        for what, (expected, found) in expected_and_found(arguments, Path(place)).items():
            print(
                f"{what:8}  expected {expected:12,.0f}  found {found:12,.0f}  found / expected {found / expected:.2f}"
            )


if __name__ == "__main__":
    main()
