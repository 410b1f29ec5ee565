"""Results of a search as configs/digits.yaml describes it, from trials made by hand."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from checked_searches import CONFIG, START
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from analysis.reading.results import SearchResults, find_best
from analysis.reading.tables import epochs_table, trials_table
from search.config import load_config
from search.record.endings import infeasibility_of, is_own
from training.loop import EpochResult


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SearchResults]:
    """A function that makes the results of trials, in a place that is hard to quote."""
    monkeypatch.chdir(tmp_path)

    def make_results(
        trials: list[FrozenTrial],
        changes: Mapping[str, Any] | None = None,
        curves: Mapping[int, dict[int, EpochResult]] | None = None,
        sources: bool = False,
    ) -> SearchResults:
        run = tmp_path / f"it's a $run {len(list(tmp_path.iterdir()))}"
        run.mkdir()
        settings = load_config(CONFIG, {"data.data_dir": str(tmp_path), **(changes or {})})
        (run / "search.yaml").write_text(settings.to_yaml())
        storage = JournalStorage(JournalFileBackend(str(run / "study.journal")))
        optuna.create_study(storage=storage, study_name="any", direction="maximize")
        for number, trial in enumerate(trials):
            trial.number = number
            trial.datetime_start = START + timedelta(minutes=number)
            if trial.datetime_complete is not None:
                trial.datetime_complete = START + timedelta(minutes=number + 1)
        curves = curves or {}
        return SearchResults(
            run=run,
            settings=settings,
            environment=[],
            trials=trials_table(trials, curves, settings.space, sources),
            epochs=epochs_table(trials, curves),
            best_trial=find_best(run, [trial for trial in trials if is_own(trial)], curves),
            params={trial.number: dict(trial.params) for trial in trials},
            infeasible={trial.number: why for trial in trials if (why := infeasibility_of(trial)) is not None},
        )

    return make_results
