"""Table 4 (a), Randomization: prototypes are drawn from the candidates."""

from __future__ import annotations

import numpy as np

from pmal_tf.mining.filters.ranked_candidates import RankedCandidates


def random_choice(
    candidates: RankedCandidates, wanted: int, seed: int
) -> list[np.ndarray]:
    """Draws T candidates of every class."""
    generator = np.random.default_rng(seed)
    return [
        rows.start + generator.permutation(rows.stop - rows.start)[:wanted]
        for rows in candidates.classes()
    ]
