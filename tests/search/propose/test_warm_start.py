"""Warm start from hand-made earlier searches: whose trials inform, which come first, what is said of the rest."""

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState

from search.config import SearchConfig, parse_config
from search.propose.earlier import differences
from search.propose.sampler import build_sampler
from search.propose.warm_start import check_earlier, warm_start
from search.record.endings import rank_trials
from search.record.journal import open_study
from search.record.run_directory import CONFIG, JOURNAL, locked
from search.workers.asha import NumberedASHA
from search.workers.bridge import StudySearcher
from training.errors import ConfigError

SPACE: dict[str, Any] = {
    "model.depth": {"int": [1, 4]},
    "model.kernel_size": {"choice": [3, 5], "per_layer": True},
    "optimizer.name": {"choice": ["sgd", "adam"]},
    "optimizer.learning_rate": {"float": [0.001, 0.1], "log": True},
    "optimizer.momentum": {"float": [0.5, 0.95], "when": {"optimizer.name": "sgd"}},
}
ADAM = {"optimizer.name": "adam", "optimizer.learning_rate": 0.01}
SGD = {**ADAM, "optimizer.name": "sgd", "optimizer.momentum": 0.75}


def make_config(space: dict[str, Any] = SPACE, overrides: dict[str, Any] | None = None) -> SearchConfig:
    return parse_config({"train": {"epochs": 9}, "space": space}, overrides or {})


def net(*kernels: int, **optimizer: Any) -> dict[str, Any]:
    layers = {f"model.kernel_size.{layer}": size for layer, size in enumerate(kernels)}
    return {"model.depth": len(kernels), **layers, **(optimizer or ADAM)}


def ended(
    params: dict[str, Any],
    values: list[float],
    state: str | None = None,
    stopped_by: str | None = None,
    space: dict[str, Any] = SPACE,
) -> FrozenTrial:
    """A trial as the searcher leaves it: COMPLETE after nine epochs, else PRUNED."""
    distributions = parse_config({"space": space}, {}).search_space.distributions()
    finished = TrialState[state or ("COMPLETE" if len(values) == 9 else "PRUNED")]
    stopped_by = stopped_by or ("asha" if finished == TrialState.PRUNED else None)
    return optuna.trial.create_trial(
        state=finished,
        value=values[-1] if values and finished in (TrialState.COMPLETE, TrialState.PRUNED) else None,
        params=params,
        distributions={name: distributions[name] for name in params},
        intermediate_values=dict(enumerate(values, start=1)),
        user_attrs={"stopped_by": stopped_by} if stopped_by else {},
    )


def make_run(run: Path, trials: list[FrozenTrial], config: SearchConfig | None = None) -> Path:
    run.mkdir(parents=True)
    config = config or make_config()
    (run / CONFIG).write_text(config.to_yaml())
    with locked(run):
        study = open_study(run, config)  # trial 0 waits: it is no trial yet
        for trial in trials:
            study.add_trial(trial)
    return run


def started(place: Path, *runs: Path, config: SearchConfig | None = None) -> tuple[optuna.Study, list[str]]:
    """The study of a new search in `place`, and what was printed."""
    config = config or make_config()
    search = config.search.model_copy(update={"warm_start": tuple(map(str, runs))})
    config = config.model_copy(update={"search": search})
    place.mkdir(exist_ok=True)
    with locked(place):
        study = open_study(place, config)
        return study, warm_start(study, config, num_classes=10)


def foreign(study: optuna.Study) -> dict[str, FrozenTrial]:
    return {trial.user_attrs["source"]: trial for trial in study.trials if "source" in trial.user_attrs}


def queued(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.system_attrs["fixed_params"] for trial in study.trials if trial.state == TrialState.WAITING]


CURVE = [0.1 * epoch for epoch in range(1, 10)]


def test_in_the_same_space_every_trial_with_an_accuracy_is_taken_over_as_it_ended(tmp_path: Path) -> None:
    trials = [
        ended(net(3, 3), CURVE),
        ended(net(3, 5, 3, **SGD), [0.4]),
        ended(net(5), [0.4, 0.0], stopped_by="diverged"),
        ended(net(5), [0.3, 0.5], stopped_by="time_budget"),
        ended(net(5), [], stopped_by="time_budget"),
        ended(net(5, 5, 5, 5), [], stopped_by="infeasible"),
        ended(net(3), [0.2], state="FAIL"),
        ended(net(3), [0.2, 0.3], state="RUNNING"),
    ]
    run = make_run(tmp_path / "old", trials)
    before = (run / JOURNAL).read_bytes()
    study, lines = started(tmp_path / "new", run)
    taken = foreign(study)
    assert list(taken) == ["old#1", "old#2", "old#3", "old#4"]
    originals = optuna.load_study(study_name=None, storage=_storage(run)).trials[1:5]
    for original, copy in zip(originals, taken.values(), strict=True):
        for field in ("state", "value", "params", "distributions", "intermediate_values", "datetime_start", "duration"):
            assert getattr(copy, field) == getattr(original, field), field
        assert copy.user_attrs.get("stopped_by") == original.user_attrs.get("stopped_by")
    assert lines[0] == "old: 4 of 8 trials inform the sampler; the others do not:"
    reasons = ["ended before the first epoch", "infeasible there", "failed there", "not finished"]
    assert lines[1:5] == [f"  1 trial: {reason}" for reason in reasons]
    assert (run / JOURNAL).read_bytes() == before


def _storage(run: Path) -> optuna.storages.JournalStorage:
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(run / JOURNAL)))


def test_the_best_distinct_configurations_come_first(tmp_path: Path) -> None:
    defaults = make_config().search_space.default_params()
    values = [(net(3), 0.5), (net(5), 0.9), (net(5), 0.8), (net(3, 3), 0.7), (defaults, 0.99), (net(5, 5), 0.6)]
    trials = [ended(params, [*CURVE[:8], value]) for params, value in values] + [ended(net(3, 5), [0.95])]
    study, lines = started(tmp_path / "new", make_run(tmp_path / "old", trials))
    assert queued(study) == [defaults, net(5), net(3, 3), net(5, 5)]
    assert [trial.number for trial in study.trials if trial.state == TrialState.WAITING] == [0, 1, 2, 3]
    assert lines[-1] == "3 configurations come first, after trial 0: old#2, old#4, old#6"
    assert study.trials[1].user_attrs == {"configuration_of": "old#2"}


def test_no_more_come_first_than_there_are_trials_left(tmp_path: Path) -> None:
    run = make_run(tmp_path / "old", [ended(net(3), CURVE), ended(net(5), CURVE), ended(net(5, 3), CURVE)])
    study, _ = started(tmp_path / "new", run, config=make_config(overrides={"search.num_samples": 2}))
    assert len(queued(study)) == 2
    unlimited = make_config(overrides={"search.num_samples": None, "search.time_budget": "1h"})
    assert len(queued(started(tmp_path / "timed", run, config=unlimited)[0])) == 4


def test_a_wider_space_takes_all_and_a_narrower_one_what_lies_in_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "old", [ended(net(3, 3), CURVE), ended(net(5, 3, 3, 3), CURVE), ended(net(3), [0.5])])
    wider = {**SPACE, "model.depth": {"int": [1, 5]}, "model.kernel_size": {"choice": [3, 5, 7], "per_layer": True}}
    study, lines = started(tmp_path / "wider", run, config=make_config(wider))
    assert len(foreign(study)) == 3 and lines[0] == "old: 3 of 3 trials inform the sampler"
    assert study.trials[-1].distributions["model.depth"].high == 5  # type: ignore[union-attr]
    narrower = {**SPACE, "model.depth": {"int": [2, 3]}, "model.kernel_size": {"choice": [3], "per_layer": True}}
    study, lines = started(tmp_path / "narrower", run, config=make_config(narrower))
    assert list(foreign(study)) == ["old#1"]
    assert lines[:3] == [
        "old: 1 of 3 trials inform the sampler; the others do not (a trial can have several reasons):",
        "  2 trials: model.depth outside {int: [2, 3]}",
        "  1 trial: model.kernel_size outside {choice: [3], per_layer: True}",
    ]
    # The second network with the base's depth, 3, and the base's kernel in its first layer.
    assert queued(study)[1:] == [net(3, 3), net(3, 3, 3)]


def test_a_partly_different_space_says_what_is_fixed_there_and_here(tmp_path: Path) -> None:
    old_space = {**SPACE, "model.dropout": {"float": [0.0, 0.5]}}
    old = make_config(old_space, {"train.label_smoothing": 0.1})
    trials = [
        ended({**net(3), "model.dropout": 0.0}, CURVE, space=old_space),
        ended({**net(5), "model.dropout": 0.3}, CURVE, space=old_space),
        ended({**net(5), "model.dropout": 0.2}, [0.5], space=old_space),
    ]
    run = make_run(tmp_path / "old", trials, old)
    study, lines = started(tmp_path / "a", run)
    assert not foreign(study)
    assert lines[1:3] == [
        "  3 trials: train.label_smoothing is 0.1 there and fixed at 0.0 here",
        "  2 trials: model.dropout is searched there and fixed at 0.0 here",
    ]
    assert lines[-1].endswith("old#1 (the nearest in this space), old#2 (the nearest in this space)")
    assert queued(study)[1:] == [net(3), net(5)]
    # Where the new space draws what the old one fixed, its value there is the trial's.
    new_space = {**SPACE, "train.label_smoothing": {"choice": [0.0, 0.1]}}
    study, lines = started(tmp_path / "b", run, config=make_config(new_space))
    assert [(source, trial.params) for source, trial in foreign(study).items()] == [
        ("old#1", {**net(3), "train.label_smoothing": 0.1})
    ]


def test_conditions_are_those_of_the_new_space(tmp_path: Path) -> None:
    run = make_run(tmp_path / "old", [ended(net(3, **SGD), CURVE), ended(net(5), CURVE)])
    always = {**SPACE, "optimizer.momentum": {"float": [0.5, 0.95]}}
    study, _ = started(tmp_path / "always", run, config=make_config(always))
    momenta = [trial.params["optimizer.momentum"] for trial in foreign(study).values()]
    assert momenta == [0.75, make_config().optimizer.momentum]
    other = {**SPACE, "optimizer.momentum": {"float": [0.5, 0.95], "when": {"optimizer.name": "adam"}}}
    study, lines = started(tmp_path / "other", run, config=make_config(other))
    assert list(foreign(study)) == ["old#2"]
    assert "  1 trial: optimizer.momentum is searched there and inactive at 0.9 here" in lines


def test_one_value_for_all_layers_and_a_list_that_says_the_same_are_one(tmp_path: Path) -> None:
    width = {"model.width": {"int": [8, 128]}, "model.depth": {"int": [2, 3]}}
    run = make_run(
        tmp_path / "old",
        [
            ended({"model.width": 8, "model.depth": 2}, CURVE, space=width),
            ended({"model.width": 16, "model.depth": 3}, CURVE, space=width),
        ],
        make_config(width, {"model.width": 16}),
    )
    per_layer = {"model.width": {"int": [8, 128], "per_layer": True}, "model.depth": {"int": [2, 3]}}
    new = make_config(per_layer, {"model.width": 16})
    study, _ = started(tmp_path / "layers", run, config=new)
    assert [trial.params for trial in foreign(study).values()] == [
        {"model.depth": 2, "model.width.0": 8, "model.width.1": 16},
        {"model.depth": 3, "model.width.0": 16, "model.width.1": 32, "model.width.2": 64},
    ]
    layers = [
        ended({"model.depth": 2, "model.width.0": 8, "model.width.1": 16}, CURVE, space=per_layer),
        ended({"model.depth": 2, "model.width.0": 8, "model.width.1": 17}, CURVE, space=per_layer),
    ]
    run = make_run(tmp_path / "per_layer", layers, new)
    study, lines = started(tmp_path / "single", run, config=make_config(width, {"model.width": 16}))
    assert [trial.params for trial in foreign(study).values()] == [{"model.width": 8, "model.depth": 2}]
    assert "  1 trial: model.width outside {int: [8, 128]}" in lines


def test_other_epochs_or_data_inform_nobody_and_still_come_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "old", [ended(net(3), CURVE)])
    for index, (overrides, why) in enumerate(
        [
            ({"train.epochs": 3}, "train.epochs is 9 there and 3 here"),
            ({"search.seed": 1}, "search.seed is 0 there and 1 here"),
            ({"data.dataset": "digits"}, "data.dataset is 'cifar10' there and 'digits' here"),
            ({"data.image_size": 64}, "data.image_size is 32 there and 64 here"),
            ({"data.val_fraction": 0.5}, "data.val_fraction is 0.25 there and 0.5 here"),
        ]
    ):
        study, lines = started(tmp_path / str(index), run, config=make_config(overrides=overrides))
        assert not foreign(study) and queued(study)[1:] == [net(3)]
        assert lines[0] == f"old: no trial informs the sampler, for its accuracies do not compare: {why}"
        assert lines[-1] == "1 configuration comes first, after trial 0: old#1"
    assert foreign(started(tmp_path / "a", run, config=make_config(overrides={"data.data_dir": "/elsewhere"}))[0])
    study, lines = started(tmp_path / "b", run, config=make_config(overrides={"data.flip": False}))
    assert not foreign(study) and "  1 trial: data.flip is True there and fixed at False here" in lines


def test_what_is_infeasible_here_neither_informs_nor_comes_first(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "old", [ended(net(3, 3, 3, 5), CURVE), ended(net(3), CURVE), ended(net(5, 5, 5, 5), CURVE)]
    )
    study, lines = started(tmp_path / "new", run, config=make_config(overrides={"search.max_params": 200_000}))
    assert list(foreign(study)) == ["old#2"] and queued(study)[1:] == [net(3)]
    assert "  2 trials: infeasible here: above search.max_params" in lines


def test_accuracies_that_do_not_compare_take_turns_and_those_that_do_begin(tmp_path: Path) -> None:
    here = make_run(tmp_path / "a", [ended(net(3), [*CURVE[:8], 0.4]), ended(net(5), [*CURVE[:8], 0.5])])
    there = make_run(
        tmp_path / "b",
        [ended(net(3, 3), [*CURVE[:8], 0.98]), ended(net(5, 5), [*CURVE[:8], 0.99])],
        make_config(overrides={"data.dataset": "digits"}),
    )
    study, lines = started(tmp_path / "new", there, here)
    assert queued(study)[1:] == [net(5), net(5, 5), net(3)]
    assert set(foreign(study)) == {"a#1", "a#2"} and len([line for line in lines if "sampler" in line]) == 2


def test_runs_that_share_trials_give_each_once_under_its_first_name(tmp_path: Path) -> None:
    first = make_run(tmp_path / "first", [ended(net(3), CURVE), ended(net(5), [0.5])])
    study, _ = started(tmp_path / "second", first)
    (tmp_path / "second" / CONFIG).write_text(make_config().to_yaml())
    study.add_trial(ended(net(5, 5), CURVE))
    for order in ((first, tmp_path / "second"), (tmp_path / "second", first), (tmp_path / "second",)):
        third, lines = started(tmp_path / f"third{len(list(tmp_path.iterdir()))}", *order)
        taken = foreign(third)
        assert set(taken) == {"first#1", "first#2", f"second#{study.trials[-1].number}"}
        assert len(taken) == sum("source" in trial.user_attrs for trial in third.trials)
        assert ("  2 trials: taken over from a run named before" in lines) == (len(order) == 2)
    # Two runs of one name are two runs.
    namesake = make_run(tmp_path / "elsewhere" / "first", [ended(net(3), [0.3])])
    third, lines = started(tmp_path / "last", first, namesake)
    assert [trial.user_attrs["source"] for trial in third.trials if "source" in trial.user_attrs].count("first#1") == 2


def test_a_take_over_cut_off_anywhere_is_completed_at_resume_and_not_repeated(tmp_path: Path) -> None:
    run = make_run(tmp_path / "old", [ended(net(3), CURVE), ended(net(5), CURVE), ended(net(3, 5), [0.5])])
    whole, printed = started(tmp_path / "whole", run)
    kept = (tmp_path / "whole" / JOURNAL).read_bytes().splitlines(keepends=True)

    def content(of: optuna.Study) -> list[tuple[Any, ...]]:
        return [(t.number, t.state, t.params, t.value, t.system_attrs, t.user_attrs) for t in of.trials]

    for lost in range(1, 9):
        cut = tmp_path / f"cut{lost}"
        cut.mkdir()
        (cut / JOURNAL).write_bytes(b"".join(kept[:-lost]) + kept[-lost][: len(kept[-lost]) // 2])
        study, lines = started(cut, run)
        assert lines == printed and content(study) == content(whole), lost
    (run / JOURNAL).unlink()  # the earlier run is not needed any more
    study, lines = started(cut, run)
    assert lines == [] and content(study) == content(whole)


def test_trials_taken_over_do_not_count_fill_no_rung_and_are_never_the_best(tmp_path: Path) -> None:
    run = make_run(tmp_path / "old", [ended(net(3), CURVE), ended(net(5), CURVE)])
    config = make_config(overrides={"search.num_samples": 3})
    study, _ = started(tmp_path / "new", run, config=config)
    study.sampler = build_sampler(config, 10, len(study.trials))
    searcher = StudySearcher(study, config, num_classes=10)
    searcher.slots = 100
    assert searcher.num_finished == 0 and rank_trials(study.trials) == []
    scheduler = NumberedASHA(config)
    scheduler.refill(study)
    assert all(not recorded for _, recorded in scheduler._brackets[0]._rungs)
    numbers = []
    for name in "abc":
        suggestion = searcher.suggest(name)
        assert isinstance(suggestion, dict)
        numbers.append(suggestion["number"])
        searcher.on_trial_complete(name, {"epoch": 9, "val_accuracy": 0.1, "diverged": False})
    assert numbers == [0, 1, 2] and searcher.suggest("d") == "FINISHED"
    assert [study.trials[number].params for number in numbers] == queued(started(tmp_path / "again", run)[0])
    assert sorted(trial.number for trial in rank_trials(study.trials)) == numbers


def test_the_sampler_learns_from_them(tmp_path: Path) -> None:
    generator = random.Random(0)
    trials = [
        ended(net(3, **{**ADAM, "optimizer.learning_rate": rate}), [*CURVE[:8], 1 - abs(rate - 0.01)])
        for rate in (generator.uniform(0.001, 0.1) for _ in range(40))
    ]
    study, _ = started(tmp_path / "new", make_run(tmp_path / "old", trials))
    study.sampler = build_sampler(make_config(), 10, len(study.trials))
    for _ in range(4):
        study.ask()  # trial 0 and those that come first
    rates = [
        study.ask({"optimizer.learning_rate": trials[0].distributions["optimizer.learning_rate"]}) for _ in range(9)
    ]
    assert sum(trial.params["optimizer.learning_rate"] < 0.03 for trial in rates) >= 7
    at_random = make_config(overrides={"sampler.name": "random"})
    assert (
        "The random sampler learns from none of them" in started(tmp_path / "b", tmp_path / "old", config=at_random)[1]
    )


def test_a_run_that_is_written_to_can_be_read_and_others_are_refused_together(tmp_path: Path) -> None:
    run = make_run(tmp_path / "torn", [ended(net(3), CURVE), ended(net(5), CURVE)])
    (run / JOURNAL).write_bytes((run / JOURNAL).read_bytes()[:-10])
    assert list(foreign(started(tmp_path / "new", run)[0])) == ["torn#1"]
    (tmp_path / "empty").mkdir()
    damaged, other, unbegun = (make_run(tmp_path / name, []) for name in ("damaged", "other", "unbegun"))
    (damaged / JOURNAL).write_bytes(b"\xff\n" + (damaged / JOURNAL).read_bytes())
    (other / CONFIG).write_text("model: {layers: 3}")
    (unbegun / JOURNAL).unlink()
    runs = tuple(str(tmp_path / name) for name in ("empty", "torn", "damaged", "other", "unbegun"))
    config = make_config()
    with pytest.raises(ConfigError) as caught:
        check_earlier(config.model_copy(update={"search": config.search.model_copy(update={"warm_start": runs})}))
    empty, broken, version, without = caught.value.errors
    assert "empty holds no search" in empty and "study.journal is damaged" in broken
    assert "other: its search.yaml is no config of this version (model.layers: unknown key" in version
    assert "unbegun holds no study.journal" in without and not (unbegun / JOURNAL).exists()


WIDE = parse_config(
    {
        "space": {
            **SPACE,
            "model.layers_per_stage": {"int": [1, 3]},
            "model.residual": {"choice": [True, False], "when": {"model.layers_per_stage": [2, 3]}},
            "model.pooling": {"choice": ["none", "max", "avg"], "per_layer": True},
            "optimizer.name": {"choice": ["sgd", "adam", "muon"]},
            "optimizer.other_learning_rate": {"float": [0.01, 1.0], "log": True, "when": {"optimizer.name": "muon"}},
            "model.width": {"int": [4, 256], "per_layer": True},
            "model.padding": {"choice": [0, "same"]},
            "model.batch_norm": {"choice": [True, False]},
            "model.dropout": {"float": [0.0, 0.5], "step": 0.1, "when": {"model.batch_norm": False}},
        }
    },
    {},
).search_space


@given(st.integers(0, 2**31))
def test_every_point_of_a_space_is_found_again(seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    params = WIDE.suggest(study.ask())
    config = WIDE.apply(params)
    assert WIDE.nearest(config) == (params, {})
    assert differences(config, WIDE.apply(WIDE.nearest(config)[0])) == []
