"""What a search will cost, against values computed by hand."""

from pathlib import Path

import pytest

from search.config import SearchConfig, load_config, parse_config
from search.estimate import (
    LEARNED_SHARE,
    Measurement,
    affordable_trials,
    expected_bytes,
    expected_epochs,
    expected_seconds,
    feasible_share,
    sample_networks,
    simulate_epochs,
)
from training import new_state, save_checkpoint
from training.checkpoint import checkpoint_bytes
from training.config import OptimizerConfig
from training.data import TrainData

DIGITS = load_config(Path(__file__).parents[2] / "configs" / "digits.yaml")
MEASURED = Measurement({"CPU": 1.0}, 2, start_up_seconds=10.0, defaults_seconds=4.0, sampled_seconds=(1.0, 3.0))


def config_with(epochs: int = 9, scheduler: str = "asha", **search: object) -> SearchConfig:
    return parse_config({"train": {"epochs": epochs}, "scheduler": {"name": scheduler}, "search": search}, {})


def test_epochs_without_a_scheduler_or_with_a_single_rung_are_exact() -> None:
    epochs = expected_epochs(config_with(scheduler="none"), 7, slots=2)
    assert (epochs.lowest, epochs.expected, epochs.highest, epochs.checkpoints) == (63, 63, 63, 14)
    epochs = expected_epochs(config_with(epochs=1), 7, slots=2)
    assert (epochs.lowest, epochs.expected, epochs.highest, epochs.checkpoints) == (7, 7, 7, 7)


def test_the_simulated_search_stops_trials_at_the_rungs_and_never_trial_0() -> None:
    epochs = simulate_epochs(config_with(), 90, slots=2, seed=0)
    assert len(epochs) == 90 and set(epochs) == {1, 3, 9} and epochs[0] == 9
    assert 15 < sum(each > 1 for each in epochs) < 45  # a third, and the early ones
    assert simulate_epochs(config_with(), 90, slots=2, seed=0) == epochs


def test_the_expectation_lies_where_the_constant_says() -> None:
    few, many = expected_epochs(config_with(), 5, slots=2), expected_epochs(config_with(), 1000, slots=2)
    assert few.expected == few.lowest  # nothing is learned yet
    share = (many.expected - many.lowest) / (many.highest - many.lowest)
    assert share == pytest.approx(LEARNED_SHARE * 0.99) and many.highest == 9000
    # a third of 1,000 trains 3 epochs, a ninth 9: 1000 + 2 * 333 + 6 * 111, and early trials, of which too many go on
    assert 2300 < many.lowest < 2300 * 1.2


def test_seconds_are_start_up_training_by_slots_and_shut_down(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"EPOCH_OVERHEAD_SECONDS": 0.1, "TRIAL_OVERHEAD_SECONDS": 1.0, "SHUTDOWN_SECONDS": 5.0}.items():
        monkeypatch.setattr(f"search.estimate.{name}", value)
    # 9 epochs of trial 0 at 4 s, 20 others at 2 s, 29 x 0.1 s and 6 x 1 s, on two slots
    assert expected_seconds(config_with(), 6, 29, MEASURED) == pytest.approx(10 + (36 + 40 + 2.9 + 6) / 2 + 5)
    assert expected_seconds(config_with(), 1, 9, MEASURED) == pytest.approx(10 + (36 + 0.9 + 1) / 1 + 5)


def test_a_time_budget_affords_the_trials_that_end_within_it() -> None:
    config = config_with(time_budget="20m")
    num_trials = affordable_trials(config, MEASURED)
    epochs = expected_epochs(config, num_trials, MEASURED.slots).expected
    assert expected_seconds(config, num_trials, epochs, MEASURED) == pytest.approx(1200, rel=0.05)
    assert affordable_trials(config_with(time_budget="10s"), MEASURED) == 0


def test_bytes_are_two_checkpoints_of_trial_0_and_the_others_and_small_files() -> None:
    assert expected_bytes(4, 6.0, 1_000_000, [2_000_000, 4_000_000]) == 2_000_000 + 4 * 3_000_000 + 4 * 40_000
    assert expected_bytes(1, 2.0, 1_000_000, []) == 2_040_000


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [
        ({"name": "sgd", "momentum": 0.9}, 2),
        ({"name": "sgd", "momentum": 0.0}, 1),
        ({"name": "adam"}, 3),
        ({"name": "adamw"}, 3),
        ({"name": "rmsprop", "momentum": 0.9}, 3),
        ({"name": "rmsprop", "momentum": 0.0}, 2),
    ],
)
def test_a_checkpoint_holds_the_weights_and_the_averages_of_its_optimizer(
    optimizer: dict[str, object], copies: int, quick: SearchConfig, quick_data: TrainData, tmp_path: Path
) -> None:
    config = quick.base.override({"model.width": 64, **{f"optimizer.{key}": value for key, value in optimizer.items()}})
    state = new_state(config, quick_data)
    for parameter in state.model.parameters():
        parameter.grad = parameter.detach().clone()
    state.optimizer.step()
    save_checkpoint(state, tmp_path / "checkpoint")
    num_params = sum(parameter.numel() for parameter in state.model.parameters())
    expected = checkpoint_bytes(config.optimizer, num_params)
    assert expected == 4 * num_params * copies + checkpoint_bytes(OptimizerConfig(), 0)
    assert sum(file.stat().st_size for file in (tmp_path / "checkpoint").iterdir()) == pytest.approx(expected, rel=0.05)


def test_the_networks_that_are_measured_are_feasible_and_the_same_each_time() -> None:
    sampled = sample_networks(DIGITS, 10, 5)
    assert len(sampled) == 5 and sampled == sample_networks(DIGITS, 10, 5)
    assert 0.2 < feasible_share(DIGITS, 10, proposals=100) < 0.8
