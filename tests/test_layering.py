"""The house: who may know whom, and what the top level holds. Read from the sources; nothing is imported."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("training", "search", "analysis")
FORBIDDEN = {
    "training": {"ray", "optuna", "matplotlib", "pandas", "search", "analysis", "run_search"},
    "search": {"analysis", "matplotlib", "run_search"},
    "analysis": {"ray", "search", "run_search"},
}
TOP_LEVEL = {*PACKAGES, "tests", "configs", "run_search.py", "pyproject.toml", "README.md", "LICENSE"}


def imported(source: str, package: str) -> set[str]:
    """Top-level names of all modules that a source imports, wherever it does so."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(level=0):
                names.add(node.module or "")
            case ast.ImportFrom(level=level):  # one dot stays inside of the package, more lead out of it
                names |= {package} if level == 1 else {alias.name for alias in node.names} | {node.module or ""}
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import ray.tune as t, os", {"ray", "os"}),
        ("def f():\n    from ray import tune", {"ray"}),
        ("from .data import x", {"training"}),
        ("from ..search import x", {"search", "x"}),
        ("importlib.import_module('ray.tune')", {"ray"}),
        ("__import__('ray')", {"ray"}),
        ("text = 'import ray'  # import ray", set()),
    ],
)
def test_imports_are_found(source: str, expected: set[str]):
    assert imported(source, "training") == expected


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_one_way(package: str):
    offending = {
        str(file.relative_to(ROOT)): sorted(wrong)
        for file in sorted((ROOT / package).rglob("*.py"))
        if (wrong := imported(file.read_text(), package) & FORBIDDEN[package])
    }
    assert offending == {}


def test_run_search_imports_no_analysis():
    program = ROOT / "run_search.py"
    if program.exists():
        assert "analysis" not in imported(program.read_text(), "")


def tracked_files() -> list[str]:
    try:
        listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [name for name in listing.split("\0") if name]


def test_the_top_level_holds_nothing_else():
    top_level = {name.partition("/")[0] for name in tracked_files()}
    assert {name for name in top_level if not name.startswith(".")} - TOP_LEVEL == set()


def test_there_is_no_utils_module():
    assert [name for name in tracked_files() if Path(name).stem in {"utils", "util", "helpers", "common"}] == []
