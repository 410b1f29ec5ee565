"""What the hooks into Ray's insides buy at a search's start: from the command to its first training step.

    python tests/benchmarks/hooks.py [--repetitions 6] [--without workers_ahead,ready_workers]

`python run_search.py --num-samples 50`, stopped after its first epochs, in turns with all hooks, without those named,
and with none. Those that prevent a loss have a test instead of a figure: the table names it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from statistics import mean, stdev

from search.workers import ray_hooks

ROOT = Path(__file__).parents[2]
TESTS = {
    "workers_ahead": "",
    "ready_workers": "",
    "every_error_is_a_death": "`test_faults`: `fills_the_machine`",
    "a_death_counts_once": "`test_faults`: `as_it_changes`",
}


def seconds_to_first_step(without: str, limit_seconds: float = 120.0) -> float:
    """By the first epoch's end and its duration, as its checkpoint tells them."""
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "run_search.py", "--num-samples", "50", "--runs-dir", runs]
        environment = {**os.environ, ray_hooks.SWITCH: without, "PYTHONPATH": str(ROOT)}
        began = time.time()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        try:
            while time.time() < began + limit_seconds:
                for file in Path(runs).glob("*/trial_*/checkpoint_000000/meta.json"):
                    first = json.loads(file.read_text())["results"][0]
                    return datetime.fromisoformat(first["finished_at"]).timestamp() - first["epoch_seconds"] - began
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    raise SystemExit(f"no epoch within {limit_seconds:g} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=6, metavar="N")
    parser.add_argument("--without", default="workers_ahead,ready_workers", metavar="HOOKS")
    options = parser.parse_args()
    found: dict[str, list[float]] = {"": [], options.without: [], "all": []}
    for _ in range(options.repetitions):
        for without, seconds in found.items():
            seconds.append(seconds_to_first_step(without))
    print("| without | first step after (s) | longer by (s, paired) |\n|---|---|---|")
    for without, seconds in found.items():
        longer = [one - other for one, other in zip(seconds, found[""], strict=True)]
        spread = f" ± {stdev(longer) / len(longer) ** 0.5:.1f}" if len(longer) > 1 else ""
        print(f"| {without or 'none of them'} | {mean(seconds):.1f} | {mean(longer):.1f}{spread} |")
    print("\n| hook | what it is for | test |\n|---|---|---|")
    for name, test in TESTS.items():
        print(f"| `{name}` | {(getattr(ray_hooks, name).__doc__ or '').partition(chr(10))[0]} | {test} |")


if __name__ == "__main__":
    main()
