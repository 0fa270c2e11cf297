"""What a quality is computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pmal_tf.mining.spaces import Space


@dataclass(frozen=True)
class QualityInput:
    """The training images as the models see them.

    Attributes:
        spaces: The U pre-trained models.
        class_index: [N] classes in [0, K).
        robustness_exponent: [N] exponents e of Eq. 7.
        dropout_space: A model that was trained with dropout on its embedding, where
            there is one.
        seed: Seed of what is random.
    """

    spaces: Sequence[Space]
    class_index: np.ndarray
    robustness_exponent: np.ndarray
    dropout_space: Space | None
    seed: int
