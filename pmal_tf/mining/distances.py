"""Distances of the paper, as pure functions of tensors."""

from __future__ import annotations

from dataclasses import dataclass

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
    embeddings: tf.Tensor,
    prototypes: tf.Tensor,
    mask: tf.Tensor,
    sharpness: float = 0.0,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Attention point-to-set distance d(z, z(P_k)), Eq. 11, and the attention a.

    For one sample z and the prototypes p_1..p_T of class k:

        a = SoftMax(z p_l / sqrt(D)),   z_att = sum_l a_l p_l,
        d = 1 - cos(z, z_att).

    The logits of that attention grow with the lengths of z and p: long embeddings
    attend to one prototype, short ones to all alike. A `sharpness` s > 0 takes the
    lengths out, a = SoftMax(s cos(z, p_l)).

    Computed in the embeddings' precision, but at least in float32: cosine margins do
    not survive half precision.

    Args:
        embeddings: [batch, D] sample embeddings.
        prototypes: [K, T, D] prototype embeddings.
        mask: Boolean, [K, T] or [batch, K, T]; False leaves a prototype out of its
            set, e.g. padding, or a sample's own image.
        sharpness: s, or 0 for Eq. 11's own attention.

    Returns:
        [batch, K] distances in [0, 2], float64 for float64 embeddings, else float32. A
        set with no prototype left, and a sample or a mean prototype of length zero, has
        distance 1. And [batch, K, T] weights, which add up to 1 over a set that has a
        prototype left, else to 0.
    """
    embeddings = _at_least_float32(embeddings)
    prototypes = tf.cast(prototypes, embeddings.dtype)
    scores = _attention_scores(embeddings, prototypes, sharpness)
    mask = tf.broadcast_to(mask, tf.shape(scores))
    scores = tf.where(mask, scores, _MASKED_SCORE)
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
    similarity = _cosines(embeddings, prototypes)
    mask = tf.broadcast_to(mask, tf.shape(similarity))
    nearest = tf.argmax(
        tf.where(mask, similarity, similarity.dtype.min), axis=-1, output_type=tf.int32
    )
    onehot = tf.one_hot(nearest, tf.shape(similarity)[-1], dtype=embeddings.dtype)
    weight = tf.where(mask, onehot, 0.0)
    return _distance_to_mean(embeddings, prototypes, weight), weight


# The values of `--set_distance`.
SET_DISTANCES = ("attention", "nearest")


@dataclass(frozen=True)
class SetDistance:
    """How a sample is measured against the prototypes of a class.

    Attributes:
        kind: `attention` or `nearest`, what `attention_to_set` and `nearest_in_set` do.
        sharpness: That of the attention; the nearest has none.
        centred: Whether the mean of all prototypes is taken as the origin. Embeddings
            that follow a ReLU lie in one corner of space, where all cosines are large
            and alike; seen from the prototypes' mean, classes lie in directions of
            their own. No gradient flows into the mean.
    """

    kind: str = "attention"
    sharpness: float = 0.0
    centred: bool = False

    def __call__(
        self,
        embeddings: tf.Tensor,
        prototypes: tf.Tensor,
        mask: tf.Tensor,
        left_out: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns [batch, K] distances and [batch, K, T] weights.

        Args:
            embeddings: [batch, D] sample embeddings.
            prototypes: [K, T, D] prototype embeddings.
            mask: [K, T] boolean, False where padded.
            left_out: [batch, K, T] boolean, True for prototypes that are no part of a
                sample's sets, e.g. its own image; they count in the mean of all.
        """
        embeddings, prototypes = self._moved(embeddings, prototypes, mask)
        if left_out is not None:
            mask = mask & ~left_out
        if self.kind == "nearest":
            return nearest_in_set(embeddings, prototypes, mask)
        return attention_to_set(embeddings, prototypes, mask, self.sharpness)

    def similarity(
        self, embeddings: tf.Tensor, prototypes: tf.Tensor, mask: tf.Tensor
    ) -> tf.Tensor:
        """Returns [batch, K, T] numbers in whose order prototypes get their weight.

        Unlike the weights they are not rounded to the same where one has nearly all.
        """
        embeddings, prototypes = self._moved(embeddings, prototypes, mask)
        if self.kind == "nearest":
            return _cosines(embeddings, prototypes)
        return _attention_scores(embeddings, prototypes, self.sharpness)

    def _moved(
        self, embeddings: tf.Tensor, prototypes: tf.Tensor, mask: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns both as seen from the origin, in one type."""
        embeddings = _at_least_float32(embeddings)
        prototypes = tf.cast(prototypes, embeddings.dtype)
        if not self.centred:
            return embeddings, prototypes
        weight = tf.cast(mask, embeddings.dtype)
        total = tf.einsum("kt,ktd->d", weight, prototypes)
        count = tf.maximum(tf.reduce_sum(weight), 1.0)
        origin = tf.stop_gradient(total / count)
        return embeddings - origin, prototypes - origin


def _attention_scores(
    embeddings: tf.Tensor, prototypes: tf.Tensor, sharpness: float
) -> tf.Tensor:
    """Returns the [batch, K, T] logits of the attention."""
    if sharpness:
        return sharpness * _cosines(embeddings, prototypes)
    dimension = tf.cast(tf.shape(embeddings)[-1], embeddings.dtype)
    return tf.einsum("bd,ktd->bkt", embeddings, prototypes) / tf.sqrt(dimension)


def _cosines(embeddings: tf.Tensor, prototypes: tf.Tensor) -> tf.Tensor:
    """Returns [batch, K, T] cosines, 0 where one of the two has no length."""
    embeddings = embeddings * _inverse_norm(embeddings)[..., None]
    prototypes = prototypes * _inverse_norm(prototypes)[..., None]
    return tf.einsum("bd,ktd->bkt", embeddings, prototypes)


def _distance_to_mean(
    embeddings: tf.Tensor, prototypes: tf.Tensor, weight: tf.Tensor
) -> tf.Tensor:
    """Returns [batch, K] values 1 - cos(z, sum_l weight_l p_l).

    As half the squared distance of the two at unit length, |u - v|^2 / 2 = 1 - u v: the
    difference of two numbers near 1 has an error of 1e-7 in float32, and the images of
    a trained network lie nearer to their class than that.
    """
    attended = tf.einsum("bkt,ktd->bkd", weight, prototypes)
    one = embeddings * _inverse_norm(embeddings)[:, None]
    other = attended * _inverse_norm(attended)[..., None]
    half = tf.reduce_sum(tf.math.squared_difference(one[:, None], other), axis=-1) / 2
    have_length = _has_length(embeddings)[:, None] & _has_length(attended)
    # Where a square overflows, the direction is lost: nothing is known of the distance.
    overflows = _overflows(embeddings)[:, None] | _overflows(attended)
    undefined = tf.constant(float("nan"), half.dtype)
    return tf.where(overflows, undefined, tf.where(have_length, half, 1.0))


def _at_least_float32(points: tf.Tensor) -> tf.Tensor:
    """Returns points in float64 if they are, else in float32."""
    points = tf.convert_to_tensor(points)
    return points if points.dtype == tf.float64 else tf.cast(points, tf.float32)


def _overflows(vectors: tf.Tensor) -> tf.Tensor:
    """Tells whether squared lengths along the last axis are not finite."""
    return ~tf.math.is_finite(tf.reduce_sum(vectors**2, axis=-1))


def _has_length(vectors: tf.Tensor) -> tf.Tensor:
    """Tells whether vectors along the last axis have a direction."""
    return tf.reduce_sum(vectors**2, axis=-1) >= _MIN_SQUARED_NORM


def _inverse_norm(vectors: tf.Tensor) -> tf.Tensor:
    """Returns 1 / |v| over the last axis, with a finite gradient at v = 0."""
    squares = tf.reduce_sum(vectors**2, axis=-1)
    return tf.math.rsqrt(tf.maximum(squares, _MIN_SQUARED_NORM))
