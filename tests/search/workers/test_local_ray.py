"""Ray on this machine alone: which of its processes run, and whether a trial finds a worker that is ready."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from search.config import ResourcesConfig
from search.workers import local_ray

PROGRAM = """
    import contextlib, json, os, sys, time
    from pathlib import Path
    import ray
    from ray import tune
    from search.workers import local_ray
    from search.config import ResourcesConfig
    from search.workers.ray_faults import mend_ray

    def trainable(params):
        tune.report({"pid": os.getpid(), "has_imported": "torch" in sys.modules})

    def main():
        local_ray.start(ResourcesConfig(gpus_per_trial=0), None)
        assert not {name for name in os.environ if name.startswith("RAY_p")} and "PYTHONPATH" not in os.environ
        num_trials = min(4, int(ray.cluster_resources()["CPU"]))
        time.sleep(3)  # longer than Ray leaves idle workers alone
        there = [int(place.name) for place in Path("/proc").iterdir() if place.name.isdecimal()]
        mend_ray()
        os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(num_trials)
        storage = tune.RunConfig(storage_path=sys.argv[1], verbose=0)
        tuner = tune.Tuner(trainable, tune_config=tune.TuneConfig(num_samples=num_trials), run_config=storage)
        results = [result.metrics for result in tuner.fit()]
        session = ray._private.worker._global_node.get_session_dir_path()
        mine = []
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                command = place.read_bytes().decode()
                mine += [command] if session in command else []
        print(json.dumps({"there": there, "results": results, "processes": mine}))

    main()
"""


@pytest.mark.parametrize(
    ("num_trials", "resources", "num_gpus", "expected"),
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
    num_trials: int | None, resources: dict[str, Any], num_gpus: int, expected: bool
) -> None:
    assert local_ray.fill_all_cores(ResourcesConfig(**resources), num_trials, 4.0, num_gpus) is expected


def test_the_environment_is_as_before_and_the_user_s_words_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_mine", "1")
    monkeypatch.delenv("RAY_ours", raising=False)
    before = dict(os.environ)
    with pytest.raises(KeyError), local_ray.environment(RAY_mine="2", RAY_ours="3"):
        assert os.environ == {**before, "RAY_ours": "3"}
        raise KeyError
    assert os.environ == before


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
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHONPATH", "RAY_p"))}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["results"]
    for result in found["results"]:
        assert result["pid"] in found["there"]
        assert result["has_imported"]
    processes = "\n".join(found["processes"])
    assert "raylet" in processes
    for needless in ("dashboard.py", "log_monitor.py", "monitor.py"):
        assert needless not in processes
