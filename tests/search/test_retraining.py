"""--confirm and --audit: which trials are trained again, from where, and with which seeds."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from search.config import SearchConfig
from search.record.journal import open_study
from search.record.run_directory import CONFIG, SearchError, locked
from search.record.run_storage import RunStorage
from search.retraining import (
    Retraining,
    fixed_config,
    plan_audit,
    plan_confirmation,
    source_number,
)
from search.screen.leaderboard import summary_table
from search.workers.bridge import LiveTrial, trial_seed
from search.workers.retraining import RetrainingSearcher

SGD = {"model.depth": 1, "model.kernel_size.0": 3, "optimizer.name": "sgd", "optimizer.momentum": 0.9}


def at_rate(learning_rate: float) -> dict[str, Any]:
    return {**SGD, "optimizer.learning_rate": learning_rate}


class Search:
    """A run directory whose trials have ended as told."""

    def __init__(self, run: Path, config: SearchConfig) -> None:
        self.run, self.config = run, config
        run.mkdir(parents=True)
        (run / CONFIG).write_text(config.to_yaml())
        with locked(run):
            self.study = open_study(run, None)

    def add(self, params: dict[str, Any], values: list[float], stopped_by: str | None = None) -> int:
        """COMPLETE where nothing stopped it; its number."""
        distributions = self.config.search_space.distributions()
        state = TrialState.COMPLETE if stopped_by is None else TrialState.PRUNED
        self.study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=values[-1] if values else None,
                params=params,
                distributions={name: distributions[name] for name in params},
                intermediate_values=dict(enumerate(values, start=1)),
                user_attrs={"stopped_by": stopped_by} if stopped_by else {},
            )
        )
        return len(self.study.get_trials(deepcopy=False)) - 1

    def checkpoint(self, number: int, source: Path) -> None:
        shutil.copytree(source, self.run / f"trial_{number:04d}_x" / "checkpoint_000000")


@pytest.fixture
def search(tmp_path: Path, quick: SearchConfig) -> Search:
    return Search(tmp_path / "run", quick)


def opened(retraining: Retraining) -> optuna.Study:
    retraining.run.path.mkdir(exist_ok=True)
    with locked(retraining.run.path):
        return open_study(retraining.run.path, None)


def handed_out(study: optuna.Study, retraining: Retraining, config: SearchConfig) -> list[LiveTrial]:
    searcher = RetrainingSearcher(study, config, 10, retraining)
    trials = [searcher.propose() for _ in range(sum(t.state == TrialState.WAITING for t in study.trials))]
    assert all(isinstance(trial, LiveTrial) for trial in trials)
    return [trial for trial in trials if trial]


def test_the_best_complete_configurations_and_the_defaults_are_confirmed_each_once(search: Search) -> None:
    search.add(at_rate(0.01), [0.1, 0.2, 0.7])
    search.add(at_rate(0.02), [0.1, 0.2, 0.9])
    search.add(at_rate(0.02), [0.1, 0.2, 0.8])  # the same configuration again
    search.add(at_rate(0.01), [0.1, 0.2, 0.85])  # the defaults' configuration
    search.add(at_rate(0.03), [0.99], "asha")
    search.add(at_rate(0.04), [0.1, 0.2, 0.6])
    search.add(at_rate(0.05), [0.1, 0.2, 0.5])
    assert plan_confirmation(RunStorage(search.run), top=2, seeds=3).wanted == {1: 3, 5: 3, 0: 3}
    assert plan_confirmation(RunStorage(search.run), top=9, seeds=1).wanted == {1: 1, 5: 1, 6: 1, 0: 1}


def test_a_confirmation_asked_for_again_trains_what_is_missing(search: Search, quick: SearchConfig) -> None:
    search.add(at_rate(0.01), [0.1, 0.2, 0.7])
    search.add(at_rate(0.02), [0.1, 0.2, 0.9])
    first = plan_confirmation(RunStorage(search.run), top=1, seeds=2)
    study = opened(first)
    assert first.queue(study) == 4
    trials = handed_out(study, first, quick)
    assert [source_number(live.trial) for live in trials] == [1, 0, 1, 0]
    assert [live.trial.params for live in trials] == [at_rate(0.02), at_rate(0.01)] * 2
    study.tell(trials[0].trial, 0.5)
    study.tell(trials[1].trial, state=TrialState.FAIL)  # to be trained again
    second = plan_confirmation(RunStorage(search.run), top=1, seeds=3)
    assert second.queue(study) == 7  # those four, and 1 for trial 1, 2 for trial 0
    waiting = Counter(source_number(t) for t in study.trials if t.state == TrialState.WAITING)
    assert waiting == {1: 1, 0: 2}
    assert second.queue(study) == 7
    assert fixed_config(quick, 7).search.num_samples == 7


def test_confirmations_have_seeds_of_their_own_and_the_searchs_split(search: Search, quick: SearchConfig) -> None:
    search.add(at_rate(0.01), [0.1, 0.2, 0.7])
    retraining = plan_confirmation(RunStorage(search.run), top=1, seeds=5)
    study = opened(retraining)
    retraining.queue(study)
    configs = [live.config for live in handed_out(study, retraining, quick)]
    seeds = {config.train.seed for config in configs}
    assert len(seeds) == 5 and not seeds & {trial_seed(quick.search.seed, number) for number in range(100)}
    assert {config.data for config in configs} == {quick.base.data}


def test_an_audited_trial_goes_on_from_its_checkpoint_with_its_own_seed(
    search: Search, quick: SearchConfig, trained_checkpoints: list[Path]
) -> None:
    search.add(at_rate(0.01), [0.1, 0.2, 0.7])
    number = search.add(at_rate(0.02), [0.3], "asha")
    search.checkpoint(number, trained_checkpoints[0])
    retraining = plan_audit(RunStorage(search.run), num_trials=5, seed=0)
    assert retraining.wanted == {number: 1}
    study = opened(retraining)
    retraining.queue(study)
    (live,) = handed_out(study, retraining, quick)
    assert live.number == 0 and live.config.train.seed == trial_seed(quick.search.seed, number)
    assert live.start_from is not None and live.start_from.parent.parent == search.run
    assert live.reported == {1} and list(study.trials[0].intermediate_values) == [1]
    again = RetrainingSearcher(study, quick, 10, retraining).prepare(live.trial)  # as after a crash
    assert isinstance(again, LiveTrial) and again.reported == {1}


def test_an_audit_in_a_bucket_names_the_checkpoint_as_every_node_finds_it(
    search: Search, quick: SearchConfig, trained_checkpoints: list[Path]
) -> None:
    search.add(at_rate(0.01), [0.1, 0.2, 0.7])
    number = search.add(at_rate(0.02), [0.3], "asha")
    search.checkpoint(number, trained_checkpoints[0])
    url = f"file://{search.run}"  # Arrow's file system for a URL without a server
    retraining = plan_audit(RunStorage(url), num_trials=5, seed=0)
    assert str(retraining.run) == f"{url}/audit" and not retraining.run.path.is_relative_to(search.run)
    study = opened(retraining)
    retraining.queue(study)
    searcher = RetrainingSearcher(study, quick, 10, retraining)
    handed = searcher.suggest("a")
    assert isinstance(handed, dict)
    assert handed["start_from"] == f"{url}/trial_{number:04d}_x/checkpoint_000000"
    own = retraining.run.path / "trial_0000_y" / "checkpoint_000001"  # of a training that was interrupted
    assert searcher.for_workers(own) == f"{url}/audit/trial_0000_y/checkpoint_000001"


def test_an_audit_draws_among_trials_that_asha_stopped_and_grows(
    search: Search, quick: SearchConfig, trained_checkpoints: list[Path]
) -> None:
    search.add(at_rate(0.01), [0.1, 0.2, 0.7])
    for index in range(12):
        number = search.add(at_rate(0.02 + 0.001 * index), [0.3], "asha" if index < 9 else "diverged")
        if index != 4:  # which has lost its checkpoint
            search.checkpoint(number, trained_checkpoints[0])
    candidates = {1, 2, 3, 4, 6, 7, 8, 9}
    small = plan_audit(RunStorage(search.run), 3, seed=0)
    assert len(small.wanted) == 3 and candidates.issuperset(small.wanted)
    assert plan_audit(RunStorage(search.run), 3, seed=0).wanted == small.wanted
    assert len({tuple(plan_audit(RunStorage(search.run), 3, seed=seed).wanted) for seed in range(20)}) > 10
    study = opened(small)
    small.queue(study)
    handed_out(study, small, quick)
    larger = plan_audit(RunStorage(search.run), 6, seed=0)
    assert list(larger.wanted)[:3] == list(small.wanted) and len(larger.wanted) == 6
    assert plan_audit(RunStorage(search.run), 100, seed=0).wanted.keys() == candidates


def test_what_cannot_be_confirmed_or_audited_is_refused_with_the_remedy(search: Search) -> None:
    with pytest.raises(SearchError, match="has not begun"):
        plan_confirmation(RunStorage(search.run), 3, 5)
    search.add(at_rate(0.01), [0.1], "time_budget")
    with pytest.raises(SearchError, match=r"no trial is COMPLETE.*--resume"):
        plan_confirmation(RunStorage(search.run), 3, 5)
    with pytest.raises(SearchError, match="no trial was stopped by ASHA"):
        plan_audit(RunStorage(search.run), 3, 0)


def test_the_summary_counts_what_has_ended(search: Search, quick: SearchConfig) -> None:
    search.add(at_rate(0.01), [0.1, 0.2, 0.7])
    retraining = plan_confirmation(RunStorage(search.run), top=1, seeds=2)
    study = opened(retraining)
    retraining.queue(study)
    first, _ = handed_out(study, retraining, quick)
    study.tell(first.trial, 0.5)
    table = summary_table(retraining, study.trials)
    assert [next(iter(column.cells)) for column in table.columns][:4] == ["0", "0.7000 at epoch 3", "1", "0.5000"]
    assert retraining.amounts == "--top 1 --seeds 2"
