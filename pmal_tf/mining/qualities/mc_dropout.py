"""Table 4 (c), Monte Carlo dropout (Gal and Ghahramani, ICML 2016)."""

from __future__ import annotations

import numpy as np

from pmal_tf.mining.qualities.quality_input import QualityInput
from pmal_tf.mining.spaces import log_probability

RATE = 0.5
PASSES = 20


def mc_dropout(given: QualityInput) -> np.ndarray:
    """Replaces r by exp(-variance of the own class's probability over dropout masks).

    The model was trained with dropout on the embedding z, and only z is dropped out
    here: everything before it is computed once.

    Returns:
        [N] exponents, the variances over 20 passes at rate 0.5, in [0, 1/4].

    Raises:
        ValueError: If there is no model that was trained with dropout on z.
    """
    space = given.dropout_space
    if space is None:
        raise ValueError("mc_dropout needs a `dropout_space`")
    generator = np.random.default_rng(given.seed)
    exponent = np.empty(len(given.class_index))
    for where, embedding in space.chunks():
        labels = given.class_index[where]
        passes = []
        for _ in range(PASSES):
            kept = generator.random(embedding.shape) >= RATE
            logits = space.logits(embedding * kept / (1 - RATE))
            passes.append(np.exp(log_probability(logits, labels)))
        exponent[where] = np.var(passes, axis=0)
    return exponent
