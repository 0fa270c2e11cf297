"""Cosine distance to the nearest class mean of training embeddings.

    min_k (1 - cos(z, m_k)),    m_k = the mean embedding of class k's training images

Every model has it, without prototypes: the plain reference for DR, which differs from
it in its anchors alone.
"""

from __future__ import annotations

import numpy as np

from pmal_tf.results.scores.score import Arrays, Score, Tensor, Tensors

CLASS_MEAN = "class_mean"


def distance_to_means(outputs: Arrays, statistics: Arrays) -> np.ndarray:
    """Returns [n, K] cosine distances, float64; 1 where one has no length."""
    embedding = _directions(outputs["embedding"].astype(np.float64))
    return np.maximum(1.0 - embedding @ statistics["means"].T, 0.0)


def _values(outputs: Arrays, statistics: Arrays) -> np.ndarray:
    return distance_to_means(outputs, statistics).min(axis=1)


def _tensor(outputs: Tensors, statistics: Tensors) -> Tensor:
    """Returns half the squared distance of unit vectors, since 1 - cosine cancels."""
    import tensorflow as tf

    embedding, means = outputs["embedding"], statistics["means"]
    largest = tf.reduce_max(tf.abs(embedding), axis=1, keepdims=True)
    # Divided first: the square of a huge embedding may not be finite.
    embedding = tf.math.l2_normalize(tf.math.divide_no_nan(embedding, largest), axis=1)
    nearest = tf.argmax(tf.matmul(embedding, means, transpose_b=True), axis=1)
    mean = tf.gather(means, nearest)
    half = tf.reduce_sum(tf.math.squared_difference(embedding, mean), axis=1) / 2.0
    have_length = tf.reduce_any(embedding != 0, 1) & tf.reduce_any(mean != 0, 1)
    return tf.where(have_length, half, 1.0)


def _statistics(outputs: Arrays, label: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the [K, D] directions of the class means."""
    means = [
        outputs["embedding"][label == k].mean(axis=0, dtype=np.float64)
        for k in np.unique(label)
    ]
    return {"means": _directions(np.stack(means))}


def _directions(points: np.ndarray) -> np.ndarray:
    """Returns points at length 1, and 0 where they have none."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    # What is not a number has no direction either, and says so.
    with np.errstate(invalid="ignore"):
        return np.divide(points, length, out=np.zeros_like(points), where=length != 0)


SCORE = Score(
    name=CLASS_MEAN,
    field=CLASS_MEAN,
    title="class mean",
    meaning="cosine distance to the nearest class's mean embedding",
    values=_values,
    tensor=_tensor,
    needs=("embedding",),
    statistics=_statistics,
    low=0.0,
    high=2.0,
    unreadable=2.0,
)
