"""Qualities of images: Table 4's baselines by hand and against loops."""

import numpy as np
import pytest
from scipy.special import log_softmax, softmax

from pmal_tf.mining import qualities
from pmal_tf.mining.qualities import QUALITIES, QualityInput, log_probability
from pmal_tf.mining.spaces import Space


def space_of(rng, count=40, width=5, classes=3):
    return Space(
        rng.normal(size=(count, width)).astype(np.float32),
        rng.normal(size=(width, classes)).astype(np.float32),
        rng.normal(size=classes).astype(np.float32),
    )


def given(spaces, class_index, dropout_space=None, seed=0):
    exponent = np.linspace(0, 1, len(class_index))
    return QualityInput(spaces, class_index, exponent, dropout_space, seed)


def own_probability(space, class_index):
    logits = space.embedding.astype(float) @ space.kernel.astype(float) + space.bias
    return softmax(logits, axis=1)[np.arange(len(class_index)), class_index]


def test_log_probabilities_are_those_of_scipy(rng):
    logits, labels = 5 * rng.normal(size=(30, 4)), rng.integers(0, 4, 30)
    expected = log_softmax(logits, axis=1)[np.arange(30), labels]
    # Ours keeps the digits of probabilities near 1, which scipy's loses.
    np.testing.assert_allclose(log_probability(logits, labels), expected, atol=1e-14)


def test_log_probabilities_near_one_keep_their_order():
    logits = np.array([[50.0, 0.0], [60.0, 0.0], [700.0, 0.0], [1e5, 0.0]])
    result = log_probability(logits, np.zeros(4, int))
    expected = [-np.exp(-50.0), -np.exp(-60.0), -np.exp(-700.0), 0.0]
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    assert log_probability(-logits, np.zeros(4, int))[3] == -1e5


def test_probability_is_that_of_the_first_model_and_the_own_class(rng):
    spaces, labels = [space_of(rng), space_of(rng)], rng.integers(0, 3, 40)
    exponent = QUALITIES["probability"](given(spaces, labels))
    np.testing.assert_allclose(np.exp(-exponent), own_probability(spaces[0], labels))


def test_deep_ensembles_by_hand():
    # Logits (ln 3, 0) and (0, 0): probabilities 3/4 and 1/2, variance 1/64.
    one = Space(np.ones((1, 1)), np.array([[np.log(3.0), 0.0]]), np.zeros(2))
    other = Space(np.ones((1, 1)), np.zeros((1, 2)), np.zeros(2))
    exponent = QUALITIES["deep_ensembles"](given([one, other], np.array([0])))
    assert exponent == pytest.approx(1 / 64)


def test_deep_ensembles_of_several_models(rng):
    spaces, labels = [space_of(rng) for _ in range(4)], rng.integers(0, 3, 40)
    expected = np.var([own_probability(space, labels) for space in spaces], axis=0)
    exponent = QUALITIES["deep_ensembles"](given(spaces, labels))
    np.testing.assert_allclose(exponent, expected)


def test_mc_dropout_approaches_the_variance_over_all_masks(rng, monkeypatch):
    space, labels = space_of(rng, count=12, width=4), rng.integers(0, 3, 12)
    every_mask = np.indices((2,) * 4).reshape(4, -1).T
    expected = np.var(
        [
            own_probability(
                Space(space.embedding * mask * 2.0, space.kernel, space.bias), labels
            )
            for mask in every_mask
        ],
        axis=0,
    )
    monkeypatch.setattr(qualities, "_MC_DROPOUT_PASSES", 4000)
    exponent = QUALITIES["mc_dropout"](given([], labels, space))
    np.testing.assert_allclose(exponent, expected, rtol=0.15)


def test_mc_dropout_repeats_with_its_seed(rng):
    space, labels = space_of(rng), rng.integers(0, 3, 40)
    first, same, other = (
        QUALITIES["mc_dropout"](given([], labels, space, seed)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert ((first >= 0) & (first <= 0.25)).all()


def test_robustness_and_none():
    inputs = given([], np.zeros(5, int))
    np.testing.assert_array_equal(
        QUALITIES["robustness"](inputs), inputs.robustness_exponent
    )
    np.testing.assert_array_equal(QUALITIES["none"](inputs), np.zeros(5))
