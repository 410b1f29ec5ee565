"""Every benchmark runs, at a size that measures nothing: a figure that nobody can measure again is none."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PROGRAMS = (path for path in HERE.glob("*.py") if not path.name.startswith("test_"))
COMMANDS = sorted(path.stem for path in PROGRAMS if "__main__" in path.read_text())


def run(name: str, *arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py"), *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.benchmark
@pytest.mark.timeout(600)
def test_every_benchmark_says_how_it_is_called(tmp_path: Path) -> None:
    for name in COMMANDS:
        assert f"tests/benchmarks/{name}.py" in run(name, "--help", cwd=tmp_path)


@pytest.mark.benchmark
def test_training_is_measured_against_its_ceiling(tmp_path: Path) -> None:
    arguments = ["--networks", "small", "--rounds", "2", "--images", "256", "--json", "found.json"]
    assert "| small |" in run("training_step", *arguments, cwd=tmp_path)
    (step,) = json.loads((tmp_path / "found.json").read_text())["steps"]
    assert 0.1 < step["ratio"] < 2 and 0 < step["gemm_share"] < 1
    assert step["multiply_adds"] == 3 * 8 * 9 * 32 * 32 + 8 * 16 * 9 * 16 * 16 + 16 * 10


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_searches_are_measured_beside_the_tutorials_pattern_and_bare_tune(tmp_path: Path) -> None:
    arguments = ["--trials", "2", "--epochs", "1", "--repetitions", "1", "--networks", "small"]
    assert "times the pattern's" in run("whole_search", *arguments, cwd=tmp_path)
    table = run("growth", "--trials", "tpe:4", "random:4", cwd=tmp_path)
    assert table.count("| convsearch |") == table.count("| bare Ray Tune |") == 2


@pytest.mark.benchmark
@pytest.mark.timeout(600)
def test_recipes_are_compared_by_seed_and_trained_once(tmp_path: Path) -> None:
    arms = {"base": {}, "wide": {"model.width": 8, "train.epochs": None}}
    (tmp_path / "arms.yaml").write_text(json.dumps(arms))
    arguments = ["--arms", "arms.yaml", "--config", str(ROOT / "configs" / "quick.yaml"), "--seconds", "1"]
    arguments += ["--repetitions", "2", "--out", "out"]
    lines = run("recipe", *arguments, cwd=tmp_path).splitlines()
    assert len([line for line in lines if "epochs," in line]) == 4
    assert any(line.startswith("| base | 3 |") and "| +0.00 ± 0.00 | 2 |" in line for line in lines)
    again = run("recipe", *arguments, cwd=tmp_path).splitlines()
    assert again == lines[4:]


@pytest.mark.benchmark
@pytest.mark.timeout(600)
def test_the_gpus_benchmark_runs_without_a_gpu_too(tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--config", str(ROOT / "configs" / "quick.yaml"), "--trials", "2"]
    output = run("gpu", *arguments, "--images", "256", "--rounds", "2", "--seconds", "0.2", cwd=tmp_path)
    assert "4 at a time" in output and "trial 0: 3 epochs" in output and "search: 2 trials" in output
