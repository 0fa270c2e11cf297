"""Eq. 11 and the Mahalanobis distance, by hand and against loops."""

import dataclasses
import itertools

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from pmal_tf.mining.distances import (
    SET_DISTANCES,
    SetDistance,
    attention_to_set,
    nearest_in_set,
)


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
    assert 1e-12 < abs(low.numpy() - high.numpy()) < 1e-8


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


def test_nearly_parallel_vectors_keep_their_order(rng):
    # 1 - cosine has an error of 6e-8 in float32; these distances differ by 1e-9.
    z = rng.normal(size=(500, 64)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    prototypes = z + rng.normal(size=z.shape) * 1e-3 / 8
    pairs = prototypes[:, None].astype(np.float32)
    mask = np.eye(500, dtype=bool)[..., None]
    low, high = (
        tf.linalg.diag_part(attention_to_set(tf.constant(z, t), pairs, mask)[0])
        for t in (tf.float32, tf.float64)
    )
    assert 4e-7 < np.median(high) < 6e-7
    assert scipy.stats.spearmanr(low, high).statistic > 0.999
    assert (low.numpy() > 0).all()
    np.testing.assert_allclose(low, high, rtol=2e-3)
    # The same vector, at another length, is not quite the same direction in float32.
    same, _ = attention_to_set(z, 3 * z[:, None], mask)
    assert 0 <= np.diag(same).min() <= np.diag(same).max() < 1e-13


def test_sharp_and_centred_attention_by_hand():
    # Prototypes of two classes: (2, 1) and (1, 2); and (0, 0), beside padding. Their
    # mean is (1, 1), from where z = (3, 1) is (2, 0) and they are (1, 0), (0, 1),
    # (-1, -1). Cosines 1, 0 and -1 / sqrt(2); with s = ln 3, a = (3/4, 1/4), so that
    # z_att = (3, 1) / 4 and d = 1 - 3 / sqrt(10), and 1 + 1 / sqrt(2).
    z = tf.constant([[3.0, 1.0]], tf.float64)
    prototypes = [[[2.0, 1.0], [1.0, 2.0]], [[0.0, 0.0], [99.0, 99.0]]]
    mask = np.array([[True, True], [True, False]])
    measure = SetDistance("attention", np.log(3.0), centred=True)
    distance, weight = measure(z, prototypes, mask)
    expected = [[1 - 3 / np.sqrt(10), 1 + 1 / np.sqrt(2)]]
    np.testing.assert_allclose(distance, expected, atol=1e-14)
    np.testing.assert_allclose(weight, [[[0.75, 0.25], [1, 0]]], atol=1e-14)
    # Without its first prototype, which still counts in the mean.
    own = np.array([[[True, False], [False, False]]])
    distance, weight = measure(z, prototypes, mask, own)
    np.testing.assert_allclose(distance, [[1, 1 + 1 / np.sqrt(2)]], atol=1e-14)
    np.testing.assert_array_equal(weight, [[[0, 1], [1, 0]]])
    distance, weight = SetDistance("nearest", centred=True)(z, prototypes, mask)
    np.testing.assert_allclose(distance, [[0, 1 + 1 / np.sqrt(2)]], atol=1e-14)
    np.testing.assert_array_equal(weight, [[[1, 0], [1, 0]]])


def slowly(measure, embeddings, prototypes, mask, left_out):
    """Returns distances and weights in float64, a sample and a class at a time."""
    origin = prototypes[mask].mean(axis=0) if measure.centred else 0.0
    distance, weight = np.ones((7, 3)), np.zeros((7, 3, 4))
    for i, k in np.ndindex(7, 3):
        chosen = np.flatnonzero(mask[k] & ~left_out[i, k])
        if len(chosen) == 0:
            continue
        z, p = embeddings[i] - origin, prototypes[k, chosen] - origin
        cosine = p @ z / np.linalg.norm(z) / np.linalg.norm(p, axis=1)
        if measure.kind == "nearest":
            a = cosine == cosine.max()
        else:
            sharp = measure.sharpness
            a = np.exp(sharp * cosine if sharp else p @ z / np.sqrt(len(z)))
        weight[i, k, chosen] = a / a.sum()
        to = weight[i, k, chosen] @ p
        distance[i, k] = 1 - z @ to / np.linalg.norm(z) / np.linalg.norm(to)
    return distance, weight


MEASURES = pytest.mark.parametrize(
    "measure",
    [SetDistance(*it) for it in itertools.product(SET_DISTANCES, (0, 10), (0, 1))],
    ids=str,
)


@MEASURES
def test_every_set_distance_equals_the_slow_one(rng, measure):
    embeddings, prototypes = rng.normal(size=(7, 5)), rng.normal(size=(3, 4, 5)) + 2
    mask, left_out = rng.random((3, 4)) < 0.8, rng.random((7, 3, 4)) < 0.3
    left_out[0, 0] = True
    expected = slowly(measure, embeddings, prototypes, mask, left_out)
    for dtype, within in ((tf.float64, 1e-13), (tf.float32, 3e-6)):
        z = tf.constant(embeddings, dtype)
        found = tf.function(measure)(z, prototypes, mask, left_out)
        np.testing.assert_allclose(found[0], expected[0], atol=within)
        np.testing.assert_allclose(found[1], expected[1], atol=within)
        # In the order of weights, and telling apart what the weights do not.
        similarity = np.where(mask, measure.similarity(z, prototypes, mask), -np.inf)
        weight = measure(z, prototypes, mask)[1]
        np.testing.assert_array_equal(similarity.argmax(-1), np.argmax(weight, -1))


@MEASURES
def test_gradients_of_every_set_distance(rng, measure):
    """Against finite differences, the origin held still."""
    z, p = rng.normal(size=(2, 5)), rng.normal(size=(3, 4, 5)) + 1
    mask = np.arange(4) < np.array([[4], [2], [3]])
    with tf.GradientTape() as tape:
        points = tf.Variable(z), tf.Variable(p)
        total = tf.reduce_sum(measure(*points, mask)[0])
    gradients = tape.gradient(total, points)
    origin = p[mask].mean(axis=0) if measure.centred else 0.0
    still = dataclasses.replace(measure, centred=False)
    for which, gradient in enumerate(gradients):
        direction, ends = rng.normal(size=gradient.shape), []
        for step in (1e-5, -1e-5):
            moved = [tf.constant(z - origin), tf.constant(p - origin)]
            moved[which] += step * direction
            ends.append(tf.reduce_sum(still(*moved, mask)[0]))
        slope = float(ends[0] - ends[1]) / 2e-5
        along = float(tf.reduce_sum(tf.convert_to_tensor(gradient) * direction))
        assert along == pytest.approx(slope, rel=1e-6, abs=1e-9)
        assert abs(slope) > 1e-3


@MEASURES
@pytest.mark.parametrize("scale", [0.0, 1e-13, 1e-3])
def test_points_without_length_have_distance_one(measure, scale):
    # All prototypes are one point, so that centred they have no length at all.
    z, p = (
        tf.Variable(np.full((2, 4), scale, "f")),
        tf.Variable(np.ones((3, 2, 4), "f")),
    )
    with tf.GradientTape() as tape:
        distance, _ = measure(z, p, np.ones((3, 2), bool))
        total = tf.reduce_sum(distance)
    assert all(np.isfinite(g).all() for g in tape.gradient(total, (z, p)))
    has_length = scale > 1e-12 and not measure.centred
    np.testing.assert_allclose(distance, 0.0 if has_length else 1.0, atol=1e-12)
