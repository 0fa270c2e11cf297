"""Choosing prototypes among the candidates: Algorithm 1 and Table 4's baselines.

A set filter is a function of `RankedCandidates`, the number T wanted per class and a
seed; for each class it returns positions among the candidates in order of selection,
min(T, candidates) of them. `FILTERS` has all.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import tensorflow as tf
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from pmal_tf.mining.distances import pairwise_euclidean
from pmal_tf.mining.points import CentredLogits, groups_of_equals
from pmal_tf.mining.spaces import Space

_BLOCK_ROWS = 256
_GROUP_ROWS = 4096
_KMEANS_STARTS = 10


@dataclass(frozen=True)
class RankedCandidates:
    """Candidates by class and, within a class, from high to low quality.

    Attributes:
        position: [n] positions among the N training images.
        class_index: [n] ascending, every class 0..K-1 at least once.
        space: The first space, Z^1, of all N images.
    """

    position: np.ndarray
    class_index: np.ndarray
    space: Space

    @classmethod
    def of(
        cls, mask: np.ndarray, class_index: np.ndarray, rank: np.ndarray, space: Space
    ) -> RankedCandidates:
        """Sorts the candidates, where `mask` is true, among N images.

        Args:
            mask: [N] boolean.
            class_index: [N] in [0, K).
            rank: [N], each once; 0 is the best.
            space: Z^1.
        """
        position = np.flatnonzero(mask)
        position = position[np.lexsort((rank[position], class_index[position]))]
        return cls(position, class_index[position], space)

    @cached_property
    def bounds(self) -> np.ndarray:
        """[K + 1] where each class begins, and the number of candidates."""
        return np.concatenate([[0], np.cumsum(np.bincount(self.class_index))])

    def classes(self) -> list[slice]:
        """Returns the rows of each class."""
        return [slice(*ends) for ends in itertools.pairwise(self.bounds.tolist())]

    def embeddings(self, rows: slice) -> np.ndarray:
        """Returns [., D] float64 embeddings."""
        return np.asarray(self.space.embedding[self.position[rows]], np.float64)

    @cached_property
    def to_points(self) -> CentredLogits:
        """The map from positions among the images to [., K] float64 points."""
        return CentredLogits(self.space.embedding, self.space.kernel)


def algorithm1(
    candidates: RankedCandidates, wanted: int, seed: int
) -> list[np.ndarray]:
    """Selects the paper's prototypes of every class.

    Each candidate i gets E_i, its distance to the closest candidate of its class with
    higher robustness; the best one gets the largest distance of all. Those with the
    largest E are local maxima of robustness that lie apart. Eq. 8 speaks of iterating,
    but E does not depend on what was chosen, so one sort is the whole loop.

    Returns:
        For each class positions by E from large to small, then by rank. The first is
        the candidate of highest quality.
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

    Returns:
        [n] float64: E_i = min over j < i of the same class of d_M(z_i, z_j); for the
        first of a class, the largest distance within it, 0 where it is alone.
    """
    bounds, count = candidates.bounds, len(candidates.position)
    class_start = bounds[candidates.class_index]
    nearest, farthest = np.empty(count), np.empty(count)
    for group in _groups(bounds):
        points = candidates.to_points(candidates.position[group])
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


def random_choice(
    candidates: RankedCandidates, wanted: int, seed: int
) -> list[np.ndarray]:
    """Table 4 (a), Randomization: draws among the candidates of every class."""
    generator = np.random.default_rng(seed)
    return [
        rows.start + generator.permutation(rows.stop - rows.start)[:wanted]
        for rows in candidates.classes()
    ]


def kmeans(candidates: RankedCandidates, wanted: int, seed: int) -> list[np.ndarray]:
    """Table 4 (b), Clustering: T clusters of embeddings, and the member nearest each.

    In order of quality. Where candidates are so alike that there are fewer than T
    clusters, the best of the others fill up.
    """
    chosen = []
    for number, rows in enumerate(candidates.classes()):
        embeddings = candidates.embeddings(rows)
        count = min(wanted, len(np.unique(embeddings, axis=0)))
        start = (seed + number) % 2**32
        with warnings.catch_warnings():
            # Of embeddings that differ by rounding alone, some clusters may be empty.
            warnings.simplefilter("ignore", ConvergenceWarning)
            clusters = KMeans(count, n_init=_KMEANS_STARTS, random_state=start)
            label = clusters.fit_predict(embeddings)
        to_own = np.linalg.norm(embeddings - clusters.cluster_centers_[label], axis=1)
        members = [np.flatnonzero(label == cluster) for cluster in np.unique(label)]
        nearest = [own[np.argmin(to_own[own])] for own in members]
        others = np.setdiff1d(np.arange(len(embeddings)), nearest)
        picked = np.concatenate([np.sort(nearest), others[: wanted - len(nearest)]])
        chosen.append(rows.start + picked)
    return chosen


def best(candidates: RankedCandidates, wanted: int, seed: int) -> list[np.ndarray]:
    """No diversity: the candidates of highest quality (Table 3, quality only)."""
    return [
        np.arange(rows.start, min(rows.start + wanted, rows.stop))
        for rows in candidates.classes()
    ]


FILTERS: dict[str, Callable[[RankedCandidates, int, int], list[np.ndarray]]] = {
    "algorithm1": algorithm1,
    "random": random_choice,
    "kmeans": kmeans,
    "none": best,
}
