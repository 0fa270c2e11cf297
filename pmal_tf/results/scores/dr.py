"""Distance-based rejection (DR, Section 5.2): min_k d(z, P_k)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pmal_tf.results.scores.score import Arrays, Score

if TYPE_CHECKING:
    import tensorflow as tf


def _values(outputs: Arrays, _: Arrays) -> np.ndarray:
    """Returns [n] distances to the nearest class."""
    return outputs["distance"].astype(np.float64).min(axis=1)


def _tensor(outputs: Mapping[str, tf.Tensor], _: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns the same in a graph."""
    import tensorflow as tf

    return tf.reduce_min(outputs["distance"], axis=1)


SCORE = Score(
    name="dr",
    field="dr",
    title="DR",
    meaning="distance to the nearest class",
    low=0.0,
    high=2.0,
    needs=("distance",),
    values=_values,
    tensor=_tensor,
    unreadable=2.0,
    is_distance=True,
)
