"""The cross-entropy, one value per example."""

from __future__ import annotations

import tensorflow as tf


def classification_loss(
    logits: tf.Tensor, label: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Cross-entropy against the class, Eq. 1, or against smoothed labels.

    From [batch, K] logits and [batch] class indices in [0, K) to [batch] losses,
    float64 if the logits are, else float32. With the share s of label smoothing, in
    [0, 1), the target is (1 - s) onehot(label) + s / K (Szegedy et al. 2016).
    """
    logits = tf.cast(logits, tf.float64 if logits.dtype == tf.float64 else tf.float32)
    if not label_smoothing:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=tf.cast(label, tf.int32), logits=logits
        )
    classes = logits.shape[1]
    onehot = tf.one_hot(label, classes, dtype=logits.dtype)
    target = (1.0 - label_smoothing) * onehot + label_smoothing / classes
    return tf.nn.softmax_cross_entropy_with_logits(labels=target, logits=logits)
