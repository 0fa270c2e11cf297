"""Table 4 (b), Deep Ensembles (Lakshminarayanan et al., NeurIPS 2017)."""

from __future__ import annotations

import numpy as np

from pmal_tf.mining.qualities.quality_input import QualityInput
from pmal_tf.mining.spaces import log_probability


def deep_ensembles(given: QualityInput) -> np.ndarray:
    """Replaces r by exp(-variance of the own class's probability over the models).

    Returns:
        [N] exponents, the variances, in [0, 1/4].
    """
    probability = np.empty((len(given.spaces), len(given.class_index)))
    for row, space in zip(probability, given.spaces, strict=True):
        for where, embedding in space.chunks():
            logits = space.logits(embedding)
            row[where] = np.exp(log_probability(logits, given.class_index[where]))
    return probability.var(axis=0)
