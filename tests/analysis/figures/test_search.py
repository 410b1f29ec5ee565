"""How a search went, on tables made by hand, and against the benchmark's own busy share."""

from pathlib import Path

import busy
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis import figures
from analysis.figures.cores import startup_seconds
from analysis.figures.search_time import pauses, search_minutes
from analysis.figures.style import ENDINGS, Picture, to_svg
from analysis.reading.results import BestTrial, SearchResults
from analysis.reading.tables import EPOCH_DTYPES, TRIAL_DTYPES, typed_table
from search.config import SchedulerConfig, SearchConfig
from search.record.endings import Ending, Infeasible
from training.config import TrainConfig

ASHA = SchedulerConfig(name="asha", grace_epochs=1, reduction_factor=3.0)
NO_ASHA = SchedulerConfig(name="none")
HOSTILE = ("<script>alert(1)</script>", "$\\frac{", "--> x", "日本語 \ud800", "W" * 300, "line\nbreak\x00", " ", None)


def at(minutes: float) -> pd.Timestamp:
    return pd.Timestamp("2030-01-01", tz="UTC") + pd.Timedelta(minutes=minutes)


def trials_table(rows: list[dict]) -> pd.DataFrame:
    """Rows with a state, and what else is known; numbers count up."""
    defaults = {"started_at": at(0), "epochs": 0}
    return typed_table([{**defaults, "number": number, **row} for number, row in enumerate(rows)], TRIAL_DTYPES)


def epochs_table(curves: dict[int, list[float]], minutes: dict[int, list[float]] | None = None) -> pd.DataFrame:
    """val accuracies by trial number; `minutes`: start of the first epoch, then the end of each."""
    rows = []
    for number, values in curves.items():
        ends = (minutes or {}).get(number, [number + step / 10 for step in range(len(values) + 1)])
        for epoch, (value, start, end) in enumerate(zip(values, ends, ends[1:], strict=False), start=1):
            seconds = 60 * (end - start)
            row = {"epoch": epoch, "val_accuracy": value, "finished_at": at(end), "epoch_seconds": seconds}
            rows.append({"number": number, **row})
    return typed_table(rows, EPOCH_DTYPES)


def results_of(
    trials: pd.DataFrame, epochs: pd.DataFrame, best: int | None, train_epochs: int, **options
) -> SearchResults:
    return SearchResults(
        run=Path("run"),
        settings=SearchConfig(train=TrainConfig(epochs=train_epochs), scheduler=options.get("scheduler", ASHA)),
        environment=options.get("environment", []),
        trials=trials,
        epochs=epochs,
        best_trial=None if best is None else BestTrial(best, 0.5, train_epochs, {}, False),
        params={},
        infeasible=options.get("infeasible", {}),
    )


def by_name(results: SearchResults) -> dict[str, Picture]:
    """Its pictures, each drawn."""
    pictures = figures.search_pictures(results)
    for picture in pictures:
        assert to_svg(picture.figure, picture.name).startswith("<svg")
    return {picture.name: picture for picture in pictures}


# The best val accuracy over time and epochs


def test_the_incumbent_is_the_best_of_complete_trials_in_the_order_they_ended_and_so_are_epochs_counted():
    trials = trials_table(
        [
            {"state": "COMPLETE", "val_accuracy": 0.5, "finished_at": at(6)},
            {"state": "PRUNED", "stopped_by": "asha", "val_accuracy": 0.9, "finished_at": at(2)},
            {"state": "COMPLETE", "val_accuracy": 0.4, "finished_at": at(7)},
            {"state": "COMPLETE", "val_accuracy": 0.7, "finished_at": at(9)},
            {"state": "RUNNING", "val_accuracy": 0.6},
            *refused(None),
        ]
    )
    minutes = {0: [0, 3, 6], 1: [0, 2], 2: [6, 7], 3: [2, 5, 9], 4: [6, 7, 12]}
    epochs = epochs_table({0: [0.4, 0.5], 1: [0.9], 2: [0.4], 3: [0.6, 0.7], 4: [0.5, 0.6]}, minutes)
    data = figures.incumbent_data(trials, [], epochs)
    assert data["number"].tolist() == [1, 0, 2, 3] and data["minutes"].tolist() == [2, 6, 7, 9]
    assert data["epochs_before"].tolist() == [1, 4, 6, 7]  # ends: 2, 3, 5, 6, 7, 7, 9 and, after the last trial's, 12
    assert data["best"].tolist()[1:] == [0.5, 0.5, 0.7] and np.isnan(data["best"][0])
    assert data["ending"].tolist() == ["asha", "complete", "complete", "complete"]
    sentence = figures.incumbent_sentence(data)
    assert "70.00 %" in sentence and "trial 3 after 9 min 0 s and 7 epochs, as number 4 of 4 to end." in sentence


def test_an_epoch_without_a_time_counts_when_its_trial_has_ended_and_never_later_than_that():
    trials = [{"state": "COMPLETE", "val_accuracy": 0.5, "finished_at": at(end)} for end in (4, 8)]
    epochs = epochs_table({0: [0.4, 0.5], 1: [0.5], 2: [0.5]}, {0: [0, 2, 4.001], 1: [4, 8], 2: [0, 1]})
    epochs.loc[[0, 3], "finished_at"] = pd.NaT  # of trial 0, and of the trial that has no end
    data = figures.incumbent_data(trials_table([*trials, {"state": "RUNNING"}]), [], epochs)
    assert data["epochs_before"].tolist() == [2, 3]


def test_of_equal_trials_the_first_has_won_and_it_is_said_how_long_nothing_better_came():
    rows = [{"state": "COMPLETE", "val_accuracy": value, "finished_at": at(end)} for value, end in ((0.5, 2), (0.5, 5))]
    epochs = epochs_table({0: [0.5], 1: [0.4, 0.5]}, {0: [0, 2], 1: [2, 3, 5]})
    sentence = figures.incumbent_sentence(figures.incumbent_data(trials_table(rows), [], epochs))
    assert "trial 0 after 2 min 0 s and 1 epoch, as number 1 of 2 to end" in sentence
    assert sentence.endswith("nothing better came in the 3 min 0 s and 2 epochs after it.")


def test_epochs_that_outlived_the_last_trial_are_no_part_of_the_pause():
    trials = trials_table(
        [
            {"state": "COMPLETE", "val_accuracy": 0.5, "finished_at": at(2)},
            {"state": "COMPLETE", "val_accuracy": 0.6, "finished_at": at(102)},
        ]
    )
    epochs = epochs_table({0: [0.5], 1: [0.5, 0.6]}, {0: [0, 2], 1: [2, 5, 102]})
    environment = [{"started_at": at(minute).isoformat()} for minute in (0, 100)]
    assert figures.incumbent_data(trials, environment, epochs)["minutes"].tolist() == [2, 7]


def test_the_incumbent_is_drawn_over_time_and_epochs_with_the_level_of_a_complete_trial_0():
    rows = [{"state": "COMPLETE", "val_accuracy": 0.4, "finished_at": at(1)}]
    rows += [{"state": "COMPLETE", "val_accuracy": 0.5, "finished_at": at(3)}]
    epochs = epochs_table({0: [0.4], 1: [0.3, 0.5]}, {0: [0, 1], 1: [1, 2, 3]})

    def lines() -> list[dict[str, list[float]]]:
        figure = figures.plot_incumbent(figures.incumbent_data(trials_table(rows), [], epochs))
        return [{line.get_label(): list(line.get_ydata()) for line in axes.lines} for axes in figure.axes]

    for panel in lines():
        assert panel["best so far"] == pytest.approx([40, 50, 50])
        assert panel["trial 0, the defaults"] == pytest.approx([40, 40])
    rows[0] |= {"state": "PRUNED", "stopped_by": "time_budget"}  # its accuracy is no level of a finished training
    assert all("trial 0, the defaults" not in panel for panel in lines())


def test_the_pause_before_a_resume_is_no_search_time_and_that_before_two_in_a_row_counts_once():
    moments = pd.Series([at(0), at(5), at(100), at(103)])
    for started in ([at(0), at(98)], [at(0), at(50), at(98)]):
        stops = pauses(started, moments)
        assert stops == {at(5): at(98)}
        assert search_minutes(moments, at(0), stops).tolist() == [0, 5, 7, 10]
    assert search_minutes(moments, at(0), {}).tolist() == [0, 5, 100, 103]


# Rungs


def rung_search() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rungs at 1 and 3 of 9 epochs: two trials go all the way, one stops at each rung, the others end otherwise."""
    trials = trials_table(
        [
            {"state": "COMPLETE"},
            {"state": "PRUNED", "stopped_by": "asha"},
            {"state": "PRUNED", "stopped_by": "asha"},
            {"state": "COMPLETE"},
            {"state": "RUNNING"},
            {"state": "PRUNED", "stopped_by": "diverged"},
            {"state": "FAIL", "reason": "gone"},
            {"state": "PRUNED", "stopped_by": "infeasible"},
        ]
    )
    late = [0.5, 0.6, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.9]
    curves = {0: [0.3, 0.4, 0.5, *late[3:]], 1: [0.3], 2: [0.4, 0.5, 0.45], 3: late, 4: [0.6, 0.1], 5: [0.05], 6: [0.2]}
    return trials, epochs_table(curves)


def test_trials_are_compared_after_the_epoch_of_the_rung_whatever_came_later():
    judged = figures.judged_data(*rung_search(), [1, 3], 3.0)
    first, second = (judged[judged["rung"] == rung] for rung in (1, 3))
    assert first["number"].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert first["val_accuracy"].tolist() == [0.3, 0.3, 0.4, 0.5, 0.6, 0.05, 0.2]
    outcomes = ["went on", "stopped", "went on", "went on", "went on", "no verdict", "no verdict"]
    assert first["outcome"].tolist() == outcomes
    assert second["number"].tolist() == [0, 2, 3]  # trial 4 has not got there
    assert second["val_accuracy"].tolist() == [0.5, 0.45, 0.7]
    assert second["outcome"].tolist() == ["went on", "stopped", "went on"]
    assert np.isnan(first["cutoff"].iloc[0]) and np.isnan(second["cutoff"].iloc[0])
    # two thirds of the way up the sorted values before: of (0.3, 0.3, 0.4) at index 4/3, of (0.45, 0.5) at 2/3
    assert first["cutoff"].iloc[3] == pytest.approx(0.3 + 0.1 / 3)
    assert second["cutoff"].iloc[2] == pytest.approx(0.45 + 0.05 * 2 / 3)


def test_each_rung_says_who_was_stopped_with_how_much():
    judged = figures.judged_data(*rung_search(), [1, 3], 3.0)
    table = figures.rungs_data(judged)
    assert table.to_numpy().tolist() == [[1, 7, 1, 4, 0.3, 0.3], [3, 3, 1, 2, 0.45, 0.5]]
    sentence = figures.rungs_sentence(judged, best=3)
    assert "after epoch 1: 7 trials, 1 stopped (the best at 30.00 %), 4 went on (the lowest at 30.00 %)." in sentence
    assert sentence.endswith("The best trial, 3, was number 2 of 7 after epoch 1 and 1 of 3 after epoch 3.")


def test_a_running_trial_has_no_verdict_where_it_is():
    trials = trials_table([{"state": "RUNNING"}] * 2)
    judged = figures.judged_data(trials, epochs_table({0: [0.2] * 2, 1: [0.5]}), [1], 3.0)
    assert judged["outcome"].tolist() == ["went on", "no verdict"]


def test_a_rung_without_a_number_to_compare_is_passed_over():
    trials, epochs = rung_search()
    epochs.loc[(epochs["number"] == 5) & (epochs["epoch"] == 1), "val_accuracy"] = np.nan
    epochs = pd.concat([epochs, epochs_table({99: [0.9]})])  # belongs to no trial of the table
    judged = figures.judged_data(trials, epochs, [1], 3.0)
    assert judged["number"].tolist() == [0, 1, 2, 3, 4, 6]


def test_a_search_with_many_rungs_is_told_in_short():
    trials = trials_table([{"state": "PRUNED", "stopped_by": "asha"} for _ in range(20)])
    curves = epochs_table({number: [0.5] * (number + 1) for number in range(20)})
    judged = figures.judged_data(trials, curves, list(range(1, 30)), 1.1)
    sentence = figures.rungs_sentence(judged, best=19)
    assert "after epoch 3: 18 trials, 1 stopped" in sentence and "after epoch 4" not in sentence
    assert "At the later rungs, 17 more were stopped." in sentence
    assert len(figures.plot_rungs(judged, best=19).axes[0].get_xticklabels()) == 10


# Slots


def intervals_data(intervals: list[tuple[int, float, float]]) -> pd.DataFrame:
    """slots_data of one epoch after another: (number, start, end) in minutes."""
    rows = [
        {"number": n, "epoch": e, "finished_at": at(end), "epoch_seconds": 60 * (end - start)}
        for e, (n, start, end) in enumerate(intervals, start=1)
    ]
    trials = trials_table([{"state": "COMPLETE"}] * (1 + max((n for n, _, _ in intervals), default=0)))
    return figures.slots_data(trials, typed_table(rows, EPOCH_DTYPES), [])


@pytest.mark.parametrize(
    ("intervals", "slots"),
    [
        ([(0, 0, 1), (1, 0, 1.5), (1, 1.55, 3), (0, 1.6, 4), (2, 3.1, 5), (0, 4, 6), (3, 7, 8)], [0, 1, 1, 0, 1, 0, 0]),
        ([(0, 0, 1), (1, 0, 1), (2, 1.1, 2), (0, 1.2, 2)], [0, 1, 1, 0]),  # 0 is between epochs, 1 has ended
        ([(0, 0, 1.0001), (0, 1, 2)], [0, 0]),  # rounded
        ([(0, 0, 1.01), (0, 1, 2)], [0, 1]),
    ],
)
def test_a_trial_stays_in_its_slot_and_the_next_takes_that_of_one_that_has_ended(intervals, slots):
    data = intervals_data(intervals)
    assert data["number"].tolist() == [number for number, _, _ in intervals] and data["slot"].tolist() == slots
    assert data["start"].tolist() == pytest.approx([start for _, start, _ in intervals])
    assert data["end"].tolist() == pytest.approx([end for _, _, end in intervals])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=40))
def test_slots_are_as_many_as_trained_at_a_time_without_overlap_and_busy_as_the_benchmark_says(drawn):
    data = intervals_data([(number, start, start + length) for number, start, length in drawn])
    first = min(start for _, start, _ in drawn)
    at_a_time = max(sum(s <= minute < s + n for _, s, n in drawn) for minute in range(first, 81))
    assert set(data["slot"]) == set(range(at_a_time))
    for _, slot in data.groupby("slot"):
        assert (slot["start"].iloc[1:].to_numpy() >= slot["end"].iloc[:-1].to_numpy() - 1e-3).all()
    intervals: dict[int, list[tuple[float, float]]] = {}
    for number, start, length in sorted(drawn, key=lambda epoch: epoch[1]):
        intervals.setdefault(number, []).append((start, start + length))
    share = figures.busy_share(data)
    if len(intervals) <= at_a_time or len({trial[0][0] for trial in intervals.values()}) == 1:
        assert np.isnan(share)
    else:
        assert share == pytest.approx(busy.busy_share(intervals, at_a_time)[0])


def test_the_busy_share_of_a_search_counted_by_hand():
    # Slots 0 and 1; from 0 to the start of trial 3 at minute 8: 4 + 3 and 6 + 1.5 of 16 minutes train.
    data = intervals_data([(0, 0, 4), (1, 0, 6), (2, 4.5, 7.5), (4, 6.5, 8.5), (3, 8, 12)])
    assert data["slot"].tolist() == [0, 1, 0, 1, 0]
    assert figures.busy_share(data) == pytest.approx(14.5 / 16)
    sentence = figures.slots_sentence(data, 75.0)
    assert "Up to 2 trials trained at a time. Of the 8 min 0 s " in sentence
    assert "spent 90.6 % training (5 trials, 5 epochs). The first epoch began 1 min 15 s after" in sentence


def test_pauses_and_epochs_without_times_are_left_out_of_the_slots():
    trials = trials_table([{"state": "COMPLETE"}, {"state": "RUNNING"}])
    epochs = epochs_table({0: [0.5, 0.5], 1: [0.5, 0.5, 0.5]}, {0: [1, 3, 5], 1: [5, 6, 103, 104]})
    epochs.loc[3, "epoch_seconds"] = 120.0  # after the resume, from 101 to 103
    epochs.loc[4, "finished_at"] = pd.NaT
    environment = [{"started_at": at(0).isoformat()}, {"started_at": at(100).isoformat()}, {"started_at": "damaged"}]
    data = figures.slots_data(trials, epochs, environment)
    assert data["start"].tolist() == pytest.approx([0, 2, 4, 6])
    assert data["end"].tolist() == pytest.approx([2, 4, 5, 8])
    assert data["ending"].tolist() == ["complete", "complete", "running", "running"]
    assert startup_seconds(epochs, environment) == pytest.approx(60)


def test_the_start_up_is_that_of_the_start_that_trained():
    epochs = epochs_table({0: [0.5]}, {0: [61, 62]})
    starts = [{"started_at": at(minute).isoformat()} for minute in (0, 60, 90)]
    assert startup_seconds(epochs, starts) == pytest.approx(60)
    assert np.isnan(startup_seconds(epochs, []))
    assert np.isnan(startup_seconds(epochs_table({}), starts))


def test_every_ending_has_its_curves():
    rows = [{"state": "COMPLETE"}, {"state": "FAIL"}, {"state": "RUNNING"}]
    rows += [{"state": "PRUNED", "stopped_by": by} for by in ("asha", "diverged", "time_budget")]
    data = figures.learning_curves_data(trials_table(rows), epochs_table({number: [0.5] for number in range(6)}))
    assert list(data) == [ending for ending in Ending if ending != Ending.INFEASIBLE]
    titles = [axes.get_title(loc="left") for axes in figures.plot_learning_curves(data, best=0).axes]
    assert titles == [f"{ENDINGS[ending]}: 1" for ending in data]


# Infeasible and failed


def refused(*reasons: str | None) -> list[dict]:
    return [{"state": "PRUNED", "stopped_by": "infeasible", "reason": reason} for reason in reasons]


def test_infeasible_proposals_are_counted_by_kind_and_those_without_one_by_their_text():
    words = ["impossible network: conv3", "params 1,200,300 > 5", "impossible network: pool5", None, "params 9 > 5"]
    trials = trials_table([*refused(*words, "kernel 7 > 3", "kernel 7 > 3", "kernel 5 > 3"), {"state": "COMPLETE"}])
    kinds = {0: "impossible", 1: "max_params", 2: "impossible", 4: "max_params"}
    known = {number: Infeasible(kind, words[number]) for number, kind in kinds.items()}
    data = figures.reasons_data(trials, known)
    assert data.to_numpy().tolist() == [
        ["impossible network", 2, "impossible network: conv3"],
        ["above search.max_params", 2, "params 1,200,300 > 5"],
        ["kind not recorded", 2, "kernel 7 > 3"],
        ["kind not recorded", 1, "no reason recorded"],
        ["kind not recorded", 1, "kernel 5 > 3"],
    ]
    labels = [text.get_text() for text in figures.plot_reasons(data, proposals=9).axes[0].texts]
    assert labels[::2][:3] == [words[0], f"above search.max_params: {words[1]}", "kernel 7 > 3"]


def test_six_reasons_are_shown_and_the_rest_summed():
    reasons = [letter for index, letter in enumerate("abcdefghij") for _ in range(20 - index)]
    figure = figures.plot_reasons(figures.reasons_data(trials_table(refused(*reasons)), {}), proposals=310)
    assert [bar.get_width() for bar in figure.axes[0].patches] == [20, 19, 18, 17, 16, 15, 14 + 13 + 12 + 11]
    assert [text.get_text() for text in figure.axes[0].texts][12:] == ["4 other reasons", "50"]
    assert figure.axes[0].get_xlabel() == "infeasible proposals (155 of 310, 50.0 %)"
    trials = trials_table([*refused(*["kernel 9 > 3"] * 10, "other"), *[{"state": "COMPLETE"}] * 13]).iloc[::-1]
    sentence = figures.reasons_sentence(figures.reasons_data(trials, {}), trials)
    assert "11 of 24 proposals (45.8 %)" in sentence and "“kernel 9 > 3” (n = 10)" in sentence
    assert sentence.endswith("Of the first half of the proposals it was 91.7 %, of the second 0.0 %.")


def test_hostile_reasons_are_drawn_and_the_failed_are_counted():
    rows = refused(*HOSTILE)
    rows += [{"state": "FAIL", "reason": reason} for reason in ("worker\n1 died", "worker 1\ndied", *HOSTILE)]
    pictures = by_name(results_of(trials_table(rows), epochs_table({}), None, 9))
    figure = pictures["infeasible"].figure
    svg = to_svg(figure, "x")
    assert "script" not in svg and "frac" not in svg
    assert figure.axes[0].get_window_extent().width > 0.9 * figure.bbox.width  # the long one takes no room
    # " " and None are one, as common as the worker that died, and come after it
    sentence = pictures["learning_curves"].sentence
    assert "10 trials failed, most often for the reason “worker 1 died” (n = 2)." in sentence


# The pictures of whole searches


def test_pictures_come_in_the_order_of_the_story():
    trials, epochs = rung_search()
    results = results_of(trials, epochs, 3, 9)
    assert list(by_name(results)) == ["incumbent", "rungs", "cores", "learning_curves", "infeasible"]
    feasible = results_of(trials[trials["stopped_by"] != "infeasible"], epochs, 3, 9, scheduler=NO_ASHA)
    assert [picture.name for picture in figures.search_pictures(feasible)] == ["incumbent", "cores", "learning_curves"]


def test_a_search_of_one_trial_is_drawn():
    trials = trials_table([{"state": "COMPLETE", "val_accuracy": 0.5, "finished_at": at(0.9), "epochs": 9}])
    pictures = by_name(results_of(trials, epochs_table({0: [0.1, 0.2, 0.3, 0.4, *[0.5] * 5]}), 0, 9))
    assert "after 54 s and 9 epochs, as number 1 of 1 to end." in pictures["incumbent"].sentence
    assert pictures["rungs"].sentence.count("1 trial, 0 stopped, 1 went on") == 2
    assert "cannot be said yet" in pictures["cores"].sentence


@pytest.mark.parametrize("rows", [[], [{"state": "FAIL", "reason": "out of memory", "finished_at": at(1)}] * 3])
def test_a_search_without_an_epoch_says_so(rows):
    pictures = by_name(results_of(trials_table(rows), epochs_table({}), None, 9))
    assert list(pictures) == ["incumbent", "rungs", "cores", "learning_curves"]
    for picture in pictures.values():
        assert "yet" in picture.figure.texts[0].get_text() and " yet" in picture.sentence
    assert ("for the reason “out of memory” (n = 3)." in pictures["learning_curves"].sentence) == (len(rows) == 3)
