"""Table 4 (b), Clustering: the candidates nearest to the centres of K-means."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from pmal_tf.mining.filters.ranked_candidates import RankedCandidates

_STARTS = 10


def kmeans(candidates: RankedCandidates, wanted: int, seed: int) -> list[np.ndarray]:
    """Clusters the embeddings of every class in T and selects the member nearest each.

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
            clusters = KMeans(count, n_init=_STARTS, random_state=start).fit(embeddings)
        to_own = np.linalg.norm(
            embeddings - clusters.cluster_centers_[clusters.labels_], axis=1
        )
        nearest = [
            members[np.argmin(to_own[members])]
            for members in (
                np.flatnonzero(clusters.labels_ == k)
                for k in np.unique(clusters.labels_)
            )
        ]
        others = np.setdiff1d(np.arange(len(embeddings)), nearest)
        picked = np.concatenate([np.sort(nearest), others[: wanted - len(nearest)]])
        chosen.append(rows.start + picked)
    return chosen
