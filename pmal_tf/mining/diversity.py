"""Diverse prototypes from the candidates of a class (Algorithm 1)."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pmal_tf.distances import pairwise_euclidean
from pmal_tf.errors import PmalError

_BLOCK_ENTRIES = 1 << 21


def diverse_subset(
    logits: np.ndarray, rank: np.ndarray, wanted: int, *, block_rows: int | None = None
) -> np.ndarray:
    """Selects prototypes from the candidates of one class, Algorithm 1.

    Each candidate i gets E_i, its distance to the closest candidate of higher
    robustness; the best one gets the largest distance of all. Those with the largest E
    are local maxima of robustness that lie apart. Eq. 8 speaks of iterating, but E does
    not depend on what was chosen, so one sort is the whole loop.

    With the candidates sorted by robustness, "of higher robustness" is "j < i".

    Args:
        logits: [n, K] centred logits of the candidates in Z^1
            (`pmal_tf.distances.centred_logits`), whose Euclidean distance is the
            paper's Mahalanobis distance.
        rank: [n] ranks, each once; the lowest is the most robust candidate.
        wanted: Number T of prototypes.
        block_rows: Rows of the distance matrix held at once.

    Returns:
        [min(T, n)] positions among the candidates, in order of selection: by E from
        large to small, then by rank. The first is the candidate of highest robustness.

    Raises:
        PmalError: If `wanted` is below 1 or there is no candidate.
    """
    if wanted < 1 or len(logits) == 0:
        raise PmalError(
            "Algorithm 1 needs at least one candidate and T >= 1. Received: "
            f"{len(logits)} candidates, T={wanted}"
        )
    by_rank = np.argsort(rank, kind="stable")
    spread = nearest_better_distance(
        tf.constant(logits[by_rank], tf.float64), block_rows
    )
    # Stable: equal E keep the order of rank, and E_0, the maximum, stays first.
    chosen = np.argsort(-spread, kind="stable")[:wanted]
    return by_rank[chosen]


def nearest_better_distance(logits: tf.Tensor, block_rows: int | None) -> np.ndarray:
    """Returns E of Algorithm 1 for candidates sorted from high to low robustness.

    Args:
        logits: [n, K] float64.
        block_rows: Rows per block, or None for as many as keep memory small.

    Returns:
        [n]: E_i = min over j < i of d(i, j), and E_0 the maximum of all distances.
    """
    count = logits.shape[0]
    rows = min(count, block_rows or max(1, _BLOCK_ENTRIES // count))
    nearest, farthest = [], 0.0
    for start in range(0, count, rows):
        # The last block overlaps the one before, so that all have one shape.
        begin = min(start, count - rows)
        block_nearest, block_farthest = _nearest_better_block(logits, begin, rows)
        nearest.append(block_nearest.numpy()[start - begin :])
        farthest = max(farthest, float(block_farthest))
    spread = np.concatenate(nearest)
    spread[0] = farthest
    return spread


@tf.function(
    input_signature=[
        tf.TensorSpec((None, None), tf.float64),
        tf.TensorSpec((), tf.int32),
        tf.TensorSpec((), tf.int32),
    ]
)
def _nearest_better_block(
    logits: tf.Tensor, begin: tf.Tensor, rows: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns, for a block of rows, the nearest better distance and the largest."""
    distance = pairwise_euclidean(logits[begin : begin + rows], logits)
    row = begin + tf.range(rows)
    better = tf.range(tf.shape(logits)[0])[None, :] < row[:, None]
    nearest = tf.reduce_min(tf.where(better, distance, tf.float64.max), axis=1)
    return nearest, tf.reduce_max(distance)
