"""Table 4 (a), Probability: images that M^1 is surest of."""

from __future__ import annotations

import numpy as np

from pmal_tf.mining.qualities.quality_input import QualityInput
from pmal_tf.mining.spaces import log_probability


def probability(given: QualityInput) -> np.ndarray:
    """Replaces r by the probability that M^1 gives to the image's own class.

    Returns:
        [N] exponents e = -log p. Taken from logits, so that images still differ where p
        rounds to 1.
    """
    space, exponent = given.spaces[0], np.empty(len(given.class_index))
    for where, embedding in space.chunks():
        logits = space.logits(embedding)
        exponent[where] = -log_probability(logits, given.class_index[where])
    return exponent
