"""Candidates of all classes, sorted for a set filter."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pmal_tf.mining.points import CentredLogits
from pmal_tf.mining.spaces import Space


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
        cls,
        mask: np.ndarray,
        class_index: np.ndarray,
        rank: np.ndarray,
        space: Space,
    ) -> RankedCandidates:
        """Sorts the candidates among N images.

        Args:
            mask: [N] boolean, which are candidates.
            class_index: [N] in [0, K).
            rank: [N], each once; 0 is the best.
            space: Z^1.
        """
        position = np.flatnonzero(mask)
        order = np.lexsort((rank[position], class_index[position]))
        position = position[order]
        return cls(position, class_index[position], space)

    @cached_property
    def bounds(self) -> np.ndarray:
        """[K + 1] where each class begins, and the number of candidates."""
        size = np.bincount(self.class_index)
        return np.concatenate([[0], np.cumsum(size)])

    def classes(self) -> Iterator[slice]:
        """Yields the rows of each class."""
        for start, stop in itertools.pairwise(self.bounds):
            yield slice(int(start), int(stop))

    def embeddings(self, rows: slice) -> np.ndarray:
        """Returns [., D] float64 embeddings."""
        return np.asarray(self.space.embedding[self.position[rows]], np.float64)

    def points(self, rows: slice) -> np.ndarray:
        """Returns [., K] float64 points; see `pmal_tf.mining.points.CentredLogits`."""
        return self._to_points(self.position[rows])

    @cached_property
    def _to_points(self) -> CentredLogits:
        return CentredLogits(self.space.embedding, self.space.kernel)
