"""Probability-based rejection, 1 - max_k p_k: the paper's PR (Section 5.2).

Elsewhere it is the maximum softmax probability, MSP (Hendrycks and Gimpel 2017).
"""

from __future__ import annotations

import numpy as np

from pmal_tf.results.scores.score import Arrays, Score, Tensor, Tensors


def _values(outputs: Arrays, _: Arrays) -> np.ndarray:
    """Returns [n] numbers in [0, 1).

    1 - max p as the sum of the other probabilities: the difference would round to 0
    for every confident image, and ties cost AUROC.
    """
    logits = outputs["logits"].astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    others = np.sort(odds, axis=1)[:, :-1].sum(axis=1)
    return others / (1.0 + others)


def _tensor(outputs: Tensors, _: Tensors) -> Tensor:
    import tensorflow as tf

    logits = outputs["logits"]
    largest = tf.reduce_max(logits, axis=1)
    odds = tf.exp(logits - largest[:, None])
    is_largest = tf.one_hot(
        tf.argmax(logits, axis=1), logits.shape[1], on_value=True, off_value=False
    )
    others = tf.reduce_sum(tf.where(is_largest, 0.0, odds), axis=1)
    return others / (1.0 + others)


SCORE = Score(
    name="msp",
    field="pr",
    title="PR",
    meaning="1 - the largest class probability",
    low=0.0,
    high=1.0,
    values=_values,
    tensor=_tensor,
    unreadable=2.0,
)
