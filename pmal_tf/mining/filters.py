"""Choosing prototypes among the candidates: Algorithm 1 and what stands beside it.

A set filter is a function of the candidates, Z^1, the number T wanted per class and a
seed. Candidates and prototypes are, for each class, [n] positions among the N images:
candidates from high to low quality, at least one of every class; prototypes in order of
selection, min(T, candidates) of them. `FILTERS` has all.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from pmal_tf.mining.coverage import facility_location, k_medoids
from pmal_tf.mining.distances import pairwise_euclidean
from pmal_tf.mining.points import CentredLogits, groups_of_equals
from pmal_tf.mining.spaces import Space

_BLOCK_ROWS = 256
_GROUP_ROWS = 4096
_KMEANS_STARTS = 10

Positions = list[np.ndarray]


def algorithm1(
    candidates: Positions, space: Space, wanted: int, seed: int
) -> Positions:
    """Selects the paper's prototypes of every class.

    Each candidate i gets E_i, its distance to the closest candidate of its class with
    higher robustness; the best one gets the largest distance of all. Those with the
    largest E are local maxima of robustness that lie apart. Eq. 8 speaks of iterating,
    but E does not depend on what was chosen, so one sort is the whole loop.

    Returns:
        Positions by E from large to small, then by rank; the best candidate is first.
    """
    distances = nearest_better_distances(candidates, space)
    # Stable: equal E keep the order of rank, and the best, whose E is the maximum,
    # stays first.
    return [
        own[np.argsort(-distance, kind="stable")[:wanted]]
        for own, distance in zip(candidates, distances, strict=True)
    ]


def nearest_better_distances(candidates: Positions, space: Space) -> list[np.ndarray]:
    """Returns E of Algorithm 1.

    With candidates in order "of higher robustness" is "before i". Classes are worked
    through together: a block of rows is compared with all candidates from the start of
    its first row's class on, under a mask of pairs of one class.

    Returns:
        For each class [n] float64: E_i = min over j < i of d_M(z_i, z_j); for the first
        the largest distance within the class, 0 where it is alone.
    """
    position = np.concatenate(candidates)
    bounds = np.cumsum([0, *map(len, candidates)])
    class_index = np.repeat(np.arange(len(candidates)), np.diff(bounds))
    class_start = bounds[class_index]
    to_points = CentredLogits(space.embedding, space.kernel)
    nearest, farthest = np.empty(len(position)), np.empty(len(position))
    for group in _groups(bounds):
        points = to_points(position[group])
        _, equals = groups_of_equals([points])
        given = (
            tf.constant(points),
            tf.constant(class_index[group], tf.int32),
            tf.constant(equals, tf.int32),
        )
        for start in range(group.start, group.stop, _BLOCK_ROWS):
            stop = min(start + _BLOCK_ROWS, group.stop)
            own = slice(start, stop)
            limits = np.array([class_start[start], start, stop]) - group.start
            nearest[own], farthest[own] = _block(*given, tf.constant(limits))
    first = bounds[:-1]
    nearest[first] = np.maximum.reduceat(farthest, first)
    return np.split(nearest, bounds[1:-1])


def _groups(bounds: np.ndarray) -> list[slice]:
    """Cuts the classes into runs of about 4,096 candidates, a larger class by itself.

    The points of a run are computed together and held at once.
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

    Points are [n, K], `limits` the first column, the first row, and where both end.
    Candidates with the same number in `equals` are at distance 0, whatever rounding
    makes of it, so that their order is that of rank.
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


def random_choice(
    candidates: Positions, space: Space, wanted: int, seed: int
) -> Positions:
    """Table 4 (a), Randomization: draws among the candidates of every class."""
    generator = np.random.default_rng(seed)
    return [own[generator.permutation(len(own))[:wanted]] for own in candidates]


def kmeans(candidates: Positions, space: Space, wanted: int, seed: int) -> Positions:
    """Table 4 (b), Clustering: T clusters of embeddings, and the member nearest each.

    In order of quality. Where candidates are so alike that there are fewer than T
    clusters, the best of the others fill up.
    """
    chosen = []
    for number, own in enumerate(candidates):
        embeddings = np.asarray(space.embedding[own], np.float64)
        count = min(wanted, len(np.unique(embeddings, axis=0)))
        start = (seed + number) % 2**32
        with warnings.catch_warnings():
            # Of embeddings that differ by rounding alone, some clusters may be empty.
            warnings.simplefilter("ignore", ConvergenceWarning)
            clusters = KMeans(count, n_init=_KMEANS_STARTS, random_state=start)
            label = clusters.fit_predict(embeddings)
        to_centre = np.linalg.norm(
            embeddings - clusters.cluster_centers_[label], axis=1
        )
        members = [np.flatnonzero(label == cluster) for cluster in np.unique(label)]
        nearest = [rows[np.argmin(to_centre[rows])] for rows in members]
        others = np.setdiff1d(np.arange(len(own)), nearest)
        picked = np.concatenate([np.sort(nearest), others[: wanted - len(nearest)]])
        chosen.append(own[picked])
    return chosen


def best(candidates: Positions, space: Space, wanted: int, seed: int) -> Positions:
    """No diversity: the candidates of highest quality (Table 3, quality only)."""
    return [own[:wanted] for own in candidates]


FILTERS: dict[str, Callable[[Positions, Space, int, int], Positions]] = {
    "algorithm1": algorithm1,
    "random": random_choice,
    "kmeans": kmeans,
    "facility_location": facility_location,
    "k_medoids": k_medoids,
    "none": best,
}
