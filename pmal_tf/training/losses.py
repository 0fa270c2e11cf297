"""The cross-entropy, one value per example."""

from __future__ import annotations

import tensorflow as tf


def classification_loss(
    logits: tf.Tensor, label: tf.Tensor, label_smoothing: float = 0.0
) -> tf.Tensor:
    """Cross-entropy against the class, Eq. 1, or against smoothed labels.

    With the share s of label smoothing (Szegedy et al. 2016), the target is
    (1 - s) onehot(label) + s / K.

    Args:
        logits: [batch, K].
        label: [batch] class indices in [0, K).
        label_smoothing: The share s, in [0, 1).

    Returns:
        [batch] losses, float64 if the logits are, else float32.
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
