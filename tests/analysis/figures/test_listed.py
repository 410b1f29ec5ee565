"""The list of figures: whoever forgets a line of it fails here."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

from analysis import figures, load_search
from analysis.figures.style import INK, to_svg
from analysis.text import fitted, on_one_line

ROOM = Path(figures.__file__).parent


def functions(file: Path) -> set[str]:
    return {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}


def test_every_figure_is_in_the_report_and_all_it_plots_can_be_had_from_the_package():
    groups = [figures.SEARCH, figures.SPACE, figures.NETWORK, figures.TEST, figures.CONFIRMATION, figures.AUDIT]
    listed = {home: names for group in groups for home, names in group.items()}
    assert sorted(file.stem for file in ROOM.glob("*.py") if "picture" in functions(file)) == sorted(listed)
    plots = {name for file in ROOM.glob("*.py") for name in functions(file) if name.startswith("plot_")}
    assert len(plots) >= len(listed) and [name for name in plots if not hasattr(figures, name)] == []
    for home, names in (listed | figures.SHARED).items():
        assert [name for name in names if not hasattr(import_module(f"analysis.figures.{home}"), name)] == []


def test_former_module_names_still_give_the_figures():
    assert import_module("analysis.prediction_figures").confusion_sentence is figures.confusion_sentence
    assert import_module("analysis.space_figures").plot_importance is figures.plot_importance
    with pytest.raises(ImportError, match="plot_nothing"):
        exec("from analysis.figures import plot_nothing")


def test_ink_follows_the_page(search_run):
    results = load_search(search_run.path)
    svg = to_svg(figures.plot_incumbent(figures.incumbent_data(results.trials, results.environment)), "x")
    assert "currentColor" in svg and INK not in svg


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("line\nbreak\x00 ", "line break"),
        ("日本語 \ud800", "日本語"),
        ("\u202ea\tb", "a b"),
        (None, ""),
        ("$x$", "$x$"),
    ],
)
def test_names_become_one_line(text, expected):
    assert on_one_line(text) == expected


def test_long_names_lose_their_middle():
    assert fitted("class number 1") == "class number 1" and fitted("class\nnumber 12") == "class...er 12"
    assert len(fitted("x" * 300)) <= 14 and len(fitted("x" * 300, 8)) <= 8
