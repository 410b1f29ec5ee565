"""The house: who may know whom, and what the top level holds. Read from the sources; nothing is imported."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("training", "search", "analysis")
FORBIDDEN = {
    "training": {"ray", "optuna", "matplotlib", "pandas", "search", "analysis", "run_search"},
    "search": {"analysis", "matplotlib", "run_search"},
    "search.record": {"ray"},
    "search.propose": {"ray"},
    "search.screen": {"ray"},
    "analysis": {"ray", "search", "run_search"},
}
# What the analysis may know of the search; none of these imports Ray or torch.
OPEN_TO_ANALYSIS = ("search.record", "search.space", "search.config", "search.flags")
TOP_LEVEL = {*PACKAGES, "tests", "configs", "run_search.py", "pyproject.toml", "README.md", "LICENSE"}


def imported(source: str, package: str) -> set[str]:
    """Names of all modules that a source imports, wherever it does so; relative ones resolved as far as it takes."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom(level=0):
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
            case ast.ImportFrom(level=level):  # one dot stays inside of the package, more lead out of it
                names |= {package} if level == 1 else {alias.name for alias in node.names} | {node.module or ""}
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
    return names


def forbidden(names: set[str], package: str) -> set[str]:
    """Those of the names that a package may not import."""
    wrong = {name for name in names if name.partition(".")[0] in FORBIDDEN[package]}
    if package == "analysis":
        wrong = {name for name in wrong if not f"{name}.".startswith(tuple(f"{each}." for each in OPEN_TO_ANALYSIS))}
    return wrong


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import ray.tune as t, os", "search.record", {"ray.tune"}),
        ("def f():\n    from ray import tune", "analysis", {"ray.tune"}),
        ("from .data import x", "training", set()),
        ("from ..search import x", "training", {"search"}),
        ("importlib.import_module('ray.tune')", "analysis", {"ray.tune"}),
        ("__import__('ray')", "analysis", {"ray"}),
        ("text = 'import ray'  # import ray", "analysis", set()),
        ("from search.record.endings import Ending", "analysis", set()),
        ("from search.space import SpaceEntry", "analysis", set()),
        ("from search import space, workers", "analysis", {"search.workers"}),
        ("from search.spaces import x", "analysis", {"search.spaces.x"}),
    ],
)
def test_imports_are_found(source: str, package: str, expected: set[str]):
    assert forbidden(imported(source, package), package) == expected


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_point_one_way(package: str):
    files = sorted((ROOT / package.replace(".", "/")).rglob("*.py"))
    offending = {
        str(file.relative_to(ROOT)): sorted(wrong)
        for file in files
        if (wrong := forbidden(imported(file.read_text(), package), package))
    }
    assert files and offending == {}


def answer_of(program: str) -> str:
    """What a program prints in a process of its own."""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stdout.strip()


def modules_of(package: str) -> str:
    files = (ROOT / package.replace(".", "/")).glob("*.py")
    return ", ".join(".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)


def test_what_the_analysis_may_know_of_the_search_imports_neither_ray_nor_torch():
    program = f"import sys, search.config, search.space, {modules_of('search.record')}"
    assert answer_of(f"{program}; print({{'ray', 'torch'}} & set(sys.modules))") == "set()"


def test_what_needs_no_ray_comes_without_it_and_leaves_the_environment_as_it_is():
    modules = ", ".join(map(modules_of, ("search", "search.propose", "search.screen")))
    program = f"import os, sys; before = dict(os.environ); import {modules}; print('ray' in sys.modules)"
    assert answer_of(f"{program}; print(dict(os.environ) == before)") == "False\nTrue"


@pytest.mark.parametrize(
    ("program", "arguments", "code", "heavy"),
    [
        ("run_search", ["--help"], 0, {"ray", "torch"}),
        ("analysis", ["--help"], 0, {"ray", "torch", "pandas", "matplotlib"}),
        ("analysis", ["nowhere"], 2, {"ray", "torch", "pandas", "matplotlib"}),
    ],
)
def test_what_can_be_answered_at_once_waits_for_no_import(program, arguments, code, heavy):
    command = [sys.executable, "-X", "importtime", "-m", program, *arguments]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert answer.returncode == code and "argparse" in found and heavy & found == set()


def test_run_search_imports_no_analysis():
    assert not {name for name in imported((ROOT / "run_search.py").read_text(), "") if name.startswith("analysis")}


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
