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


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-3, 1e3])
def test_distance_and_gradient_stay_finite(rng, scale, dtype):
    embeddings = tf.Variable(scale * rng.normal(size=(3, 8)), dtype=dtype)
    prototypes = tf.Variable(scale * rng.normal(size=(2, 4, 8)), dtype=dtype)
    with tf.GradientTape() as tape:
        distance = point_to_set_distance(embeddings, prototypes, everything(2, 4))
        total = tf.reduce_sum(distance)
    gradients = tape.gradient(total, [embeddings, prototypes])
    assert all(np.isfinite(value).all() for value in [distance, *gradients])
    assert (distance.numpy() >= -1e-6).all()
    assert (distance.numpy() <= 2 + 1e-6).all()
    if scale == 0.0:
        np.testing.assert_array_equal(distance, 1.0)


def test_point_to_set_distance_by_hand():
    # z = (2, 0), prototypes (1, 0) and (0, 1), D = 2. Scores 2 / sqrt(2) and 0, so
    # a = e^1.41421 / (e^1.41421 + 1) = 0.8044296825069569, z_att = (a, 1 - a),
    # |z_att| = 0.8278616207933384, and d = 1 - a / |z_att|.
    low, high = (
        point_to_set_distance(
            tf.constant([[2.0, 0.0]], dtype),
            tf.constant([[[1.0, 0.0], [0.0, 1.0]]], dtype),
            everything(1, 2),
        )
        for dtype in (tf.float32, tf.float64)
    )
    assert (low.dtype, high.dtype) == (tf.float32, tf.float64)
    assert high.numpy() == pytest.approx(np.array([[0.028304172699691876]]), abs=1e-14)
    assert 1e-10 < abs(low.numpy() - high.numpy()) < 1e-6


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("dtype", "within"), [("float32", 2e-6), ("float64", 1e-14)])
def test_point_to_set_distance_equals_the_slow_one(rng, compiled, dtype, within):
    function = tf.function(point_to_set_distance) if compiled else point_to_set_distance
    embeddings = rng.normal(size=(7, 16)).astype(dtype)
    prototypes = rng.normal(size=(3, 5, 16)).astype(dtype)
    mask = rng.random((7, 3, 5)) < 0.5
    assert not mask.any(axis=-1).all()  # The case has an empty set.
    distance = function(tf.constant(embeddings), tf.constant(prototypes), mask)
    expected = slow_point_to_set(embeddings, prototypes, mask)
    assert distance.numpy() == pytest.approx(expected, abs=within)


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
