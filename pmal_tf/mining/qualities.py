"""Quality of training images: the paper's robustness and the baselines of its Table 4.

A quality is a function of `QualityInput` that returns [N] float64 exponents e >= 0,
where exp(-e) stands in for the robustness r; smaller is better. `QUALITIES` has all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pmal_tf.mining.spaces import Space

MC_DROPOUT_RATE = 0.5
_MC_DROPOUT_PASSES = 20


@dataclass(frozen=True)
class QualityInput:
    """The training images as the models see them.

    Attributes:
        spaces: The U pre-trained models.
        class_index: [N] classes in [0, K).
        robustness_exponent: [N] exponents e of Eq. 7.
        dropout_space: Of a model trained with dropout on its embedding, for
            `mc_dropout`.
    """

    spaces: Sequence[Space]
    class_index: np.ndarray
    robustness_exponent: np.ndarray
    dropout_space: Space | None
    seed: int

    def log_probability(self, space: Space) -> np.ndarray:
        """Returns [N] log probabilities that a model gives to the images' classes."""
        result = np.empty(len(self.class_index))
        for where, embedding in space.chunks():
            logits = space.logits(embedding)
            result[where] = log_probability(logits, self.class_index[where])
        return result


def log_probability(logits: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Returns the [n] log probabilities of samples' own classes.

    Of [n, K] logits and [n] classes; at most 0, and exact where it rounds to 1.
    """
    rows = np.arange(len(logits))
    shifted = logits - logits.max(axis=1, keepdims=True)
    # log sum = log1p of the other classes' terms, which may be as small as 1e-300.
    others = np.exp(shifted)
    others[rows, shifted.argmax(axis=1)] = 0.0
    return shifted[rows, class_index] - np.log1p(others.sum(axis=1))


def robustness(given: QualityInput) -> np.ndarray:
    """The paper's: exponents of Eq. 7, which are there already."""
    return given.robustness_exponent


def probability(given: QualityInput) -> np.ndarray:
    """Table 4 (a): r is the probability p that M^1 gives to the image's own class.

    e = -log p, from logits, so that images still differ where p rounds to 1.
    """
    return -given.log_probability(given.spaces[0])


def deep_ensembles(given: QualityInput) -> np.ndarray:
    """Table 4 (b), Deep Ensembles (Lakshminarayanan et al., NeurIPS 2017).

    e is the variance of the own class's probability over the models, in [0, 1/4].
    """
    return np.exp([given.log_probability(space) for space in given.spaces]).var(axis=0)


def mc_dropout(given: QualityInput) -> np.ndarray:
    """Table 4 (c), Monte Carlo dropout (Gal and Ghahramani, ICML 2016).

    e is the variance of the own class's probability over 20 dropout masks at rate 0.5,
    in [0, 1/4]. The model was trained with dropout on the embedding z, and only z is
    dropped out here: everything before it is computed once.
    """
    space: Any = given.dropout_space
    generator = np.random.default_rng(given.seed)
    exponent = np.empty(len(given.class_index))
    for where, embedding in space.chunks():
        passes = []
        for _ in range(_MC_DROPOUT_PASSES):
            kept = generator.random(embedding.shape) >= MC_DROPOUT_RATE
            logits = space.logits(embedding * kept / (1 - MC_DROPOUT_RATE))
            passes.append(np.exp(log_probability(logits, given.class_index[where])))
        exponent[where] = np.var(passes, axis=0)
    return exponent


def none(given: QualityInput) -> np.ndarray:
    """All images are as good as each other (Table 3, diversity only)."""
    return np.zeros(len(given.class_index))


QUALITIES: dict[str, Callable[[QualityInput], np.ndarray]] = {
    "robustness": robustness,
    "probability": probability,
    "deep_ensembles": deep_ensembles,
    "mc_dropout": mc_dropout,
    "none": none,
}
