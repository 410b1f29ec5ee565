"""A run directory as recorded learning curves, the form in which strategies are compared."""

import json
from pathlib import Path
from typing import Any

import pytest
from curves import curves_of, read_curves

from analysis import load_search


def test_a_run_directory_becomes_curves(search_run: Any, tmp_path: Path) -> None:
    search = load_search(search_run.path)
    file = tmp_path / "curves.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in curves_of(search)))
    complete, infeasible, deeper, stopped = read_curves(file)
    assert infeasible == {"config": {**search_run.DEEPER, "optimizer.momentum": None}, "infeasible": True}
    assert complete["config"] == search_run.DEFAULTS and deeper["config"] == infeasible["config"]
    assert [len(line["curve"]) for line in (complete, deeper, stopped)] == [2, 2, 1]
    recorded = search.epochs[search.epochs["number"] == 2]
    for path in ("val_accuracy", "train_loss", "epoch_seconds"):
        assert [entry[path] for entry in deeper["curve"]] == pytest.approx(list(recorded[path]), abs=1e-6)
