"""No diversity: the best candidates (Table 3, high quality only)."""

from __future__ import annotations

import numpy as np

from pmal_tf.mining.filters.ranked_candidates import RankedCandidates


def best(candidates: RankedCandidates, wanted: int, seed: int) -> list[np.ndarray]:
    """Selects the T candidates of highest quality of every class."""
    return [
        np.arange(rows.start, min(rows.start + wanted, rows.stop))
        for rows in candidates.classes()
    ]
