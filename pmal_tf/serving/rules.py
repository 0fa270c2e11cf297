"""The rejection rules inside an exported graph; see `pmal_tf.evaluation.scores`."""

from __future__ import annotations

import tensorflow as tf

_LARGEST = float(tf.float32.max)

# Rule -> lowest and highest threshold that means anything.
THRESHOLD_RANGES: dict[str, tuple[float, float]] = {
    "dr": (0.0, 2.0),
    "pr": (0.0, 1.0),
    "mls": (-_LARGEST, _LARGEST),
}

# Rule -> score of what cannot be read: no image that can be has a larger one.
UNREADABLE_SCORES = {"dr": 2.0, "pr": 2.0, "mls": _LARGEST}


def unknown_score(rule: str, distance: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    """Computes the score of one rule; larger means more likely unknown.

    Args:
        rule: `dr`, `pr` or `mls`.
        distance: [batch, K] point-to-set distances.
        logits: [batch, K].

    Returns:
        [batch] float32.
    """
    if rule == "dr":
        return tf.reduce_min(distance, axis=1)
    largest = tf.reduce_max(logits, axis=1)
    if rule == "mls":
        return -largest
    # 1 - max p as the sum of the others, which does not round to 0.
    odds = tf.exp(logits - largest[:, None])
    is_largest = tf.one_hot(
        tf.argmax(logits, axis=1), logits.shape[1], on_value=True, off_value=False
    )
    others = tf.reduce_sum(tf.where(is_largest, 0.0, odds), axis=1)
    return others / (1.0 + others)
