"""Eq. 9 by hand and against a loop."""

import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.losses import classification_loss, prototype_loss


def test_prototype_loss_by_hand():
    distance = tf.constant([[0.1, 0.9, 0.5], [0.6, 0.4, 0.3], [0.0, 1.0, 2.0]])
    label = tf.constant([0, 1, 0])
    everything = tf.ones((3, 3), tf.bool)
    # 0.1 - 0.5 + 0.5 = 0.1;  0.4 - 0.3 + 0.5 = 0.6;  0 - 1 + 0.5 < 0.
    loss = prototype_loss(distance, label, everything, margin=0.5)
    assert loss.numpy() == pytest.approx([0.1, 0.6, 0.0], abs=1e-6)


def test_sets_without_prototypes_are_left_out():
    distance = tf.constant([[0.3, 0.1, 0.6], [0.3, 0.1, 0.6], [0.3, 0.1, 0.6]])
    label = tf.constant([0, 0, 0])
    available = tf.constant(
        [[True, False, True], [False, True, True], [True, False, False]]
    )
    # The nearest other is class 2: 0.3 - 0.6 + 0.5. No own set; no other set: 0.
    loss = prototype_loss(distance, label, available, margin=0.5)
    assert loss.numpy() == pytest.approx([0.2, 0.0, 0.0], abs=1e-6)


def test_prototype_loss_equals_a_loop(rng):
    distance = rng.uniform(0, 2, size=(50, 6)).astype(np.float32)
    label = rng.integers(0, 6, size=50)
    expected = [
        max(0.0, row[m] - min(np.delete(row, m)) + 0.8)
        for row, m in zip(distance, label, strict=True)
    ]
    available = np.ones((50, 6), bool)
    loss = prototype_loss(tf.constant(distance), label, available, margin=0.8)
    np.testing.assert_allclose(loss, expected, atol=1e-6)


def test_gradient_pulls_to_the_own_set_and_pushes_off_the_nearest_other():
    distance = tf.Variable([[0.5, 0.6, 0.9]])
    with tf.GradientTape() as tape:
        loss = prototype_loss(
            distance, tf.constant([0]), tf.ones((1, 3), tf.bool), margin=0.5
        )
    gradient = tape.gradient(loss, distance)
    np.testing.assert_array_equal(gradient, [[1.0, -1.0, 0.0]])


def test_gradient_of_a_left_out_sample_is_zero_and_finite():
    distance = tf.Variable([[0.5, 0.6]])
    available = tf.constant([[False, True]])
    with tf.GradientTape() as tape:
        loss = prototype_loss(distance, tf.constant([0]), available, margin=0.5)
    np.testing.assert_array_equal(tape.gradient(loss, distance), [[0.0, 0.0]])


def test_classification_loss_by_hand():
    # -log(e^1 / (e^1 + e^0)) = log(1 + e^-1) = 0.313262
    loss = classification_loss(tf.constant([[1.0, 0.0]]), tf.constant([0]))
    assert loss.numpy() == pytest.approx([0.313262], abs=1e-6)
