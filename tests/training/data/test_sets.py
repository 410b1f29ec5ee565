"""The seeded split and the statistics, against numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numbered_images import numbered_images, numbers

from training.config import DataConfig
from training.data import channel_statistics, split_train
from training.errors import DataError


@settings(max_examples=30)
@given(counts=st.lists(st.integers(8, 40), min_size=2, max_size=5), seed=st.integers(0, 2**32 - 1))
def test_split_is_stratified_disjoint_and_whole(counts: list[int], seed: int):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    data = split_train(numbered_images(labels), DataConfig(split_seed=seed))
    assert sorted(numbers(data.train.images) + numbers(data.val.images)) == list(range(len(labels)))
    for part, fraction in ((data.train, 0.75), (data.val, 0.25)):
        assert part.labels.tolist() == labels[numbers(part.images)].tolist()
        assert abs(len(part.labels) - fraction * len(labels)) < 1
        for label, count in enumerate(counts):
            assert abs((part.labels == label).sum() - fraction * count) <= 1


def test_split_follows_from_the_seed_alone():
    official = numbered_images(np.arange(200) % 4)
    first, again, other = (numbers(split_train(official, DataConfig(split_seed=s)).val.images) for s in (3, 3, 4))
    assert first == again
    assert set(first) != set(other)
    larger = split_train(official, DataConfig(split_seed=3, val_fraction=0.4))
    assert len(larger.val.labels) == 80


def test_a_split_that_cannot_be_is_refused():
    with pytest.raises(DataError, match=r"data\.val_fraction=0\.25.*5 training images.*4 classes"):
        split_train(numbered_images(np.array([0, 1, 2, 3, 3])), DataConfig())


def test_statistics_are_those_of_the_train_part_only():
    official = numbered_images(np.arange(100) % 2)
    data = split_train(official, DataConfig())
    np.testing.assert_allclose(data.mean, data.train.images.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, data.train.images.std((0, 1, 2)), rtol=1e-12)
    assert not np.allclose(data.mean, official.images.mean((0, 1, 2)), rtol=1e-6)
    assert data.num_bytes == official.images.nbytes


def test_a_constant_channel_can_be_divided_by():
    mean, std = channel_statistics(np.full((2, 4, 4, 3), 7, dtype=np.uint8))
    assert mean == (7.0, 7.0, 7.0)
    assert std == (1.0, 1.0, 1.0)
