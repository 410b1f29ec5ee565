"""Searches on clusters of real Ray nodes: a head and further raylets on this machine, guarded by a token or open."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from local_cluster import LocalCluster, local_cluster
from PIL import Image
from searches import PROJECT, QUICK, RUN_SEARCH, check_record, counted, wait_for_epochs

NOTING_NODES = f"""
import shutil, sys, time
from pathlib import Path
sys.path.insert(0, {str(PROJECT)!r})
import ray
import run_search
import search.workers.tuner
from search.workers.trainable import trainable

notes, photos = Path("notes").resolve(), Path("photos").resolve()
load_data = search.workers.tuner.load_data

def load_and_remove(config):
    data = load_data(config)
    shutil.rmtree(photos)  # what the nodes train on reaches them from here
    return data

def note_node(params, data):
    note = notes / ("." + str(params["number"]))
    note.write_text(ray.get_runtime_context().get_node_id())
    note.rename(notes / str(params["number"]))
    end = time.monotonic() + 120  # a short trial would be over before the workers of all nodes have started
    while len(set(note.read_text() for note in notes.glob("[0-9]*"))) < 3 and time.monotonic() < end:
        time.sleep(0.1)
    trainable(params, data)

search.workers.tuner.load_data, search.workers.tuner.trainable = load_and_remove, note_node
sys.exit(run_search.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A head and two nodes with a core each, guarded, and a HOME without a token."""
    with local_cluster(tmp_path_factory.mktemp("cluster")) as started:
        started.start_head(num_cpus=1)
        started.start_node(num_cpus=1)
        started.start_node(num_cpus=1)
        yield started


def search(cluster: LocalCluster, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    joined = {**os.environ, **cluster.environment, **environment}
    command = [*RUN_SEARCH, *arguments]
    return subprocess.run(command, cwd=cwd, env=joined, capture_output=True, text=True, timeout=280)


def save_photos(directory: Path) -> None:
    """Two classes of noise, dark and bright."""
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for label, low in (("dark", 0), ("bright", 128)):
            (directory / split / label).mkdir(parents=True)
            for index in range(40):
                pixels = generator.integers(low, low + 128, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(directory / split / label / f"{index}.png")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trials_land_on_every_node_and_data_only_the_driver_has_reach_them(
    cluster: LocalCluster, tmp_path: Path
) -> None:
    save_photos(tmp_path / "photos")
    (tmp_path / "notes").mkdir()
    (tmp_path / "noting.py").write_text(NOTING_NODES)
    flags = ["--dataset", "folder:photos", "--address", cluster.address, "--num-samples", "9", "--scheduler", "none"]
    done = subprocess.run(
        [sys.executable, "noting.py", *QUICK, *flags],
        cwd=tmp_path,
        env={**os.environ, **cluster.environment},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr and "is open" not in done.stdout
    check_record(tmp_path / "runs" / "run", num_samples=9, epochs=3)
    assert not (tmp_path / "photos").exists()
    nodes = {(tmp_path / "notes" / str(trial.number)).read_text() for trial in counted(tmp_path / "runs" / "run")}
    assert len(nodes) == 3
    assert not list((tmp_path / "runs" / "run").glob(".probe*"))


@pytest.mark.slow
def test_a_program_without_the_token_is_refused_in_one_sentence(cluster: LocalCluster, tmp_path: Path) -> None:
    strangers = (
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ""},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64},
    )

    def knock(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        place = tmp_path / str(strangers.index(environment))
        place.mkdir()
        return search(cluster, *QUICK, "--address", cluster.address, cwd=place, **environment)

    with ThreadPoolExecutor() as pool:  # Ray itself tries for 20 s
        refused = list(pool.map(knock, strangers))
    for done in refused:
        assert done.returncode == 2, done.stdout + done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: The Ray cluster at 127.0.0.1:") and "RAY_AUTH_TOKEN" in line
    assert not list(tmp_path.glob("*/runs/run"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nodes_that_do_not_share_the_run_directory_are_an_error_before_the_first_trial(tmp_path: Path) -> None:
    """The node sees an empty file system where the run directory lies."""
    runs = tmp_path / "runs"
    runs.mkdir()
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none "{runs}" && exec "$@"', "node"]
    if shutil.which("unshare") is None or subprocess.run([*hide, "true"], capture_output=True).returncode:
        pytest.skip("mounting needs a privilege that this user does not have")
    with local_cluster(tmp_path / "cluster", guarded=False) as cluster:
        cluster.start_head(num_cpus=1)
        cluster.start_node(num_cpus=1, prefix=hide)
        refused = search(cluster, *QUICK, "--address", cluster.address, cwd=tmp_path)
        assert refused.returncode == 2, refused.stdout + refused.stderr
        assert "cannot read and write" in refused.stderr and "--storage-path" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert not list(runs.iterdir())  # the name is free for the next try
        shared = ["--storage-path", str(tmp_path / "shared"), "--num-samples", "3"]
        done = search(cluster, *QUICK, "--address", cluster.address, *shared, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "This Ray cluster is open" in done.stdout and "RAY_AUTH_MODE=token" in done.stdout
        check_record(tmp_path / "shared" / "run", num_samples=3, epochs=3)


@pytest.mark.slow
def test_ray_on_this_machine_is_guarded_by_a_token_that_is_made_where_there_is_none(tmp_path: Path) -> None:
    """Its ports are on all interfaces: a program with another HOME, and so without the token, is refused."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for place in (home, elsewhere):
        place.mkdir()
    unset = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_AUTH_", "RAY_ADDRESS"))}
    with subprocess.Popen(
        [*RUN_SEARCH, *QUICK, "--set", "train.epochs=500", "--scheduler", "none"],
        cwd=tmp_path,
        env={**unset, "HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as driver:
        try:
            wait_for_epochs(tmp_path / "runs" / "run", 1)
            assert len((home / ".ray" / "auth_token").read_text()) >= 32
            address = head_started_by(driver.pid)
            done = subprocess.run(
                [*RUN_SEARCH, *QUICK, "--name", "other", "--address", address],
                cwd=tmp_path,
                env={**unset, "HOME": str(elsewhere)},
                capture_output=True,
                text=True,
                timeout=120,
            )
            assert done.returncode == 2 and "does not let this program in" in done.stderr, done.stderr
        finally:
            driver.terminate()
            driver.communicate(timeout=60)


def head_started_by(driver: int) -> str:
    """The address of the cluster that a driver has started, from the command line of its raylet."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().decode().split("\0")
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        address = [part.removeprefix("--gcs-address=") for part in command if part.startswith("--gcs-address=")]
        if parent == driver and command[0].endswith("raylet") and address:
            return address[0]
    raise AssertionError("the driver has started no raylet")
