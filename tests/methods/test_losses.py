"""Eq. 9 by hand and against a loop."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.methods.pmal.losses import prototype_loss
from pmal_tf.training.losses import classification_loss


def test_prototype_loss_by_hand():
    distance = tf.constant([[0.1, 0.9, 0.5], [0.6, 0.4, 0.3], [0.0, 1.0, 2.0]])
    label = tf.constant([0, 1, 0])
    everything = tf.ones((3, 3), tf.bool)
    # 0.1 - 0.5 + 0.5 = 0.1;  0.4 - 0.3 + 0.5 = 0.6;  0 - 1 + 0.5 < 0.
    loss, *_ = prototype_loss(distance, label, everything, margin=0.5)
    assert loss.numpy() == pytest.approx([0.1, 0.6, 0.0], abs=1e-6)


def test_sets_without_prototypes_are_left_out():
    distance = tf.constant([[0.3, 0.1, 0.6], [0.3, 0.1, 0.6], [0.3, 0.1, 0.6]])
    label = tf.constant([0, 0, 0])
    available = tf.constant(
        [[True, False, True], [False, True, True], [True, False, False]]
    )
    # The nearest other is class 2: 0.3 - 0.6 + 0.5. No own set; no other set: 0.
    loss, *_ = prototype_loss(distance, label, available, margin=0.5)
    assert loss.numpy() == pytest.approx([0.2, 0.0, 0.0], abs=1e-6)


def test_prototype_loss_equals_a_loop(rng):
    distance = rng.uniform(0, 2, size=(50, 6)).astype(np.float32)
    label = rng.integers(0, 6, size=50)
    expected = [
        max(0.0, row[m] - min(np.delete(row, m)) + 0.8)
        for row, m in zip(distance, label, strict=True)
    ]
    available = np.ones((50, 6), bool)
    loss, *_ = prototype_loss(tf.constant(distance), label, available, margin=0.8)
    np.testing.assert_allclose(loss, expected, atol=1e-6)


def test_gradient_pulls_to_the_own_set_and_pushes_off_the_nearest_other():
    distance = tf.Variable([[0.5, 0.6, 0.9]])
    with tf.GradientTape() as tape:
        loss, *_ = prototype_loss(
            distance, tf.constant([0]), tf.ones((1, 3), tf.bool), margin=0.5
        )
    gradient = tape.gradient(loss, distance)
    np.testing.assert_array_equal(gradient, [[1.0, -1.0, 0.0]])


def test_gradient_of_a_left_out_sample_is_zero_and_finite():
    distance = tf.Variable([[0.5, 0.6]])
    available = tf.constant([[False, True]])
    with tf.GradientTape() as tape:
        loss, *_ = prototype_loss(distance, tf.constant([0]), available, margin=0.5)
    np.testing.assert_array_equal(tape.gradient(loss, distance), [[0.0, 0.0]])


def test_classification_loss_by_hand():
    # -log(e^1 / (e^1 + e^0)) = log(1 + e^-1) = 0.313262
    loss = classification_loss(tf.constant([[1.0, 0.0]]), tf.constant([0]))
    assert loss.numpy() == pytest.approx([0.313262], abs=1e-6)


def test_smoothed_classification_loss_by_hand():
    # log(1 + e^-1) = 0.313262 for the class and 1.313262 for the other; of K = 2
    # classes with s = 0.2 they count 0.8 + 0.1 and 0.1: 0.313262 + 0.1.
    logits = tf.constant([[1.0, 0.0]])
    loss = classification_loss(logits, tf.constant([0]), label_smoothing=0.2)
    assert loss.numpy() == pytest.approx([0.413262], abs=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.947368])
def test_classification_loss_equals_keras_s(label_smoothing, rng):
    logits = tf.constant(rng.normal(scale=5.0, size=(40, 20)).astype(np.float32))
    label = rng.integers(0, 20, size=40)
    reference = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=label_smoothing, reduction=None
    )
    expected = reference(np.eye(20, dtype=np.float32)[label], logits)
    loss = classification_loss(logits, label, label_smoothing)
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("given", "computed"),
    [
        ("float16", "float32"),
        ("bfloat16", "float32"),
        ("float32", "float32"),
        ("float64", "float64"),
    ],
)
def test_classification_loss_is_of_no_less_than_float32(
    given, computed, label_smoothing
):
    logits = tf.cast([[12.0, 3.0, -1.0]], given)
    loss = classification_loss(logits, tf.constant([1]), label_smoothing)
    assert loss.dtype == computed
    wide = classification_loss(tf.cast(logits, tf.float64), [1], label_smoothing)
    digits = 1e-14 if computed == "float64" else 1e-6
    assert loss.numpy() == pytest.approx(wide.numpy(), rel=digits)


def test_gradient_of_the_smoothed_loss_is_softmax_minus_target():
    logits = tf.Variable([[2.0, -1.0, 0.5]])
    with tf.GradientTape() as tape:
        loss = classification_loss(logits, tf.constant([2]), label_smoothing=0.3)
    expected = tf.nn.softmax(logits) - [[0.1, 0.1, 0.8]]
    np.testing.assert_allclose(tape.gradient(loss, logits), expected, atol=1e-6)
