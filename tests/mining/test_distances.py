"""Eq. 11 and the Mahalanobis distance, by hand and against loops."""

import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.mining.distances import attention_to_set, nearest_in_set


def point_to_set_distance(embeddings, prototypes, mask):
    """Eq. 11 without the attention."""
    return attention_to_set(embeddings, prototypes, mask)[0]


def everything(num_classes, width):
    return np.ones((num_classes, width), bool)


def slow_point_to_set(embeddings, prototypes, mask):
    """Eq. 11 in float64, one sample and one class at a time."""
    distance = np.empty((len(embeddings), len(prototypes)))
    for i, z in enumerate(embeddings.astype(np.float64)):
        for k, prototype_set in enumerate(prototypes.astype(np.float64)):
            chosen = prototype_set[mask[i, k]]
            if len(chosen) == 0:
                distance[i, k] = 1.0
                continue
            scores = chosen @ z / np.sqrt(len(z))
            attention = np.exp(scores - scores.max())
            attention /= attention.sum()
            attended = attention @ chosen
            norm = np.linalg.norm(z) * np.linalg.norm(attended)
            distance[i, k] = 1.0 - z @ attended / norm
    return distance


def test_point_to_set_distance_by_hand():
    # z = (2, 0), prototypes (1, 0) and (0, 1), D = 2. Scores 2 / sqrt(2) and 0, so
    # a = e^1.41421 / (e^1.41421 + 1) = 0.8044297, z_att = (0.8044297, 0.1955703),
    # |z_att| = 0.8278616, and d = 1 - 0.8044297 / 0.8278616 = 0.0283042.
    distance = point_to_set_distance(
        tf.constant([[2.0, 0.0]]),
        tf.constant([[[1.0, 0.0], [0.0, 1.0]]]),
        everything(1, 2),
    )
    assert distance.numpy() == pytest.approx(np.array([[0.0283042]]), abs=1e-6)


def test_one_prototype_gives_the_cosine_distance():
    distance = point_to_set_distance(
        tf.constant([[3.0, 4.0], [1.0, 0.0]]),
        tf.constant([[[1.0, 0.0]], [[-1.0, 0.0]]]),
        everything(2, 1),
    )
    expected = np.array([[0.4, 1.6], [0.0, 2.0]])  # cos = 3/5, -3/5, 1, -1
    assert distance.numpy() == pytest.approx(expected, abs=1e-6)


def test_point_to_set_distance_equals_the_slow_one(rng):
    embeddings = rng.normal(size=(7, 16)).astype(np.float32)
    prototypes = rng.normal(size=(3, 5, 16)).astype(np.float32)
    mask = rng.random((7, 3, 5)) < 0.5
    distance = point_to_set_distance(embeddings, prototypes, mask).numpy()
    expected = slow_point_to_set(embeddings, prototypes, mask)
    assert not mask.any(axis=-1).all()  # The case has an empty set.
    assert distance == pytest.approx(expected, abs=2e-6)


def test_masked_prototypes_do_not_count(rng):
    embeddings = rng.normal(size=(4, 8)).astype(np.float32)
    prototypes = rng.normal(size=(2, 3, 8)).astype(np.float32)
    padded = np.concatenate([prototypes, 100 * np.ones((2, 2, 8))], axis=1)
    mask = np.array([[True, True, True, False, False]] * 2)
    with_padding = point_to_set_distance(embeddings, padded, mask)
    without = point_to_set_distance(embeddings, prototypes, everything(2, 3))
    np.testing.assert_allclose(with_padding, without, atol=1e-6)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e3])
def test_distance_and_gradient_stay_finite(rng, scale):
    embeddings = tf.Variable(scale * rng.normal(size=(3, 8)), dtype=tf.float32)
    prototypes = tf.Variable(scale * rng.normal(size=(2, 4, 8)), dtype=tf.float32)
    with tf.GradientTape() as tape:
        distance = point_to_set_distance(embeddings, prototypes, everything(2, 4))
        total = tf.reduce_sum(distance)
    gradients = tape.gradient(total, [embeddings, prototypes])
    assert all(np.isfinite(value).all() for value in [distance, *gradients])
    assert (distance.numpy() >= -1e-6).all()
    assert (distance.numpy() <= 2 + 1e-6).all()


def test_half_precision_inputs_are_computed_in_float32(rng):
    embeddings = rng.normal(size=(4, 64)).astype(np.float16)
    prototypes = rng.normal(size=(2, 3, 64)).astype(np.float16)
    low = point_to_set_distance(
        tf.constant(embeddings), tf.constant(prototypes), everything(2, 3)
    )
    high = point_to_set_distance(
        embeddings.astype(np.float32),
        prototypes.astype(np.float32),
        everything(2, 3),
    )
    assert low.dtype == tf.float32
    np.testing.assert_array_equal(low, high)


@pytest.mark.parametrize("compiled", [False, True])
def test_float64_inputs_are_computed_in_float64(rng, compiled):
    function = tf.function(point_to_set_distance) if compiled else point_to_set_distance
    # The example by hand with more digits than float32 has: a = 0.8044296825069569,
    # |z_att| = 0.8278616207933384, d = 1 - a / |z_att|.
    low, high = (
        function(
            tf.constant([[2.0, 0.0]], dtype),
            tf.constant([[[1.0, 0.0], [0.0, 1.0]]], dtype),
            everything(1, 2),
        )
        for dtype in (tf.float32, tf.float64)
    )
    assert (low.dtype, high.dtype) == (tf.float32, tf.float64)
    assert high.numpy() == pytest.approx(np.array([[0.028304172699691876]]), abs=1e-14)
    assert abs(low.numpy() - high.numpy()) > 1e-10
    embeddings, prototypes = rng.normal(size=(7, 16)), rng.normal(size=(3, 5, 16))
    mask = rng.random((7, 3, 5)) < 0.5
    assert not mask.any(axis=-1).all()  # The case has an empty set.
    distance = function(tf.constant(embeddings), tf.constant(prototypes), mask)
    expected = slow_point_to_set(embeddings, prototypes, mask)
    assert distance.numpy() == pytest.approx(expected, abs=1e-14)


def test_float64_distance_and_gradient_are_finite_at_zero():
    embeddings = tf.Variable(np.zeros((1, 4)))
    with tf.GradientTape() as tape:
        distance = point_to_set_distance(
            embeddings, tf.zeros((2, 3, 4), tf.float64), everything(2, 3)
        )
    np.testing.assert_array_equal(distance, [[1.0, 1.0]])
    assert np.isfinite(tape.gradient(distance, embeddings)).all()


@pytest.mark.parametrize(
    ("embeddings", "prototypes", "expected"),
    [
        ("float16", "float64", "float32"),
        ("bfloat16", "bfloat16", "float32"),
        ("float32", "float64", "float32"),
        ("float64", "float16", "float64"),
    ],
)
def test_the_embeddings_say_the_precision(embeddings, prototypes, expected):
    distance = point_to_set_distance(
        tf.constant([[3.0, 4.0]], embeddings),
        tf.constant([[[1.0, 0.0]]], prototypes),
        everything(1, 1),
    )
    assert distance.dtype == expected
    assert distance.numpy() == pytest.approx(np.array([[0.4]]), abs=1e-6)


def test_distance_to_the_nearest_prototype_by_hand():
    # The nearest by angle, not by length: (0, 9) is longer, (1, 1) is at 45 degrees.
    embeddings = tf.constant([[2.0, 0.0]])
    prototypes = tf.constant([[[1.0, 1.0], [0.0, 9.0]], [[0.0, -3.0], [5.0, 0.0]]])
    mask = tf.constant([[True, True], [True, False]])
    distance, weight = nearest_in_set(embeddings, prototypes, mask)
    np.testing.assert_allclose(distance, [[1 - np.sqrt(0.5), 1.0]], atol=1e-6)
    np.testing.assert_array_equal(weight, [[[1, 0], [1, 0]]])


def test_distance_to_the_nearest_prototype_equals_the_slow_one(rng):
    embeddings = rng.normal(size=(7, 5)).astype(np.float32)
    prototypes = rng.normal(size=(3, 4, 5)).astype(np.float32)
    mask = rng.random((7, 3, 4)) < 0.7
    mask[0, 0] = False
    distance, weight = nearest_in_set(embeddings, prototypes, mask)
    for i, k in np.ndindex(7, 3):
        far = [
            1 - z @ p / np.linalg.norm(z) / np.linalg.norm(p)
            for z, p in ((embeddings[i], p) for p in prototypes[k][mask[i, k]])
        ]
        assert float(distance[i, k]) == pytest.approx(min(far, default=1.0), abs=1e-5)
        assert float(tf.reduce_sum(weight[i, k])) == (1 if far else 0)


def test_gradient_of_the_nearest_distance_reaches_the_nearest_alone(rng):
    embeddings = tf.constant(rng.normal(size=(1, 4)).astype(np.float32))
    prototypes = tf.constant(rng.normal(size=(1, 3, 4)).astype(np.float32))
    with tf.GradientTape() as tape:
        tape.watch(prototypes)
        distance, weight = nearest_in_set(embeddings, prototypes, everything(1, 3))
    gradient = np.abs(tape.gradient(distance, prototypes)).sum(axis=-1)
    np.testing.assert_array_equal(gradient > 1e-6, weight[0] > 0)


def test_attention_adds_up_to_one_where_a_prototype_is_left(rng):
    embeddings = rng.normal(size=(5, 4)).astype(np.float32)
    prototypes = rng.normal(size=(2, 3, 4)).astype(np.float32)
    mask = np.ones((5, 2, 3), bool)
    mask[1, 0], mask[2, 1, 0] = False, False
    _, attention = attention_to_set(embeddings, prototypes, mask)
    np.testing.assert_allclose(
        tf.reduce_sum(attention, axis=-1), mask.any(axis=-1), atol=1e-6
    )
    assert np.asarray(attention)[~mask].max() == 0.0
