"""Recorded learning curves, one JSON object a line: what strategies are compared on without training.

    python tests/benchmarks/curves.py runs/NAME > curves.jsonl

turns a run directory into that form: `config` by path, `curve` with one entry an epoch, `diverged`; a trial that was
infeasible has `infeasible` and no curve. For a surrogate, record random configurations trained to the last epoch:

    python run_search.py --sampler random --scheduler none --num-samples 400
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from analysis import load_search
from analysis.results import SearchResults

FIELDS = ("epoch", "train_loss", "val_loss", "val_accuracy", "epoch_seconds")
PRECISION = 6


def read_curves(file: Path) -> list[dict[str, Any]]:
    """The lines of a file of curves."""
    return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]


def curves_of(search: SearchResults) -> Iterator[dict[str, Any]]:
    """A search's trials in the form that `read_curves` reads, those that failed or have no epoch left out."""
    epochs = dict(list(search.epochs.groupby("number")))
    for trial in search.trials.to_dict("records"):
        number = int(trial["number"])
        sections = search.config_of(number).model_dump(mode="json") if trial["stopped_by"] != "infeasible" else {}
        config = {path: search.params[number].get(path, _value(sections, path)) for path in search.space}
        if trial["stopped_by"] == "infeasible":
            yield {"config": config, "infeasible": True}
        elif number in epochs:
            curve = epochs[number][list(FIELDS)].round(PRECISION).to_dict("records")
            yield {"config": config, "diverged": trial["stopped_by"] == "diverged", "curve": curve}


def _value(sections: dict[str, Any], path: str) -> Any:
    section, _, field = path.partition(".")
    return sections.get(section, {}).get(field)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    for line in curves_of(load_search(parser.parse_args().run)):
        json.dump(line, sys.stdout)
        print()


if __name__ == "__main__":
    main()
