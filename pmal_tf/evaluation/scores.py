"""Unknown scores by rejection rule; larger means more likely unknown, everywhere."""

from __future__ import annotations

import numpy as np

RULES = ("dr", "pr", "mls")


def unknown_scores(distance: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the score of every rule.

    Args:
        distance: [n, K] point-to-set distances.
        logits: [n, K] logits.

    Returns:
        `dr` (distance, Section 5.2): min_k d(z, P_k), in [0, 2].
        `pr` (probability, Section 5.2): 1 - max_k p_k, in [0, 1).
        `mls` (maximum logit, Vaze et al. 2022): -max_k logit.
        Each [n] float64.
    """
    logits = logits.astype(np.float64)
    # 1 - max p as the sum of the other probabilities: the difference would round to 0
    # for every confident image, and ties cost AUROC.
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    others = np.sort(odds, axis=1)[:, :-1].sum(axis=1)
    return {
        "dr": distance.astype(np.float64).min(axis=1),
        "pr": others / (1.0 + others),
        "mls": -logits.max(axis=1),
    }
