"""The arithmetic of convolutions, against torch's own forward passes."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import conv2d

from training.geometry import InfeasibleError, conv_output_size


def per_axis(values: st.SearchStrategy[int]) -> st.SearchStrategy[int | tuple[int, int]]:
    return values | st.tuples(values, values)


def as_pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


@given(
    input_size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel_size=per_axis(st.integers(1, 6)),
    stride=per_axis(st.integers(1, 5)),
    padding=per_axis(st.integers(0, 4)),
    dilation=per_axis(st.integers(1, 4)),
)
def test_conv_output_size_is_what_torch_computes(input_size, kernel_size, stride, padding, dilation):
    images, weight = torch.zeros(1, 1, *input_size), torch.zeros(1, 1, *as_pair(kernel_size))
    try:
        expected = tuple(conv2d(images, weight, stride=stride, padding=padding, dilation=dilation).shape[2:])
    except RuntimeError:
        with pytest.raises(InfeasibleError):
            conv_output_size(input_size, kernel_size, stride, padding, dilation)
    else:
        assert conv_output_size(input_size, kernel_size, stride, padding, dilation) == expected


@given(st.integers(1, 12), st.integers(1, 6), st.integers(1, 5), st.integers(0, 4), st.integers(1, 4))
def test_conv_output_size_of_one_axis(input_size, kernel_size, stride, padding, dilation):
    try:
        expected = torch.conv1d(
            torch.zeros(1, 1, input_size), torch.zeros(1, 1, kernel_size), None, stride, padding, dilation
        ).shape[2]
    except RuntimeError:
        with pytest.raises(InfeasibleError):
            conv_output_size(input_size, kernel_size, stride, padding, dilation)
    else:
        assert conv_output_size(input_size, kernel_size, stride, padding, dilation) == expected


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"input_size": 0, "kernel_size": 1}, "input_size"),
        ({"input_size": 5, "kernel_size": 0}, "kernel_size"),
        ({"input_size": 5, "kernel_size": 1, "stride": 0}, "stride"),
        ({"input_size": 5, "kernel_size": 1, "padding": -1}, "padding"),
        ({"input_size": 5, "kernel_size": 1, "dilation": 0}, "dilation"),
        ({"input_size": (5, 5), "kernel_size": (1, 1, 1)}, "one value per axis"),
    ],
)
def test_conv_output_size_refuses_senseless_numbers(arguments: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=named) as caught:
        conv_output_size(**arguments)
    assert not isinstance(caught.value, InfeasibleError)
