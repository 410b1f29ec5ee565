"""Ray on this machine alone: which of its processes run, and whether a trial finds a worker that is ready."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from search import local_ray
from search.config import SearchConfig, parse_config

PROGRAM = """
    import contextlib, json, os, sys, time
    from pathlib import Path
    import ray
    from ray import tune
    from search import local_ray
    from search.config import parse_config
    from search.ray_faults import mend_ray

    def trainable(params):
        tune.report({"pid": os.getpid(), "has_imported": "torch" in sys.modules})

    def main():
        cores = os.cpu_count()
        local_ray.start(parse_config({"search": {"num_samples": cores}}, {}))
        time.sleep(3)  # longer than Ray leaves idle workers alone
        there = [int(place.name) for place in Path("/proc").iterdir() if place.name.isdecimal()]
        mend_ray()
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(cores)
        storage = tune.RunConfig(storage_path=sys.argv[1], verbose=0)
        tuner = tune.Tuner(trainable, tune_config=tune.TuneConfig(num_samples=cores), run_config=storage)
        results = [result.metrics for result in tuner.fit()]
        session = ray._private.worker._global_node.get_session_dir_path().encode()
        mine = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                mine += [command.decode() for command in [place.read_bytes()] if session in command]
        print(json.dumps({"there": there, "results": results, "processes": mine}))

    main()
"""


def config_with(num_samples: int | None, **resources: Any) -> SearchConfig:
    search = {"num_samples": num_samples} | ({"time_budget": "1h"} if num_samples is None else {})
    return parse_config({"search": search, "resources": resources}, {})


@pytest.mark.parametrize(
    ("num_samples", "resources", "gpus", "expected"),
    [
        (4, {}, 0, True),
        (3, {}, 0, False),
        (None, {}, 0, True),
        (50, {"cpus_per_trial": 2}, 0, False),
        (50, {"cpus_per_trial": 0.5}, 0, False),
        (50, {"max_concurrent": 3}, 0, False),
        (50, {"max_concurrent": 4}, 0, True),
        (50, {}, 1, False),
        (50, {"gpus_per_trial": 0.25}, 1, False),
        (50, {"gpus_per_trial": 0}, 1, True),
    ],
)
def test_workers_are_started_ahead_only_where_every_core_trains_a_trial(
    monkeypatch: pytest.MonkeyPatch, num_samples: int | None, resources: dict[str, Any], gpus: int, expected: bool
) -> None:
    monkeypatch.setattr(local_ray.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(local_ray, "count_gpus", lambda: gpus)
    assert local_ray.fills_all_cores(config_with(num_samples, **resources)) is expected


@pytest.mark.parametrize(
    ("address", "variable", "expected"),
    [
        (None, None, True),
        ("local", None, True),
        ("local", "10.0.0.1:6379", True),
        (None, "local", True),
        (None, "", True),
        (None, "10.0.0.1:6379", False),
        ("auto", None, False),
        ("auto", "local", False),
    ],
)
def test_an_address_comes_before_the_variable(
    monkeypatch: pytest.MonkeyPatch, address: str | None, variable: str | None, expected: bool
) -> None:
    if variable is None:
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    else:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    assert local_ray.is_local(address) is expected


def test_each_trial_gets_a_worker_that_was_ready_before_it_came(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["results"]) == os.cpu_count()
    for result in found["results"]:
        assert result["pid"] in found["there"]
        assert result["has_imported"]
    processes = "\n".join(found["processes"])
    assert "raylet" in processes
    for needless in ("dashboard.py", "log_monitor.py", "monitor.py"):
        assert needless not in processes
