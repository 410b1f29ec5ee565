"""The searcher, driven as Ray drives it, against the study's record."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState
from ray.tune.search import Searcher
from studies import make_config, make_searcher, result

from search.record.endings import Infeasible
from search.workers.bridge import StudySearcher, trial_seed
from training.config import TrialConfig


def test_only_feasible_trials_are_handed_out_and_exactly_n_of_them(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, make_config(20))
    handed_out = []
    for index in range(20):
        suggestion = searcher.suggest(str(index))
        assert isinstance(suggestion, dict)
        handed_out.append(suggestion)
        assert TrialConfig.model_validate_json(suggestion["trial_config"]).model.depth <= 5
    assert searcher.suggest("more") == Searcher.FINISHED
    assert searcher.num_infeasible > 0
    for index in range(20):
        searcher.on_trial_complete(str(index), result(9, 0.5))
    trials = searcher.study.trials
    infeasible = [trial for trial in trials if trial.user_attrs.get("stopped_by") == "infeasible"]
    assert len(trials) == 20 + len(infeasible) and len(infeasible) == searcher.num_infeasible
    assert all(
        t.state == TrialState.PRUNED and t.value is None and "pool5" in t.user_attrs["reason"] for t in infeasible
    )
    assert all(not t.intermediate_values and t.params["model.depth"] > 5 for t in infeasible)
    assert {s["number"] for s in handed_out} == {t.number for t in trials} - {t.number for t in infeasible}
    assert searcher.study.best_trial.number in {s["number"] for s in handed_out}


def test_every_ending_is_recorded_as_the_table_says(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, make_config())
    numbers = [searcher.suggest(name)["number"] for name in "abcdef"]  # type: ignore[index, call-overload]
    assert searcher.suggest("g") == Searcher.FINISHED
    for epoch in range(1, 9):
        searcher.on_trial_result("a", result(epoch, epoch / 10))
    searcher.on_trial_complete("a", result(9, 0.9))  # Ray does not report the last result before
    searcher.on_trial_complete("b", result(1, 0.3))
    searcher.on_trial_result("c", result(1, 0.4))
    searcher.on_trial_complete("c", result(2, 0.0, diverged=True))
    searcher.on_trial_complete("d", error=True)
    searcher.fail("d", "ValueError: no")
    searcher.on_trial_complete("e")  # interrupted
    searcher.closed = True
    assert searcher.is_out_of_time("f")
    searcher.on_trial_complete("f", result(4, 0.5))
    found = [searcher.study.trials[number] for number in numbers]
    assert [(t.state.name, t.value, t.user_attrs.get("stopped_by")) for t in found] == [
        ("COMPLETE", 0.9, None),
        ("PRUNED", 0.3, "asha"),
        ("PRUNED", 0.0, "diverged"),
        ("FAIL", None, None),
        ("RUNNING", None, None),
        ("PRUNED", 0.5, "time_budget"),
    ]
    assert found[0].intermediate_values == {epoch: epoch / 10 for epoch in range(1, 10)}
    assert found[1].intermediate_values == {1: 0.3}
    assert found[2].intermediate_values == {1: 0.4, 2: 0.0} and "epoch 2" in found[2].user_attrs["reason"]
    assert found[3].user_attrs["reason"] == "ValueError: no"
    assert all("num_params" in t.user_attrs and "multiply_adds" in t.user_attrs for t in found)


def test_a_repeated_epoch_is_recorded_once(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, make_config())
    searcher.suggest("a")
    for value in (0.1, 0.7):  # a worker that died is asked for the epoch again
        searcher.on_trial_result("a", result(1, value))
    searcher.on_trial_complete("a", result(9, 0.9))
    assert searcher.study.trials[0].intermediate_values == {1: 0.1, 9: 0.9}


def test_trial_0_is_the_config_itself(tmp_path: Path) -> None:
    config = make_config()
    searcher = make_searcher(tmp_path, config)
    suggestion = searcher.suggest("a")
    assert isinstance(suggestion, dict) and suggestion["number"] == 0
    trained = TrialConfig.model_validate_json(suggestion["trial_config"])
    assert trained.model_copy(update={"train": config.base.train}) == config.base
    assert trained.train.seed == trial_seed(config.search.seed, 0) != trial_seed(config.search.seed, 1)


def test_the_searcher_keeps_to_max_concurrent(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, make_config(resources={"max_concurrent": 2}))
    assert isinstance(searcher.suggest("a"), dict) and isinstance(searcher.suggest("b"), dict)
    assert searcher.suggest("c") is None
    searcher.on_trial_complete("a", result(1, 0.5))
    assert isinstance(searcher.suggest("c"), dict)


def test_one_trial_waits_for_a_worker_and_no_more(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, make_config())
    searcher.slots = 2
    assert isinstance(searcher.suggest("a"), dict) and isinstance(searcher.suggest("b"), dict)
    searcher.on_trial_start("a")
    assert searcher.suggest("c") is None  # b is waiting
    searcher.on_trial_start("b")
    assert isinstance(searcher.suggest("c"), dict) and searcher.suggest("d") is None


@pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")  # Optuna's only sampler that fixes a value
def test_a_search_in_an_impossible_space_gives_up_with_the_reason() -> None:
    space = {"model.depth": {"choice": [3, 7]}, "model.kernel_size": {"choice": [3, 33]}}
    config = make_config(model={"padding": "valid", "depth": 3}, space=space)
    hopeless = optuna.samplers.PartialFixedSampler(
        {"model.depth": 7, "model.kernel_size": 33}, optuna.samplers.RandomSampler(seed=0)
    )
    searcher = StudySearcher(optuna.create_study(direction="maximize", sampler=hopeless), config, num_classes=10)
    searcher.slots = 100
    searcher.study.enqueue_trial(config.search_space.default_params())
    assert isinstance(searcher.suggest("a"), dict)  # the defaults
    assert searcher.suggest("b") == Searcher.FINISHED
    assert searcher.infeasible_reason is not None
    assert "1,000 infeasible proposals in a row" in searcher.infeasible_reason and "conv0" in searcher.infeasible_reason


def test_a_trial_whose_drawing_was_cut_off_keeps_what_was_drawn(tmp_path: Path) -> None:
    searcher = make_searcher(tmp_path, make_config())
    searcher.suggest("0")
    interrupted = searcher.study.ask()
    depth = interrupted.suggest_int("model.depth", 1, 9)
    again = make_searcher(tmp_path, make_config())
    live = again.prepare(Trial(again.study, interrupted._trial_id))
    stored = again.study.trials[interrupted.number]
    assert stored.params["model.depth"] == depth
    if isinstance(live, Infeasible):
        assert depth > 5 and stored.user_attrs["stopped_by"] == "infeasible"
    else:
        assert "optimizer.learning_rate" in stored.params and live.config.model.depth == depth


def test_one_trial_at_a_time_repeats_itself(tmp_path: Path) -> None:
    def search(name: str) -> list[dict[str, Any]]:
        (tmp_path / name).mkdir()
        config = make_config(15, sampler={"name": "tpe", "startup_trials": 5})
        searcher = make_searcher(tmp_path / name, config)
        for index in range(15):
            suggestion = searcher.suggest(str(index))
            assert isinstance(suggestion, dict)
            rate = TrialConfig.model_validate_json(suggestion["trial_config"]).optimizer.learning_rate
            searcher.on_trial_complete(str(index), result(9, rate))
        return [trial.params for trial in searcher.study.trials]

    assert search("first") == search("second")
