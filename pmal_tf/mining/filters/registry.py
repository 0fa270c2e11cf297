"""The set filters by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pmal_tf.mining.filters.algorithm1 import algorithm1
from pmal_tf.mining.filters.best import best
from pmal_tf.mining.filters.kmeans import kmeans
from pmal_tf.mining.filters.random_choice import random_choice
from pmal_tf.mining.filters.ranked_candidates import RankedCandidates

SetFilter = Callable[[RankedCandidates, int, int], list[np.ndarray]]

FILTERS: dict[str, SetFilter] = {
    "algorithm1": algorithm1,
    "random": random_choice,
    "kmeans": kmeans,
    "none": best,
}
