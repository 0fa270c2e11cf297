"""DR less the mean distance to the other classes: min_k d_k - mean_{j != k} d_j.

DR asks how near the nearest class is. An unknown image may be near to it and still give
itself away: it lies between classes, near to the prototypes of several, while a known
image is far from all but its own. That shows where prototypes are of a class's rim, as
Algorithm 1 picks them, and where the attention is sharp enough to take a sample to the
few that it resembles.
"""

from __future__ import annotations

import numpy as np

from pmal_tf.results.scores.score import Arrays, Score, Tensor, Tensors


def _values(outputs: Arrays, _: Arrays) -> np.ndarray:
    """Returns [n] numbers of at most 0."""
    distance = outputs["distance"].astype(np.float64)
    nearest = distance.min(axis=1)
    others = (distance.sum(axis=1) - nearest) / (distance.shape[1] - 1)
    return np.minimum(nearest - others, 0.0)


def _tensor(outputs: Tensors, _: Tensors) -> Tensor:
    import tensorflow as tf

    distance = outputs["distance"]
    nearest = tf.reduce_min(distance, axis=1)
    others = (tf.reduce_sum(distance, axis=1) - nearest) / (distance.shape[1] - 1)
    return tf.minimum(nearest - others, 0.0)


SCORE = Score(
    name="relative_dr",
    field="relative_dr",
    title="relative DR",
    meaning="distance to the nearest class less the mean distance to the others",
    values=_values,
    tensor=_tensor,
    needs=("distance",),
    low=-2.0,
    high=0.0,
    unreadable=2.0,
)
