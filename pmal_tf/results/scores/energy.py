"""Energy (Liu et al., NeurIPS 2020) at temperature 1: -log sum_k exp(logit_k)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pmal_tf.results.scores.score import LARGEST, Arrays, Score

if TYPE_CHECKING:
    import tensorflow as tf


def _values(outputs: Arrays, _: Arrays) -> np.ndarray:
    """Returns [n] numbers."""
    return -np.logaddexp.reduce(outputs["logits"].astype(np.float64), axis=1)


def _tensor(outputs: Mapping[str, tf.Tensor], _: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Returns the same in a graph."""
    import tensorflow as tf

    return -tf.reduce_logsumexp(outputs["logits"], axis=1)


SCORE = Score(
    name="energy",
    field="energy",
    title="Energy",
    meaning="- log of the sum of exp(logit)",
    low=-LARGEST,
    high=LARGEST,
    needs=("logits",),
    values=_values,
    tensor=_tensor,
)
