"""Recorded learning curves, one JSON object a line: what strategies are compared on without training.

    python tests/benchmarks/curves.py runs/NAME > curves.jsonl

turns a run directory into that form: `config` by path, `curve` with one entry an epoch, `diverged`; a trial that was
infeasible has `infeasible` and no curve. For a surrogate, record random configurations trained to the last epoch:

    python run_search.py --sampler random --scheduler none --num-samples 400
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis import load_search
from analysis.reading.results import SearchResults

FIELDS = ("epoch", "train_loss", "val_loss", "val_accuracy", "epoch_seconds")
DECIMALS = 6


def read_curves(file: Path) -> list[dict[str, Any]]:
    """The lines of a file of curves."""
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


def curves_of(search: SearchResults) -> Iterator[dict[str, Any]]:
    """A search's trials in the form that `read_curves` reads, those that failed or have no epoch left out."""
    epochs = dict(list(search.epochs.groupby("number")))
    for trial in search.trials.to_dict("records"):
        params = search.params[trial["number"]]
        drawn = {name.rstrip("0123456789").rstrip(".") for name in params}  # of a path per layer, the path
        config = {**params, **{path: None for path in search.space if path not in drawn}}  # None: inactive
        if trial["stopped_by"] == "infeasible":
            yield {"config": config, "infeasible": True}
        elif trial["number"] in epochs:
            curve = epochs[trial["number"]][list(FIELDS)].round(DECIMALS).to_dict("records")
            yield {"config": config, "diverged": trial["stopped_by"] == "diverged", "curve": curve}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    for line in curves_of(load_search(parser.parse_args().run)):
        print(json.dumps(line))


if __name__ == "__main__":
    main()
