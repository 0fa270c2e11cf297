"""Energy (Liu et al., NeurIPS 2020) at temperature 1: -log sum_k exp(logit_k)."""

from __future__ import annotations

import numpy as np

from pmal_tf.results.scores.score import Arrays, Score, Tensor, Tensors


def _values(outputs: Arrays, _: Arrays) -> np.ndarray:
    return -np.logaddexp.reduce(outputs["logits"].astype(np.float64), axis=1)


def _tensor(outputs: Tensors, _: Tensors) -> Tensor:
    import tensorflow as tf

    return -tf.reduce_logsumexp(outputs["logits"], axis=1)


SCORE = Score(
    name="energy",
    field="energy",
    title="Energy",
    meaning="- log of the sum of exp(logit)",
    values=_values,
    tensor=_tensor,
)
