"""environment.json: versions, hardware, git commit and command line of every start of a search."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from search.record.run_directory import ENVIRONMENT, SearchError, write_atomically

PACKAGES = ("torch", "torchvision", "ray", "optuna", "numpy", "scikit-learn")


def record_environment(run: Path, command: list[str]) -> None:
    """Append versions, hardware, git commit and command line to environment.json."""
    import torch

    path = run / ENVIRONMENT
    entries = entries_of(run)
    entries.append(
        {
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": " ".join(command),
            "git_commit": _git_commit(),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "hardware": {
                "cpu": cpu_model(),
                "cores": os.cpu_count(),
                "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
                "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
            },
        }
    )
    write_atomically(path, json.dumps(entries, indent=1))


def read_environment(run: Path) -> tuple[list[dict[str, Any]], str | None]:
    """(entries, problem): what can be used of environment.json, and what is wrong with the rest of it, or None."""
    path = run / ENVIRONMENT
    try:
        if path.exists() and not path.is_file():
            raise OSError("no file")
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return [], f"{ENVIRONMENT} cannot be read ({error!r}): versions, hardware and command are unknown."
    entries = entries if isinstance(entries, list) else [entries]
    usable = [entry for entry in entries if isinstance(entry, dict)]
    if len(usable) < len(entries):
        return usable, f"{ENVIRONMENT}: {len(entries) - len(usable)} entries are not mappings and were left out."
    return usable, None


def entries_of(run: Path) -> list[dict[str, Any]]:
    """The entries of a run directory's environment.json, none if there is no such file. Raises SearchError."""
    path = run / ENVIRONMENT
    if not path.exists():
        return []
    entries, problem = read_environment(run)
    if problem is None and (not entries or not all(isinstance(entry.get("started_at"), str) for entry in entries)):
        problem = "it has no entries of starts"
    if problem is not None:
        raise SearchError(
            f"{path} is damaged ({problem}). It says how the search was started: restore it from a copy, or remove it."
        )
    return entries


def starts(run: Path) -> list[str]:
    """When and how a search was started; the first tells it from all others. Empty where that is not recorded."""
    return [f"{entry['started_at']} by {entry.get('command')}" for entry in entries_of(run)]


def _git_commit() -> str | None:
    try:
        here = Path(__file__).parents[2]
        answer = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        return answer.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
