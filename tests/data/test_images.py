"""Choosing images among others."""

import numpy as np
import pytest

from pmal_tf.data.images import proportional_share


def shares(label, share, draws=4000):
    generator = np.random.default_rng(0)
    return np.array(
        [
            proportional_share(
                label, generator.permutation(len(label)), share, generator.random()
            )
            for _ in range(draws)
        ]
    )


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_every_image_has_the_same_chance_however_small_its_class(share):
    label = np.repeat([0, 1, 2, 3], [90, 20, 3, 2])
    chosen = shares(label, share)
    # The standard error of each is below 0.007.
    np.testing.assert_allclose(chosen.mean(axis=0), share, atol=0.03)
    for index in range(4):
        count = chosen[:, label == index].sum(axis=1)
        expected = share * (label == index).sum()
        assert count.min() >= np.floor(expected)
        assert count.max() <= np.ceil(expected)


def test_the_lowest_ranks_do_not_count_only_the_order_does():
    label = np.zeros(10, int)
    rank = np.arange(10)[::-1]
    chosen = proportional_share(label, rank, 0.2, 0.5)
    # Cumulated, 0.5 + 0.2 i passes 1 at the third in order and 2 at the eighth.
    assert np.flatnonzero(chosen[::-1]).tolist() == [2, 7]


def test_a_class_keeps_an_image():
    label = np.array([0, 1, 1])
    for start in np.linspace(0.0, 0.99, 50):
        chosen = proportional_share(label, np.arange(3), 0.5, start)
        assert not chosen[0]
        assert chosen[1:].sum() <= 1


def test_no_share_chooses_nothing():
    assert not proportional_share(np.zeros(9, int), np.arange(9), 0.0, 0.99).any()
