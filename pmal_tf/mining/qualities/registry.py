"""The qualities by name."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pmal_tf.mining.qualities.deep_ensembles import deep_ensembles
from pmal_tf.mining.qualities.mc_dropout import mc_dropout
from pmal_tf.mining.qualities.probability import probability
from pmal_tf.mining.qualities.quality_input import QualityInput

Quality = Callable[[QualityInput], np.ndarray]


def _robustness(given: QualityInput) -> np.ndarray:
    """The paper's: exponents of Eq. 7, which are there already."""
    return given.robustness_exponent


def _none(given: QualityInput) -> np.ndarray:
    """All images are as good as each other (Table 3, diversity only)."""
    return np.zeros(len(given.class_index))


QUALITIES: dict[str, Quality] = {
    "robustness": _robustness,
    "probability": probability,
    "deep_ensembles": deep_ensembles,
    "mc_dropout": mc_dropout,
    "none": _none,
}
