"""Small real data, and strategies that draw any valid config, made from the config classes."""

import dataclasses
import math
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import numpy as np
import pytest
from hypothesis import reject
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from training.config import DataConfig, ModelConfig, TrialConfig
from training.data import ImageSet, TrainData, load_data


def read_only(image_set: ImageSet, count: int | None = None) -> ImageSet:
    part = image_set.subset(np.arange(len(image_set.labels))[:count])
    part.images.setflags(write=False)  # as they are in an object store
    part.labels.setflags(write=False)
    return part


@pytest.fixture(scope="session")
def digits() -> TrainData:
    """Digits at their native size of 8 x 8, read-only."""
    data = load_data(DataConfig(dataset="digits", image_size=8, crop_padding=2))
    return dataclasses.replace(data, train=read_only(data.train), val=read_only(data.val))


@pytest.fixture(scope="session")
def few_digits(digits: TrainData) -> TrainData:
    """150 of them for training, 60 for validation."""
    return dataclasses.replace(digits, train=read_only(digits.train, 150), val=read_only(digits.val, 60))


MOST = {  # if a config allows more than is quick, or hardly ever fits into an image
    **{"depth": 4, "width": 6, "width_growth": 2.0, "kernel_size": 6, "stride": 3, "padding": 3},
    **{"crop_padding": 7, "cutout": 7, "learning_rate": 10.0, "other_learning_rate": 10.0, "weight_decay": 1.0},
}


def drawn(kind: Any, most: float, depth: int) -> st.SearchStrategy[Any]:
    """Values of a field's annotation: numbers up to `most`, and `depth` of them where there is one per layer."""
    base, *notes = get_args(kind) if get_origin(kind) is Annotated else [kind]
    limits = {
        name: getattr(limit, name)
        for note in notes
        for limit in note.metadata
        for name in ("ge", "gt", "le", "lt", "pattern")
        if getattr(limit, name, None) is not None
    }
    low, high = limits.get("ge", limits.get("gt")), min(limits.get("le", limits.get("lt", math.inf)), most)
    bounds = {"min_value": low, "max_value": None if high == math.inf else high}
    if base is int:
        return st.integers(**bounds).filter(lambda value: value not in (limits.get("gt"), limits.get("lt")))
    if base is float:
        open_ends = {"exclude_min": "gt" in limits, "exclude_max": "lt" in limits}
        return st.floats(**bounds, **open_ends, allow_nan=False, allow_infinity=False)
    if "pattern" in limits:
        return st.from_regex(limits["pattern"], fullmatch=True)
    if get_origin(base) in (Union, UnionType):
        return st.one_of(*(drawn(each, most, depth) for each in get_args(base)))
    if get_origin(base) is tuple:
        return st.lists(drawn(get_args(base)[0], most, depth), min_size=depth, max_size=depth)
    if isinstance(base, type) and issubclass(base, BaseModel):
        return configs(base)
    return st.from_type(base)


@st.composite
def configs(draw: st.DrawFn, kind: type[BaseModel]) -> BaseModel:
    """Any valid config, with every field that its class has."""
    values: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        annotation = Annotated[field.annotation, field]
        values[name] = draw(drawn(annotation, MOST.get(name, math.inf), values.get("depth", 1)))
    try:
        return kind(**values)
    except ValidationError:
        reject()


st.register_type_strategy(ModelConfig, configs(ModelConfig))
st.register_type_strategy(TrialConfig, configs(TrialConfig))
