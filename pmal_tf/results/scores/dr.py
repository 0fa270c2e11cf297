"""Distance-based rejection (DR, Section 5.2): min_k d(z, P_k)."""

from __future__ import annotations

import numpy as np

from pmal_tf.results.scores.score import Arrays, Score, Tensor, Tensors


def _values(outputs: Arrays, _: Arrays) -> np.ndarray:
    return outputs["distance"].astype(np.float64).min(axis=1)


def _tensor(outputs: Tensors, _: Tensors) -> Tensor:
    import tensorflow as tf

    return tf.reduce_min(outputs["distance"], axis=1)


SCORE = Score(
    name="dr",
    field="dr",
    title="DR",
    meaning="distance to the nearest class",
    values=_values,
    tensor=_tensor,
    needs=("distance",),
    low=0.0,
    high=2.0,
    unreadable=2.0,
    is_distance=True,
)
