"""Prototypes that cover the candidates: k-medoids and facility location.

Algorithm 1 seeks the rim of a class; these its middle and then the middles of its
parts. Both make sum_i min_p d_M(z_i, z_p) small, over the candidates i and the T
prototypes p of a class, with d_M in Z^1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pmal_tf.mining.distances import pairwise_euclidean
from pmal_tf.mining.points import CentredLogits, groups_of_equals
from pmal_tf.mining.spaces import Space

_BLOCK_ROWS = 256
# Distances between more candidates of a class are computed anew for every step.
_KEPT_ROWS = 4096
# PAM ends by itself, as a rule after fewer swaps than there are prototypes.
_MOST_SWAPS = 100
# Share of a sum that rounding may make: sums that differ by less are equal.
_ROUNDING = 1e-12


def facility_location(
    candidates: list[np.ndarray], space: Space, wanted: int, seed: int
) -> list[np.ndarray]:
    """Takes the candidate that lowers the sum most, T times: BUILD of PAM.

    The sum is a constant less the facility location function sum_i max_p s_ip with
    s = max d - d. That is submodular, so the T of this greedy choice gain at least
    1 - 1/e of what any T would (Nemhauser et al., 1978).

    Returns:
        Positions in order of selection; of equals the one of higher quality.
    """
    to_points = CentredLogits(space.embedding, space.kernel)
    return [own[_build(_Distances(to_points(own)), wanted)] for own in candidates]


def k_medoids(
    candidates: list[np.ndarray], space: Space, wanted: int, seed: int
) -> list[np.ndarray]:
    """As `facility_location`, then swaps prototypes while that lowers the sum.

    The best swap first: PAM (Kaufman and Rousseeuw, 1990), which all prototypes go
    through at once for every candidate as in FastPAM (Schubert and Rousseeuw, 2019).

    Returns:
        Positions in order of quality.
    """
    to_points, chosen = CentredLogits(space.embedding, space.kernel), []
    for own in candidates:
        distances = _Distances(to_points(own))
        chosen.append(own[np.sort(_swap(distances, _build(distances, wanted)))])
    return chosen


class _Distances:
    """The [n, n] distances between [n, K] points of a class, by blocks of rows."""

    def __init__(self, points: np.ndarray) -> None:
        self._points = points
        _, self._equals = groups_of_equals([points])
        self.count = len(points)
        starts = range(0, self.count, _BLOCK_ROWS)
        self._blocks = [slice(start, start + _BLOCK_ROWS) for start in starts]
        kept = self.count <= _KEPT_ROWS
        self._kept = [self.of(rows) for rows in self._blocks] if kept else None

    def of(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns the [m, n] distances of some to all."""
        distance = pairwise_euclidean(self._points[rows], self._points).numpy()
        # Equal candidates are at distance 0, whatever rounding makes of it.
        return distance * (self._equals[rows][:, None] != self._equals)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the blocks, [rows, n]."""
        yield from self._kept or map(self.of, self._blocks)


def _build(distances: _Distances, wanted: int) -> np.ndarray:
    """Returns the [min(T, n)] places among the candidates that are chosen greedily."""
    nearest = np.full(distances.count, np.inf)
    chosen = np.zeros(0, np.int64)
    for _ in range(min(wanted, distances.count)):
        sums = np.concatenate([np.minimum(d, nearest).sum(axis=1) for d in distances])
        sums[chosen] = np.inf
        chosen = np.append(chosen, _least(sums))
        nearest = np.minimum(nearest, distances.of(chosen[-1:])[0])
    return chosen


def _swap(distances: _Distances, chosen: np.ndarray) -> np.ndarray:
    """Returns [T] places after the swaps that lower the sum."""
    for _ in range(_MOST_SWAPS):
        to_chosen = distances.of(chosen)
        serves = to_chosen.argmin(axis=0) == np.arange(len(chosen))[:, None]
        nearest = to_chosen.min(axis=0)
        second = np.where(serves, np.inf, to_chosen).min(axis=0)
        sums = np.concatenate(
            [_sums_of_swaps(d, nearest, second, serves) for d in distances]
        )
        new, old = np.unravel_index(_least(sums.ravel()), sums.shape)
        if sums[new, old] >= nearest.sum() * (1.0 - _ROUNDING):
            break
        chosen[old] = new
    return chosen


def _least(sums: np.ndarray) -> int:
    """Returns the first place of the least of [m] sums, rounding aside."""
    return int(np.argmax(sums <= sums.min() * (1.0 + _ROUNDING)))


def _sums_of_swaps(
    distance: np.ndarray, nearest: np.ndarray, second: np.ndarray, serves: np.ndarray
) -> np.ndarray:
    """Returns [m, T] sums with candidate j in place of prototype p.

    What p served goes to j or to its second nearest; all else goes to j or stays.

    Args:
        distance: [m, n] of the candidates j to all.
        nearest: [n] distances to the nearest prototype.
        second: [n] distances to the second nearest, infinite if there is none.
        serves: [T, n] whether p is the nearest.
    """
    stay = np.minimum(distance, nearest)
    more = np.minimum(distance, second) - stay
    return stay.sum(axis=1)[:, None] + more @ serves.T
