"""Searches on clusters of real Ray nodes: a head and further raylets on this machine, guarded by a token or open."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from local_cluster import LocalCluster, local_cluster
from PIL import Image
from searches import QUICK, check_record, counted, faulty_search, run, start, wait_for_epochs


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A head and two nodes with a core each, guarded, and a HOME without a token."""
    with local_cluster(tmp_path_factory.mktemp("cluster")) as started:
        started.start_head(num_cpus=1)
        started.start_node(num_cpus=1)
        started.start_node(num_cpus=1)
        yield started


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
    flags = ["--dataset", "folder:photos", "--address", cluster.address, "--num-samples", "9", "--scheduler", "none"]
    command = faulty_search("note_the_node", tmp_path)
    done = run(*QUICK, *flags, cwd=tmp_path, command=command, **cluster.environment)
    assert "is open" not in done.stdout
    check_record(tmp_path / "runs" / "run", num_samples=9, epochs=3)
    assert not (tmp_path / "photos").exists()
    notes = [note.name.split(" on ") for note in tmp_path.glob("* on *")]
    assert {int(number) for number, _ in notes} == {trial.number for trial in counted(tmp_path / "runs" / "run")}
    assert len({node for _, node in notes}) == 3
    assert not list((tmp_path / "runs" / "run").glob(".probe*"))


@pytest.mark.slow
def test_a_program_without_the_token_is_refused_in_one_sentence(cluster: LocalCluster, tmp_path: Path) -> None:
    strangers = [
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": ""},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64},
    ]

    def knock(name: str, stranger: dict[str, str]) -> str:
        arguments = [*QUICK, "--name", name, "--address", cluster.address]
        return run(*arguments, cwd=tmp_path, check=2, **cluster.environment | stranger).stderr

    with ThreadPoolExecutor() as pool:  # Ray itself tries for 20 s
        refused = list(pool.map(knock, "abc", strangers))
    for errors in refused:
        (line,) = errors.splitlines()
        assert line.startswith("error: The Ray cluster at 127.0.0.1:") and "RAY_AUTH_TOKEN" in line
    assert not list(tmp_path.glob("runs/*"))


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
        arguments = [*QUICK, "--address", cluster.address, "--num-samples", "3"]
        refused = run(*arguments, cwd=tmp_path, check=2, **cluster.environment)
        assert "cannot read and write" in refused.stderr and "--storage-path" in refused.stderr
        assert not list(runs.iterdir())  # the name is free for the next try
        done = run(*arguments, "--storage-path", str(tmp_path / "shared"), cwd=tmp_path, **cluster.environment)
        assert "This Ray cluster is open" in done.stdout and "RAY_AUTH_MODE=token" in done.stdout
        check_record(tmp_path / "shared" / "run", num_samples=3, epochs=3)


@pytest.mark.slow
def test_ray_on_this_machine_is_guarded_by_a_token_that_is_made_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ports are on all interfaces: a program with another HOME, and so without the token, is refused."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    for name in [name for name in os.environ if name.startswith(("RAY_AUTH_", "RAY_ADDRESS"))]:
        monkeypatch.delenv(name)
    with start(*QUICK, "--set", "train.epochs=500", "--scheduler", "none", cwd=tmp_path, HOME=str(home)) as driver:
        try:
            wait_for_epochs(tmp_path / "runs" / "run", 1)
            assert len((home / ".ray" / "auth_token").read_text()) >= 32
            arguments = [*QUICK, "--name", "other", "--address", head_started_by(driver.pid)]
            refused = run(*arguments, cwd=tmp_path, check=2, HOME=str(elsewhere))
            assert "does not let this program in" in refused.stderr
        finally:
            driver.terminate()
            driver.communicate(timeout=60)


def head_started_by(driver: int) -> str:
    """The address of the cluster that a driver has started, from the command line of its raylet."""
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            address = re.search(r"raylet\0.*?\0--gcs-address=([^\0]+)", (place / "cmdline").read_text(errors="replace"))
            if address and f"PPid:\t{driver}\n" in (place / "status").read_text():
                return address[1]
    raise AssertionError("the driver has started no raylet")
