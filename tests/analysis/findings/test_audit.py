"""Stopped trials that went on: numbers by hand and against scipy, the stopping rule against one told in a loop."""

import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import TrialState
from scipy import stats

from analysis import load_search
from analysis.evaluating.statistics import wilson_interval
from analysis.figures import audit_pictures
from analysis.figures.style import to_svg
from analysis.findings.audit import (
    Audit,
    advised_grace,
    audit_data,
    curve_matrix,
    grace_data,
    load_audit,
    rank_correlation_data,
    replay,
    stopping_data,
    whole_curves,
)
from analysis.findings.audit_report import advice, audit_json, audit_rows, audit_sentences
from search.record.rungs import cutoff, rung_epochs

EPOCHS = 4
Curves = dict[int, list[float]]


def tables(curves: Curves, states: dict[int, str], **columns: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(trials, epochs) of trials with these val accuracies, COMPLETE or as said: asha, diverged, running, fail."""
    words = {"asha": "PRUNED", "diverged": "PRUNED", "running": "RUNNING", "fail": "FAIL"}
    trials = [
        {
            "number": number,
            "state": words.get(states.get(number, ""), "COMPLETE"),
            "stopped_by": states[number] if states.get(number) in ("asha", "diverged") else None,
            "val_accuracy": curve[-1],
            "epochs": len(curve),
        }
        for number, curve in curves.items()
    ]
    epochs = [
        {"number": number, "epoch": epoch, "val_accuracy": value}
        for number, curve in curves.items()
        for epoch, value in enumerate(curve, start=1)
    ]
    names = ["number", "state", "stopped_by", "val_accuracy", "epochs"]
    frames = pd.DataFrame(trials, columns=names), pd.DataFrame(epochs, columns=["number", "epoch", "val_accuracy"])
    return frames[0].assign(**columns), frames[1]


def audit_of(
    search: Curves, audited: Curves, states: dict[int, str] | None = None, epochs: int = EPOCHS, sources: Any = None
) -> Audit:
    """An audit of the trials of `search` with fewer epochs; audited: source number -> curve; states of those.

    `sources`: the source numbers, if they are not the keys of `audited`.
    """
    stopped = {number: "asha" for number, curve in search.items() if len(curve) < epochs}
    endings = {number: (states or {}).get(source, "") for number, source in enumerate(audited)}
    numbers = pd.Series(list(audited) if sources is None else sources, dtype="Int64")
    return audit_data(
        results_of(*tables(search, stopped), epochs),
        *tables(dict(enumerate(audited.values())), endings, source_number=numbers),
        [],
    )


def results_of(trials: pd.DataFrame, epochs_table: pd.DataFrame, epochs: int = EPOCHS) -> Any:
    """What an audit asks of a search's results."""
    return SimpleNamespace(
        trials=trials,
        epochs=epochs_table,
        config=SimpleNamespace(train=SimpleNamespace(epochs=epochs)),
        settings=SimpleNamespace(scheduler=SimpleNamespace(grace_epochs=1, reduction_factor=2.0)),
        place="runs/a search",
    )


SEARCH: Curves = {0: [0.4, 0.5, 0.6, 0.7], 1: [0.2], 2: [0.3], 3: [0.5, 0.55], 4: [0.5, 0.6, 0.7, 0.8], 5: [0.1]}
AUDITED: Curves = {2: [0.3, 0.5, 0.7, 0.85], 3: [0.5, 0.55, 0.6, 0.82], 5: [0.1, 0.2, 0.3, 0.4]}


def test_what_became_of_the_audited():
    audit = audit_of(SEARCH, AUDITED)
    assert audit.population == 4 and audit.best == (4, 0.8)
    rows = audit.trials.set_index("number")
    assert rows["epoch"].to_dict() == {2: 1, 3: 2, 5: 1}
    assert rows["accuracy"].to_dict() == {2: 0.3, 3: 0.55, 5: 0.1}
    assert rows["final_accuracy"].to_dict() == {2: 0.85, 3: 0.82, 5: 0.4}
    assert rows["above"].to_dict() == {2: True, 3: True, 5: False}
    found = stopping_data(audit)
    assert (found["n"], found["above"], found["share"]) == (3, 2, pytest.approx(2 / 3))
    assert found["interval"] == wilson_interval(2, 3)
    assert found["regret"] == pytest.approx(0.05)
    assert found["expected_regret"] == pytest.approx((0.05 + 0.02 + 0) / 3)
    everyone = stopping_data(audit_of(SEARCH, {**AUDITED, 1: [0.2, 0.3, 0.3, 0.4]}))
    assert everyone["interval"] == (0.5, 0.5)  # nothing is sampled


@pytest.mark.parametrize(
    ("search", "audited", "states", "sources", "endings", "n", "above"),
    [
        # One that diverged is not above; one that failed or is running does not count.
        (SEARCH, AUDITED, {5: "diverged", 3: "fail"}, None, "complete failed diverged", 2, 1),
        (SEARCH, AUDITED, {5: "running"}, None, "complete complete running", 2, 2),
        # A level final accuracy is not above; 0 was not stopped, and 77 is no trial of this search.
        (SEARCH, {5: [0.1, 0.2, 0.3, 0.8], 0: [0.9] * 4, 77: [0.9] * 4}, {}, None, "complete", 1, 0),
        (SEARCH, {0: [0.3, 0.4], 1: AUDITED[2]}, {0: "fail"}, [2, 2], "complete", 1, 1),  # twice: its known end
        ({0: [0.1], 1: [0.2]}, {1: [0.2, 0.3, 0.4, 0.5]}, {}, None, "complete", 1, None),  # nothing to compare with
        (SEARCH, {}, {}, None, "", 0, None),
    ],
)
def test_what_counts(search, audited, states, sources, endings, n, above):
    audit = audit_of(search, audited, states, sources=sources)
    assert audit.trials["ending"].tolist() == endings.split()
    found = stopping_data(audit)
    assert (found["n"], found["above"]) == (n, above)
    assert audit_sentences(audit) and "nan" not in " ".join(audit_sentences(audit))


def many_curves(trials: int, epochs: int, seed: int, crossing: bool = False) -> np.ndarray[Any, Any]:
    """(trials, epochs): curves that keep their order or, crossing, begin in the opposite one."""
    final = np.random.default_rng(seed).permutation(np.linspace(0.5, 0.9, trials))
    along = np.linspace(0, 1, epochs)
    start = (1.2 - final if crossing else final - 0.3)[:, None]
    return start + along * (final[:, None] - start)


def search_and_audit(curves: np.ndarray[Any, Any], complete: int, audited: int) -> Audit:
    """The first `complete` trials were trained to the end, the others stopped after an epoch, some of them audited."""
    search = {number: list(curve) if number < complete else [curve[0]] for number, curve in enumerate(curves)}
    return audit_of(
        search,
        {complete + number: list(curves[complete + number]) for number in range(audited)},
        epochs=curves.shape[1],
    )


def test_rank_correlation_of_audited_alone_and_of_all():
    generator = np.random.default_rng(4)
    curves = generator.random((30, EPOCHS))
    audit = search_and_audit(curves, complete=6, audited=8)  # each audited one stands for 24 / 8 = 3
    data = rank_correlation_data(audit).set_index(["group", "epoch"])
    assert data.index.tolist() == [(group, epoch) for group in ("stopped", "all") for epoch in (1, 2, 3)]
    alone = stats.spearmanr(curves[6:14, 1], curves[6:14, 3]).statistic
    assert data["rho"]["stopped", 2] == pytest.approx(alone)
    weighted = np.concatenate([curves[:6], np.repeat(curves[6:14], 3, axis=0)])
    assert data["rho"]["all", 2] == pytest.approx(stats.spearmanr(weighted[:, 1], weighted[:, 3]).statistic)
    assert data["n"].unique().tolist() == [8, 14]
    assert ((data["low"] <= data["rho"]) & (data["rho"] <= data["high"])).all()
    again = rank_correlation_data(search_and_audit(curves, complete=6, audited=8))
    pd.testing.assert_frame_equal(again, data.reset_index())


def test_the_bootstrap_interval_is_scipys():
    generator = np.random.default_rng(0)
    x = generator.random(40)
    y = x + generator.normal(0, 0.3, 40)
    curves = np.stack([x, y], axis=1)
    audit = search_and_audit(np.concatenate([[[0.9, 0.9]], curves]), complete=1, audited=40)
    row = rank_correlation_data(audit).iloc[0]
    expected = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=1000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert (row["low"], row["high"]) == pytest.approx(tuple(expected), abs=0.04)


def test_a_curve_with_a_gap_is_left_out():
    search = results_of(*tables(SEARCH, dict.fromkeys((1, 2, 3, 5), "asha")))
    audited, curves = tables({0: AUDITED[2], 1: AUDITED[3]}, {}, source_number=pd.Series([2, 3], dtype="Int64"))
    curves = curves[(curves["number"] != 1) | (curves["epoch"] != 2)]
    audit = audit_data(search, audited, curves, [])
    assert whole_curves(audit) == 1 and stopping_data(audit)["n"] == 2
    matrix, weights, is_stopped = curve_matrix(audit)
    assert matrix[is_stopped].tolist() == [AUDITED[2]] and matrix[~is_stopped].tolist() == [SEARCH[0], SEARCH[4]]
    assert weights[is_stopped].tolist() == [4.0] and weights[~is_stopped].tolist() == [1.0, 1.0]


def slow_replay(curves: np.ndarray[Any, Any], grace: int, factor: float) -> tuple[float, float]:
    """The stopping rule told in a loop: below the cut-off of the values at a rung a trial ends."""
    there, trained = list(range(len(curves))), 0
    for epoch in range(1, curves.shape[1] + 1):
        trained += len(there)
        if epoch in rung_epochs(grace, factor, curves.shape[1]):
            limit = cutoff(curves[there, epoch - 1], factor)
            there = [number for number in there if curves[number, epoch - 1] >= limit - 1e-9]  # of rounding
    return curves[:, -1].max() - curves[there, -1].max(), trained / curves.size


@given(
    st.integers(1, 40), st.integers(1, 12), st.sampled_from([1, 2, 5]), st.sampled_from([2, 3, 4]), st.integers(0, 99)
)
def test_replay_is_the_slow_one(trials: int, epochs: int, grace: int, factor: float, seed: int):
    generator = np.random.default_rng(seed)
    curves = generator.permuted(np.arange(trials * epochs, dtype=float)).reshape(trials, epochs) / 1024
    drawn = np.stack([generator.permutation(trials) for _ in range(3)])
    losses, shares = replay(curves, drawn, min(grace, epochs), factor)
    loss, share = slow_replay(curves, min(grace, epochs), factor)
    assert losses == pytest.approx([loss] * 3)
    assert shares == pytest.approx([share] * 3)


def test_curves_that_keep_their_order_need_no_grace():
    audit = search_and_audit(many_curves(40, 8, 0), complete=10, audited=20)
    data = grace_data(audit)
    assert (data["safe_share"] == 1).all() and (data["mean_loss"] == 0).all()
    assert advised_grace(data) == 1
    said = audit_sentences(audit)
    assert advice(audit)[1] is None
    assert "1 epoch, 100 % of the replays" in said[-1] and said[-1].endswith("it is right as it is.")


def test_curves_that_cross_advise_a_grace_period_after_the_crossing():
    # The order is the opposite until 1.2 - f + t (2 f - 1.2) stops falling with f: at t = 1/2, epoch 4.5 of 8.
    audit = search_and_audit(many_curves(40, 8, 0, crossing=True), complete=10, audited=20)
    data = grace_data(audit).set_index("grace_epochs")
    assert data["safe_share"][[1, 2]].max() < 0.2 and data["safe_share"][[5, 8]].min() == 1
    assert advised_grace(data.reset_index()) == 5
    assert data["epoch_share"].is_monotonic_increasing and data["epoch_share"][8] == 1
    assert advice(audit)[1] == (
        "python run_search.py --config 'runs/a search/search.yaml' --warm-start 'runs/a search' "
        "--set scheduler.grace_epochs=5"
    )


def test_replays_draw_each_curve_as_often_as_the_trials_it_stands_for():
    # Trial 0, the only COMPLETE one, begins last and ends first; 20 audited ones stand for 2,000. It is lost in the
    # replays that draw it: with 1,000 draws of 1 in 2,001 a share of 0.393.
    curves = many_curves(2001, 4, 0)
    curves[0] = [0.0, 0.0, 0.0, 0.99]
    data = grace_data(search_and_audit(curves, complete=1, audited=20)).set_index("grace_epochs")
    assert 1 - data["safe_share"][1] == pytest.approx(1 - (2000 / 2001) ** 1000, abs=0.06)


def test_where_only_the_end_tells_no_stopping_is_advised():
    curves = many_curves(40, 4, 0)
    curves[:, :-1] = 1 - curves[:, :-1]
    command = advice(search_and_audit(curves, complete=10, audited=20))[1]
    assert command is not None and command.endswith("--set scheduler.name=none")


def test_fewer_than_twenty_say_how_many_more():
    said, command = advice(search_and_audit(many_curves(40, 8, 0), complete=10, audited=13))
    assert "7 more are needed" in said
    assert command == "python run_search.py --audit 'runs/a search' --trials 20"
    said = audit_sentences(search_and_audit(many_curves(20, 8, 0), complete=10, audited=5))
    assert said[-1].startswith("ASHA stopped only 10 trials")


def test_audit_is_read_from_a_run_directory(search_run, trained):
    assert load_audit(load_search(search_run.path)) is None
    run = type(search_run)(search_run.path / "audit")
    # Stopped after an epoch and gone on: the journal has the second epoch alone, meta.json both.
    curve = run.recorded(trained["defaults"][-1])
    run.study.enqueue_trial(run.DEFAULTS)
    trial = run.study.ask()
    trial.set_user_attr("source_number", 3)
    trial.report(curve[1], 2)
    run.study.tell(trial, curve[1])
    run.checkpoint(0, trained["defaults"][-1], 1)
    run.trial([0.5], TrialState.FAIL, source_number=3)
    audit = load_audit(load_search(search_run.path))
    assert audit.population == 1 and audit.rungs == [1] and not audit.problems
    assert audit.trials[["number", "epoch", "accuracy", "final_accuracy"]].values.tolist() == [[3, 1, 0.05, curve[1]]]
    assert audit.curves[audit.curves["group"] == "stopped"]["val_accuracy"].tolist() == curve
    (search_run.path / "audit" / "search.yaml").write_text("[")
    damaged = load_audit(load_search(search_run.path))
    assert damaged.trials.empty and "cannot be read as YAML" in audit_sentences(damaged)[0]


@pytest.mark.parametrize(("complete", "audited", "epochs"), [(1, 0, 1), (1, 1, 2), (2, 301, 3)])
def test_pictures_rows_and_json_of_any_size(complete: int, audited: int, epochs: int):
    audit = search_and_audit(many_curves(complete + audited + 3, epochs, 0, crossing=True), complete, audited)
    assert rank_correlation_data(audit).empty == (audited < 5)
    for picture in audit_pictures(audit):
        svg = to_svg(picture.figure, picture.name)
        assert svg.startswith("<svg") and len(svg) < 1_500_000 and "nan" not in picture.sentence
    rows = audit_rows(audit)
    assert [row["final_accuracy"] for row in rows] == sorted((row["final_accuracy"] for row in rows), reverse=True)
    assert json.loads(json.dumps(audit_json(audit)))["audited_trials"] == audited == len(rows)
