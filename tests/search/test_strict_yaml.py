"""YAML: what is written is read back, and numbers are those of YAML 1.2, wherever a config takes them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.command_line import overrides_of, parse
from search.config import load_config, parse_config
from search.strict_yaml import dump_yaml, parse_yaml

like_numbers = st.from_regex(r"[-+]?(0[ox]|\.)?[0-9a-f._:]{1,6}([eE][-+]?[0-9]+)?", fullmatch=True)
odd_texts = st.sampled_from(["yes", "null", "~", "<<", "=", ".inf", "-.INF", "2001-02-03", "a\x85", "\u2028"])
texts = st.text(st.characters(codec="utf-8")) | like_numbers | odd_texts
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_what_is_written_is_read_back(value: Any) -> None:
    assert repr(parse_yaml(dump_yaml(value))) == repr(value)  # in which 1, 1.0 and True differ, and nan is nan


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_as_python_writes_it_is_that_float(value: float) -> None:
    assert repr(parse_yaml(repr(value))) == repr(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("1e3", 1000.0), ("010", 10), ("0o17", 15), ("0x1F", 31), ("1:30", "1:30"), ("1_000", "1_000")],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: Any) -> None:
    assert repr(parse_yaml(text)) == repr(value)


def test_a_config_its_space_and_the_command_line_take_exponents_alike(tmp_path: Path) -> None:
    rate, entry = "1e-3", "{float: [1e-6, 1e-2], log: true}"
    file = tmp_path / "config.yaml"
    file.write_text(f"optimizer: {{learning_rate: {rate}}}\nspace: {{optimizer.learning_rate: {entry}}}")
    config = load_config(file)
    assert config.optimizer.learning_rate == 0.001
    assert config.space["optimizer.learning_rate"].real == (1e-6, 1e-2)
    sets = [f"--set=optimizer.learning_rate={rate}", f"--set=space.optimizer.learning_rate={entry}"]
    assert parse_config({}, overrides_of(parse(sets))[0]) == config
