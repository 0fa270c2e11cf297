"""Generalised entropy (GEN, Liu, Lochman and Zach, CVPR 2023).

    G = sum_j p_j^g (1 - p_j)^g over the M largest probabilities, g = 0.1, M = 100

which are the authors' values. It is 0 where one class has all the probability, and
largest where the M classes share it evenly.
"""

from __future__ import annotations

import numpy as np

from pmal_tf.results.scores.score import Arrays, Score, Tensor, Tensors

_POWER = 0.1
_MOST = 100


def _values(outputs: Arrays, _: Arrays) -> np.ndarray:
    """Returns [n] numbers of at least 0.

    By logarithms: of a confident image neither 1 - p nor the other probabilities may
    round to 0, since the power makes much of them.
    """
    logits = np.sort(outputs["logits"].astype(np.float64), axis=1)[:, ::-1]
    logits = logits - logits[:, :1]
    total = np.logaddexp.reduce(logits, axis=1, keepdims=True)
    others = np.logaddexp.reduce(logits[:, 1:], axis=1, keepdims=True)
    log_p = logits - total
    log_rest = np.concatenate([others - total, np.log1p(-np.exp(log_p[:, 1:]))], axis=1)
    return np.exp(_POWER * (log_p + log_rest)[:, :_MOST]).sum(axis=1)


def _tensor(outputs: Tensors, _: Tensors) -> Tensor:
    import tensorflow as tf

    logits = tf.sort(outputs["logits"], axis=1, direction="DESCENDING")
    logits -= logits[:, :1]
    total = tf.reduce_logsumexp(logits, axis=1, keepdims=True)
    others = tf.reduce_logsumexp(logits[:, 1:], axis=1, keepdims=True)
    log_p = logits - total
    log_rest = tf.concat([others - total, tf.math.log1p(-tf.exp(log_p[:, 1:]))], axis=1)
    return tf.reduce_sum(tf.exp(_POWER * (log_p + log_rest)[:, :_MOST]), axis=1)


SCORE = Score(
    name="gen",
    field="gen",
    title="GEN",
    meaning="generalised entropy of the class probabilities",
    low=0.0,
    values=_values,
    tensor=_tensor,
)
