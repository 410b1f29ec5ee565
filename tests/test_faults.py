"""What goes wrong in workers and nodes, really caused: they die or get no memory, checkpoints are damaged.

Searches run in their own process with a trainable that does harm to certain trials and else calls the real one. What a
trial must come to is what training by hand with the same config and seed gives.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from local_cluster import local_cluster
from optuna.trial import FrozenTrial, TrialState
from searches import QUICK, counted, faulty_search, metas, run, start, trials_of, wait_until
from soak import check, growth, soak

from training import TrialConfig, load_data, new_state, train

FULL = [*QUICK, "--sampler", "random", "--scheduler", "none"]
TRAINED = ("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "diverged")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass
class Ended:
    """A search that has ended in `place`, and what it said."""

    place: Path
    output: str

    @property
    def trials(self) -> list[FrozenTrial]:
        return counted(self.place / "runs" / "run")

    def happened_at(self, event: str) -> float:
        """When a harm was done, which it must have been."""
        return (self.place / event).stat().st_mtime

    def attempts(self, number: int) -> int:
        """How often a trial was begun, where its harm notes that."""
        return len(list(self.place.glob(f"attempt {number} *")))

    def results(self, number: int) -> list[dict[str, Any]]:
        return metas(self.place / "runs" / "run", number)[-1]["results"]

    def saved_at(self, number: int) -> list[float]:
        """When each epoch was over."""
        return [datetime.fromisoformat(result["finished_at"]).timestamp() for result in self.results(number)]

    def check_equal_to_uninterrupted(self, *numbers: int) -> None:
        """To the bit, in the newest checkpoint and in the study, to training by hand on one thread."""
        torch.set_num_threads(1)
        for number in numbers:
            config = TrialConfig.model_validate(metas(self.place / "runs" / "run", number)[-1]["config"])
            data = load_data(config.data)
            reference = [{key: vars(result)[key] for key in TRAINED} for result in train(new_state(config, data), data)]
            assert [{key: result[key] for key in TRAINED} for result in self.results(number)] == reference
            trial = trials_of(self.place / "runs" / "run")[number]
            assert trial.intermediate_values == {result["epoch"]: result["val_accuracy"] for result in reference}
            assert trial.value == reference[-1]["val_accuracy"]

    def check_all_complete(self, num_samples: int) -> None:
        assert len({trial.number for trial in self.trials}) == len(self.trials) == num_samples
        assert all(trial.state == TrialState.COMPLETE for trial in self.trials)


def run_faulty(place: Path, harm: str, *arguments: str, **environment: str) -> Ended:
    done = run(*arguments, cwd=place, command=faulty_search(harm, place), **environment)
    return Ended(place, done.stdout + done.stderr)


# One search in which trials are harmed in many ways, each by what its test says


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """Two trials at a time, each of which may be tried again once."""
    plain = ["model.batch_norm=false", "optimizer.name=sgd", "resources.max_failures=1"]  # such a loss can explode
    sets = [word for value in plain for word in ("--set", value)]
    arguments = [*FULL, *sets, "--num-samples", "13", "--max-concurrent", "2"]
    return run_faulty(tmp_path_factory.mktemp("harmed"), "many_ways", *arguments)


def test_a_search_goes_on_whatever_happens_to_its_trials(harmed: Ended) -> None:
    states = ["COMPLETE"] * 3 + ["FAIL"] * 2 + ["PRUNED"] + ["COMPLETE"] * 7
    assert [trial.state.name for trial in harmed.trials] == states


def test_workers_that_die_cost_no_trial_and_no_epoch_that_was_saved(harmed: Ended) -> None:
    """Killed before the first epoch, in the midst of a later one, and while a checkpoint is copied."""
    harmed.check_equal_to_uninterrupted(0, 1, 2)
    assert harmed.saved_at(0)[0] > harmed.happened_at("first epoch")
    for number, event in ((1, "second epoch"), (2, "copying")):
        first, second, _ = harmed.saved_at(number)
        assert first < harmed.happened_at(event) < second  # the first was not trained again


def test_a_worker_that_dies_as_it_changes_from_one_trial_to_the_next_costs_neither(harmed: Ended) -> None:
    """The new trial has lost one of its retries, not two: Ray tells of such a death twice."""
    assert harmed.happened_at("between trials")
    harmed.check_equal_to_uninterrupted(*range(8, 13))


def test_a_trial_that_kills_its_worker_every_time_fails_with_a_reason(harmed: Ended) -> None:
    assert harmed.attempts(3) == 2
    reason = harmed.trials[3].user_attrs["reason"]
    assert "worker" in reason and "died" in reason and reason in harmed.output.replace("\n", " ")


def test_a_worker_that_gets_no_memory_fails_its_trial_as_out_of_memory(harmed: Ended) -> None:
    """By the limit of a process's address space."""
    reason = harmed.trials[4].user_attrs["reason"]
    assert reason.startswith("out of memory: ") and "allocate" in reason
    assert harmed.attempts(4) == 2


def test_a_trial_whose_learning_rate_explodes_is_pruned_as_diverged(harmed: Ended) -> None:
    trial = harmed.trials[5]
    assert trial.user_attrs["stopped_by"] == "diverged" and trial.value == 0.0
    assert trial.user_attrs["reason"].startswith("the loss was not finite in epoch ")
    assert harmed.results(5)[-1]["diverged"]


def test_damaged_checkpoints_are_passed_over_by_a_worker_that_starts_again(harmed: Ended) -> None:
    """One truncated beside an intact one, or garbage beside another trial's: the final curves are the same."""
    harmed.check_equal_to_uninterrupted(6, 7)
    assert harmed.saved_at(6)[0] < harmed.happened_at("damage 6")  # it went on from its first epoch
    assert harmed.saved_at(7)[0] > harmed.happened_at("damage 7")  # it started over
    said = [line for number in (6, 7) for line in re.findall(rf"^trial {number}: .*", harmed.output, re.MULTILINE)]
    named = ["checkpoint_000001/weights.pt", "checkpoint_000001/meta.json", "another trial's"]
    assert all(name in line for name, line in zip(named, said, strict=True))


# Searches of their own


def memory_threshold(more_bytes: int) -> float:
    """The used share of this machine's memory, were so much more in use."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    sizes = {words[0]: int(words[1]) * 1024 for words in lines}
    return 1 - (sizes["MemAvailable:"] - more_bytes) / sizes["MemTotal:"]


def test_a_trial_that_fills_the_machine_fails_as_out_of_memory_and_the_search_goes_on(tmp_path: Path) -> None:
    """Ray's memory monitor ends its worker, at 2.5 GiB above what was in use before; the search takes one of them."""
    threshold = memory_threshold(5 * 2**29)
    if threshold > 0.95:
        pytest.skip("too little memory is free to fill some of it")
    monitor = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    arguments = ["--num-samples", "3", "--max-concurrent", "1", "--set", "resources.max_failures=1"]
    ended = run_faulty(tmp_path, "fill_the_machine", *FULL, *arguments, **monitor)
    assert [trial.state.name for trial in ended.trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert ended.attempts(1) == 2
    reason = ended.trials[1].user_attrs["reason"]
    assert "out of memory: Ray ended the worker" in reason and reason in ended.output.replace("\n", " ")


@contextmanager
def waiting(place: Path, num_trials: int, *arguments: str, **environment: str) -> Iterator[Any]:
    """The driver of a search whose first trials all wait in their second epoch; it is killed at the end."""
    command = faulty_search("wait_in_the_second_epoch", place)
    with start(*FULL, *arguments, cwd=place, command=command, **environment) as driver:
        try:
            wait_until(lambda: len(list(place.glob("waits *"))) == num_trials or driver.poll(), "trials that wait")
            yield driver
        finally:
            driver.kill()


def test_a_node_that_is_lost_with_two_trials_costs_none(tmp_path: Path) -> None:
    """A head with one core and a node with two: three trials at a time, then one."""
    with local_cluster(tmp_path / "cluster") as cluster:
        cluster.start_head(num_cpus=1)
        node = cluster.start_node(num_cpus=2)
        arguments = ["--num-samples", "4", "--address", cluster.address]
        with waiting(tmp_path, 3, *arguments, **cluster.environment) as driver:
            killed_at = time.time()
            cluster.kill(node)
            (tmp_path / "go on").touch()
            ended = Ended(tmp_path, driver.communicate(timeout=300)[0])
    assert driver.returncode == 0 and "Traceback" not in ended.output, ended.output
    ended.check_all_complete(4)
    ended.check_equal_to_uninterrupted(0, 1, 2)
    assert all(ended.saved_at(number)[0] < killed_at for number in range(3))  # not trained again


def test_damaged_checkpoints_are_passed_over_on_resume(tmp_path: Path) -> None:
    """All that both trials have. Workers of the killed driver may still wait."""
    with waiting(tmp_path, 2, "--num-samples", "2"):
        pass
    assert [trial.state for trial in trials_of(tmp_path / "runs" / "run")] == [TrialState.RUNNING] * 2
    damaged_at = time.time()
    for number, name in enumerate(("weights.pt", "meta.json")):
        for file in tmp_path.glob(f"runs/run/trial_{number:04d}_*/*/{name}"):
            file.write_bytes(file.read_bytes()[:-40])
    done = run("--resume", "runs/run", cwd=tmp_path)
    ended = Ended(tmp_path, done.stdout + done.stderr)
    ended.check_all_complete(2)
    ended.check_equal_to_uninterrupted(0, 1)
    for number, name in enumerate(("weights.pt", "meta.json")):
        assert re.search(rf"^trial {number}: .*trial_000{number}_.*{name}", ended.output, re.MULTILINE)
        assert ended.saved_at(number)[0] > damaged_at  # it started over


@pytest.mark.timeout(1200)
def test_200_trials_with_workers_that_are_killed_all_the_time_lose_none(tmp_path: Path) -> None:
    samples, kills = soak(tmp_path, num_trials=200, trials_between_kills=15)
    check(tmp_path / "runs" / "run", 200)
    assert kills >= 10
    before, after = growth(samples, "open_files")
    assert after < before + 20
    before, after = growth(samples, "memory_mib")
    assert after < before + 20
