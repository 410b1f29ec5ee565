"""Words for people."""

import pytest

from training.messages import compact, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.123, "0.12 s"),
        (3.04, "3 s"),
        (9.97, "10 s"),
        (45.4, "45 s"),
        (59.6, "1 min 0 s"),
        (724, "12 min 4 s"),
        (11_520, "3 h 12 min"),
    ],
)
def test_a_duration_is_written_with_units_that_fit(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_large_numbers_are_written_with_a_prefix() -> None:
    assert [compact(number) for number in (812, 4e5, 3.51e7, 1.24e9)] == ["812", "400.0 k", "35.1 M", "1.2 G"]
