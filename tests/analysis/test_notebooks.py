"""Both notebooks, executed as a user would, and committed without what executing leaves behind."""

import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from nbformat import NotebookNode
from sklearn.metrics import accuracy_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from analysis import load_search
from training import load_model, load_test
from training.config import DataConfig

PROJECT = Path(__file__).parents[2]
NOTEBOOKS = PROJECT / "analysis" / "notebooks"
NAMES = ("explore_trials", "practical")


def read(name: str) -> NotebookNode:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


class Executed:
    """An executed notebook, its outputs by cell id."""

    def __init__(self, notebook: NotebookNode) -> None:
        self.cells = {cell.id: cell for cell in notebook.cells if cell.cell_type == "code"}

    def printed(self, cell_id: str) -> str:
        return "".join(o.text for o in self.cells[cell_id].outputs if o.get("name") == "stdout")

    def shown(self, cell_id: str) -> str:
        """The text of the cell's value."""
        return "".join(o.data["text/plain"] for o in self.cells[cell_id].outputs if "data" in o)

    def pictures(self) -> set[str]:
        """The cells with a PNG below them."""
        return {id for id, cell in self.cells.items() if any("image/png" in o.get("data", {}) for o in cell.outputs)}


def execute(name: str, directory: Path, monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> Executed:
    """Run a notebook in a directory, with a cell that overrides parameters behind the one that is tagged so."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = read(name)
    (place,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    assignments = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(assignments))
    resources = {"metadata": {"path": str(directory)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    return Executed(notebook)


def drawn_by(notebook: NotebookNode) -> set[str]:
    """The cells whose last line draws a figure."""
    cells = {cell.id: cell.source.splitlines() for cell in notebook.cells if cell.cell_type == "code" and cell.source}
    return {id for id, lines in cells.items() if re.match(r"(figures\.)?plot_\w+\(", lines[-1])}


@pytest.mark.slow
def test_explore_trials_shows_the_newest_run(search_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert search_run.path.parent == tmp_path / "runs"
    done = execute("explore_trials", tmp_path, monkeypatch)
    assert f"{search_run.path}: 4 trials, 5 epochs, data digits" in done.printed("load")
    assert done.shown("states").split() == [
        *("trials", "epochs", "minutes", "state", "stopped_by"),
        *("COMPLETE", "–", "2", "4", "0.0"),
        *("PRUNED", "asha", "1", "1", "0.0", "infeasible", "1", "0", "0.0"),
    ]
    best = load_search(search_run.path).best_trial
    assert best is not None
    assert f"trial {best.number}: val accuracy {best.val_accuracy:.4f} after 2 epochs" in done.printed("best")
    first = [search_run.recorded(next(search_run.path.glob(f"trial_{n:04d}_*/*")))[0] for n in (0, 2)] + [0.05]
    *_, after_1, after_2 = (line.split() for line in done.shown("equal-epochs").splitlines())
    assert after_1[:2] == ["1", "3"] and after_2[:2] == ["2", "2"]  # epoch, trials that reached it
    assert [float(value) for value in after_1[2:]] == pytest.approx([np.median(first), max(first)], abs=5e-5)
    now, recorded = re.findall(r"\d\.\d{4}", done.printed("val"))
    assert now == recorded == f"{best.val_accuracy:.4f}"
    assert "python run_search.py --resume runs/run --num-samples 6\n" in done.printed("next")
    assert len(drawn_by(read("explore_trials"))) >= 6 and done.pictures() == drawn_by(read("explore_trials"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_practical_trains_saves_and_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done = execute("practical", tmp_path, monkeypatch, DATASET="digits", EPOCHS=3, COMPARED_EPOCHS=2)
    assert "disagreements between formula and nn.Conv2d: 0" in done.printed("formula-check")
    by_formula, counted = re.findall(r"([\d,]+) (?:parameters|counted)", done.printed("convnet"))
    assert by_formula == counted
    by_hand, by_evaluate = re.findall(r"\d\.\d{4}", done.printed("eval-check"))
    assert by_hand == by_evaluate
    assert "identical outputs: True" in done.printed("save")
    assert "weights equal to the bit: True" in done.printed("going-on")
    assert len(drawn_by(read("practical"))) >= 10 and done.pictures() == drawn_by(read("practical"))

    test = load_test(DataConfig(dataset="digits", image_size=16, crop_padding=1))
    model = load_model(tmp_path / "runs" / "practical" / "checkpoint")
    with torch.inference_mode():
        logits = model(torch.tensor(test.images).permute(0, 3, 1, 2))
    accuracy = 100 * accuracy_score(test.labels, logits.argmax(1))
    assert f"test accuracy {accuracy:.2f} %" in done.printed("test-metrics")

    (logs,) = (tmp_path / "runs" / "practical" / "tensorboard").iterdir()
    losses = {}
    for split in ("train", "val"):
        events = EventAccumulator(str(logs / f"loss_{split}")).Reload()
        losses[split] = [event.value for event in events.Scalars("loss")]
        assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    printed = re.findall(r"train loss (\d\.\d{3}), val loss (\d\.\d{3})", done.printed("train-run"))
    assert printed == [(f"{a:.3f}", f"{b:.3f}") for a, b in zip(losses["train"], losses["val"], strict=True)]


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_are_committed_without_traces_of_a_machine(name: str):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
        if cell.cell_type == "code":
            assert cell.execution_count is None and cell.outputs == [] and cell.source


def test_no_notebook_is_left_out():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_notebooks_know_neither_ray_nor_the_search(name: str):
    source = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")
    assert not re.search(r"^\s*(import|from)\s+(ray|search|run_search)\b", source, re.MULTILINE)
    assert "sys.path" not in source
