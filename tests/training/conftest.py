"""Small real data, and a strategy that draws any valid config."""

import dataclasses

import numpy as np
import pytest
from hypothesis import strategies as st

from training.config import DataConfig, ModelConfig, OptimizerConfig, TrainConfig, TrialConfig
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


@st.composite
def model_configs(draw: st.DrawFn) -> ModelConfig:
    depth = draw(st.integers(1, 4))

    def per_layer(values: st.SearchStrategy) -> st.SearchStrategy:
        return values | st.lists(values, min_size=depth, max_size=depth)

    paddings = st.just("valid") | st.integers(0, 3)
    if draw(st.booleans()):
        kernel_sizes = st.sampled_from([1, 3, 5])
        paddings = paddings | st.just("same")  # which needs odd kernels
    else:
        kernel_sizes = st.integers(1, 6)
    return ModelConfig(
        depth=depth,
        width=draw(per_layer(st.integers(1, 6))),
        width_growth=draw(st.sampled_from([1.0, 1.5, 2.0])),
        kernel_size=draw(per_layer(kernel_sizes)),
        stride=draw(per_layer(st.integers(1, 3))),
        padding=draw(per_layer(paddings)),
        pooling=draw(per_layer(st.sampled_from(["none", "max", "avg"]))),
        batch_norm=draw(st.booleans()),
        activation=draw(st.sampled_from(["relu", "gelu", "silu"])),
        dropout=draw(st.floats(0.0, 0.9)),
        head=draw(st.sampled_from(["average", "flatten"])),
    )


st.register_type_strategy(ModelConfig, model_configs())
st.register_type_strategy(
    TrialConfig,
    st.builds(
        TrialConfig,
        data=st.builds(
            DataConfig,
            dataset=st.sampled_from(["cifar10", "cifar100", "digits", "folder:some images"]),
            data_dir=st.text(),
            image_size=st.integers(8, 512),
            val_fraction=st.floats(0.01, 0.99),
            split_seed=st.integers(0, 2**32 - 1),
            crop_padding=st.integers(0, 7),
            flip=st.booleans(),
            cutout=st.integers(0, 7),
        ),
        model=model_configs(),
        optimizer=st.builds(
            OptimizerConfig,
            name=st.sampled_from(["sgd", "adam", "adamw", "rmsprop"]),
            learning_rate=st.floats(1e-300, 1e300),
            momentum=st.floats(0.0, 0.999),
            nesterov=st.booleans(),
            weight_decay=st.floats(0.0, 1e300),
            schedule=st.sampled_from(["constant", "cosine", "one_cycle"]),
        ),
        train=st.builds(
            TrainConfig,
            epochs=st.integers(1, 10**6),
            batch_size=st.integers(2, 10**6),
            label_smoothing=st.floats(0.0, 0.999),
            seed=st.integers(0, 2**32 - 1),
        ),
    ),
)
