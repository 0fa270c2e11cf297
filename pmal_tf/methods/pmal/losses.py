"""Losses of the paper, one value per example, as pure functions of tensors."""

from __future__ import annotations

import tensorflow as tf


def prototype_loss(
    distance: tf.Tensor, label: tf.Tensor, available: tf.Tensor, margin: float
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Hinge between the own and the nearest other prototype set, Eq. 9.

    For a sample of class m: max(0, d(z, P_m) - min_{k != m} d(z, P_k) + margin). One
    without an own set, or without any other, has loss 0; the mean over the batch counts
    it, as the 1/N of Eq. 9 does.

    Args:
        distance: [batch, K] point-to-set distances.
        label: [batch] class indices m in [0, K).
        available: [batch, K] boolean; False where a set has no prototype for a sample.
        margin: delta.

    Returns:
        [batch] losses, and the two distances that they compare: [batch] to the own set,
        and [batch] to the nearest other one, 0 for a sample that lacks one of the two.
    """
    own = tf.one_hot(label, tf.shape(distance)[1], on_value=True, off_value=False)
    own_distance = tf.reduce_sum(tf.where(own, distance, 0.0), axis=1)
    other = available & ~own
    nearest_other = tf.reduce_min(tf.where(other, distance, distance.dtype.max), axis=1)
    counted = tf.reduce_any(available & own, axis=1) & tf.reduce_any(other, axis=1)
    # Select before the subtraction: float32's largest number must not enter it.
    nearest_other = tf.where(counted, nearest_other, 0.0)
    hinge = tf.nn.relu(own_distance - nearest_other + margin)
    return tf.where(counted, hinge, 0.0), own_distance, nearest_other
