"""Eq. 7 and its scale-free forms by full float64 matrices and a loop over images."""

import numpy as np
from scipy.spatial.distance import cdist


def oracle_distances(embedding, kernel):
    """[N, N] Mahalanobis distances, Eq. 6."""
    kernel = np.asarray(kernel, np.float64)
    points = np.asarray(embedding, np.float64) @ (kernel - kernel.mean(1)[:, None])
    return cdist(points, points)


def oracle_exponent(first, second, topology):
    """[N] exponents from two [N, N] matrices of distances."""
    return np.array(
        [
            {
                "correlation": lambda a, b: 1.0 - np.corrcoef(a, b)[0, 1],
                "chord": lambda a, b: np.linalg.norm(
                    a / np.linalg.norm(a) - b / np.linalg.norm(b)
                ),
                "rms": lambda a, b: np.sqrt(np.mean((a - b) ** 2)),
                "literal": lambda a, b: np.linalg.norm(a - b),
            }[topology](*rows)
            for rows in zip(first, second, strict=True)
        ]
    )


def oracle_bound(exponent, distances, topology):
    """[N] errors that float32 may make, as documented."""
    if topology == "chord":
        return 1e-5 * exponent + 1e-6
    if topology == "correlation":
        spread = max((own.mean(1) / own.std(1)).max() for own in distances)
        return 1e-5 * exponent + 5e-6 * spread * np.sqrt(exponent)
    scale = np.sqrt(len(exponent)) if topology == "literal" else 1.0
    return 1e-5 * exponent + 1e-5 * scale * distances[0].mean()
