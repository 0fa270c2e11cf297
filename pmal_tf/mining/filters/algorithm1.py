"""Algorithm 1: diverse prototypes from the candidates of each class."""

from __future__ import annotations

import itertools

import numpy as np
import tensorflow as tf

from pmal_tf.mining.distances import pairwise_euclidean
from pmal_tf.mining.filters.ranked_candidates import RankedCandidates
from pmal_tf.mining.points import groups_of_equals

_BLOCK_ROWS = 256
_GROUP_ROWS = 4096


def algorithm1(
    candidates: RankedCandidates, wanted: int, seed: int
) -> list[np.ndarray]:
    """Selects T prototypes of every class.

    Each candidate i gets E_i, its distance to the closest candidate of its class with
    higher robustness; the best one gets the largest distance of all. Those with the
    largest E are local maxima of robustness that lie apart. Eq. 8 speaks of iterating,
    but E does not depend on what was chosen, so one sort is the whole loop.

    Returns:
        For each class min(T, n_k) positions, by E from large to small, then by rank.
        The first is the candidate of highest quality.
    """
    spread = nearest_better_distance(candidates)
    # Stable: equal E keep the order of rank, and the best, whose E is the maximum,
    # stays first.
    return [
        rows.start + np.argsort(-spread[rows], kind="stable")[:wanted]
        for rows in candidates.classes()
    ]


def nearest_better_distance(candidates: RankedCandidates) -> np.ndarray:
    """Returns E of Algorithm 1 for candidates sorted by class and quality.

    With that order "of higher robustness" is "before i". Classes are worked through
    together: a block of rows is compared with all candidates from the start of its
    first row's class on, under a mask of pairs of one class.

    Args:
        candidates: n candidates.

    Returns:
        [n] float64: E_i = min over j < i of the same class of d_M(z_i, z_j); for the
        first of a class, the largest distance within it, 0 where it is alone.
    """
    bounds, count = candidates.bounds, len(candidates.position)
    class_start = bounds[candidates.class_index]
    nearest, farthest = np.empty(count), np.empty(count)
    for group in _groups(bounds):
        points = candidates.points(group)
        _, equals = groups_of_equals([points])
        given = (
            tf.constant(points),
            tf.constant(candidates.class_index[group], tf.int32),
            tf.constant(equals, tf.int32),
        )
        for start in range(group.start, group.stop, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, group.stop)
            own = slice(start, stop)
            limits = np.array([class_start[start], start, stop]) - group.start
            nearest[own], farthest[own] = _block(*given, tf.constant(limits))
    first = bounds[:-1]
    nearest[first] = np.maximum.reduceat(farthest, first)
    return nearest


def _groups(bounds: np.ndarray) -> list[slice]:
    """Cuts the classes into runs of about 4,096 candidates, a larger class by itself.

    Their points are computed together and held at once.
    """
    groups, start = [], 0
    for previous, end in itertools.pairwise(bounds):
        if previous > start and end - start > _GROUP_ROWS:
            groups.append(slice(start, int(previous)))
            start = int(previous)
    return [*groups, slice(start, int(bounds[-1]))]


@tf.function(
    input_signature=[
        tf.TensorSpec((None, None), tf.float64),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((3,), tf.int64),
    ]
)
def _block(
    points: tf.Tensor, labels: tf.Tensor, equals: tf.Tensor, limits: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns each row's smallest and largest distance to those before it in its class.

    Args:
        points: [n, K].
        labels: [n].
        equals: [n]; candidates with the same number are at distance 0, whatever
            rounding makes of it, so that their order is that of rank.
        limits: First column, first row, and where both end.
    """
    begin, start, stop = tf.unstack(limits)
    distance = pairwise_euclidean(points[start:stop], points[begin:stop])
    apart = equals[None, begin:stop] != equals[start:stop, None]
    distance *= tf.cast(apart, tf.float64)
    before = tf.range(begin, stop)[None, :] < tf.range(start, stop)[:, None]
    same = labels[None, begin:stop] == labels[start:stop, None]
    better = before & same
    nearest = tf.reduce_min(tf.where(better, distance, tf.float64.max), axis=1)
    return nearest, tf.reduce_max(tf.where(better, distance, 0.0), axis=1)
