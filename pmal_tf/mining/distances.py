"""Distances of the paper, as pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

# Smallest squared norm that is divided by; below it a vector counts as zero and its
# cosine as 0. The square keeps clear of float32's smallest normal number.
_MIN_SQUARED_NORM = 1e-24
_MASKED_SCORE = -1e30


def squared_norms(points: tf.Tensor) -> tf.Tensor:
    """Returns the [n] squared lengths of [n, K] points."""
    return tf.reduce_sum(points**2, axis=1)


def pairwise_euclidean(
    rows: tf.Tensor,
    columns: tf.Tensor,
    row_norms: tf.Tensor | None = None,
    column_norms: tf.Tensor | None = None,
) -> tf.Tensor:
    """Returns the [n, m] Euclidean distances of [n, K] rows to [m, K] columns.

    Squares are expanded, so centre both sides first, or digits are lost. Pass the
    `squared_norms` of both where they are known already.
    """
    if row_norms is None:
        row_norms = squared_norms(rows)
    if column_norms is None:
        column_norms = squared_norms(columns)
    products = tf.matmul(rows, columns, transpose_b=True)
    squares = row_norms[:, None] + column_norms[None, :] - 2.0 * products
    return tf.sqrt(tf.maximum(squares, 0.0))


def attention_to_set(
    embeddings: tf.Tensor, prototypes: tf.Tensor, mask: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Attention point-to-set distance d(z, z(P_k)), Eq. 11, and the attention a.

    For one sample z and the prototypes p_1..p_T of class k:

        a = SoftMax(z p_l / sqrt(D)),   z_att = sum_l a_l p_l,
        d = 1 - cos(z, z_att).

    Computed in the embeddings' precision, but at least in float32: cosine margins do
    not survive half precision.

    Args:
        embeddings: [batch, D] sample embeddings.
        prototypes: [K, T, D] prototype embeddings.
        mask: Boolean, [K, T] or [batch, K, T]; False leaves a prototype out of its
            set, e.g. padding, or a sample's own image.

    Returns:
        [batch, K] distances in [0, 2], float64 for float64 embeddings, else float32. A
        set with no prototype left, and a sample or a mean prototype of length zero, has
        distance 1. And [batch, K, T] weights, which add up to 1 over a set that has a
        prototype left, else to 0.
    """
    embeddings = _at_least_float32(embeddings)
    prototypes = tf.cast(prototypes, embeddings.dtype)
    dimension = tf.cast(tf.shape(embeddings)[-1], embeddings.dtype)
    similarity = tf.einsum("bd,ktd->bkt", embeddings, prototypes)
    mask = tf.broadcast_to(mask, tf.shape(similarity))
    scores = tf.where(mask, similarity / tf.sqrt(dimension), _MASKED_SCORE)
    # The second `where` empties sets that are masked whole, where softmax is uniform.
    attention = tf.where(mask, tf.nn.softmax(scores, axis=-1), 0.0)
    return _distance_to_mean(embeddings, prototypes, attention), attention


def nearest_in_set(
    embeddings: tf.Tensor, prototypes: tf.Tensor, mask: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Distance to the nearest prototype of a set, min_l (1 - cos(z, p_l)).

    "The commonly adopted way" that Table 3 compares Eq. 11 with. It is Eq. 11 with all
    attention on the prototype of the largest cosine.

    Takes and returns what `attention_to_set` does; the weights are 1 for the nearest
    prototype, else 0.
    """
    embeddings = _at_least_float32(embeddings)
    prototypes = tf.cast(prototypes, embeddings.dtype)
    # The sample's own length does not change which prototype is nearest.
    directions = prototypes * _inverse_norm(prototypes)[..., None]
    similarity = tf.einsum("bd,ktd->bkt", embeddings, directions)
    mask = tf.broadcast_to(mask, tf.shape(similarity))
    nearest = tf.argmax(
        tf.where(mask, similarity, similarity.dtype.min), axis=-1, output_type=tf.int32
    )
    onehot = tf.one_hot(nearest, tf.shape(similarity)[-1], dtype=embeddings.dtype)
    weight = tf.where(mask, onehot, 0.0)
    return _distance_to_mean(embeddings, prototypes, weight), weight


# Distances of samples to sets of prototypes, by the value of `--set_distance`.
SET_DISTANCES: dict[
    str, Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
] = {"attention": attention_to_set, "nearest": nearest_in_set}


def _distance_to_mean(
    embeddings: tf.Tensor, prototypes: tf.Tensor, weight: tf.Tensor
) -> tf.Tensor:
    """Returns [batch, K] values 1 - cos(z, sum_l weight_l p_l)."""
    attended = tf.einsum("bkt,ktd->bkd", weight, prototypes)
    cosine = tf.einsum("bd,bkd->bk", embeddings, attended)
    cosine *= _inverse_norm(embeddings)[:, None] * _inverse_norm(attended)
    return 1.0 - cosine


def _at_least_float32(points: tf.Tensor) -> tf.Tensor:
    """Returns points in float64 if they are, else in float32."""
    points = tf.convert_to_tensor(points)
    return points if points.dtype == tf.float64 else tf.cast(points, tf.float32)


def _inverse_norm(vectors: tf.Tensor) -> tf.Tensor:
    """Returns 1 / |v| over the last axis, with a finite gradient at v = 0."""
    squares = tf.reduce_sum(vectors**2, axis=-1)
    return tf.math.rsqrt(tf.maximum(squares, _MIN_SQUARED_NORM))
