"""From the command to its first training step: this checkout and others, in turns.

    python tests/benchmarks/start.py [ROOT ...] [--repetitions 6]

`python run_search.py --num-samples 50` is stopped after its first epoch, whose end and duration its checkpoint tells.
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

HERE = Path(__file__).parents[2]


def seconds_to_first_step(root: Path, limit_seconds: float = 120.0) -> float:
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, "run_search.py", "--num-samples", "50", "--runs-dir", runs]
        began, quiet = time.time(), {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, **quiet)
        try:
            while time.time() < began + limit_seconds:
                for file in Path(runs).glob("[!.]*/trial_*/checkpoint_000000/meta.json"):
                    first = json.loads(file.read_text())["results"][0]
                    return datetime.fromisoformat(first["finished_at"]).timestamp() - first["epoch_seconds"] - began
                time.sleep(0.05)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    raise SystemExit(f"no epoch within {limit_seconds:g} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("roots", nargs="*", type=Path, metavar="ROOT", help="a checkout to compare with this one")
    parser.add_argument("--repetitions", type=int, default=6, metavar="N")
    options = parser.parse_args()
    found: dict[Path, list[float]] = {root: [] for root in (HERE, *options.roots)}
    for _ in range(options.repetitions):
        for root, seconds in found.items():
            seconds.append(seconds_to_first_step(root))
    print("| checkout | first step after (s) | longer than here by (s, paired) |\n|---|---|---|")
    for root, seconds in found.items():
        longer = [one - other for one, other in zip(seconds, found[HERE], strict=True)]
        spread = f" ± {stdev(longer) / len(longer) ** 0.5:.1f}" if len(longer) > 1 else ""
        print(f"| {root.name} | {mean(seconds):.1f} | {mean(longer):.1f}{spread} |")


if __name__ == "__main__":
    main()
