"""Maximum logit (MLS, Vaze et al. 2022): -max_k logit."""

from __future__ import annotations

import numpy as np

from pmal_tf.results.scores.score import Arrays, Score, Tensor, Tensors


def _values(outputs: Arrays, _: Arrays) -> np.ndarray:
    return -outputs["logits"].astype(np.float64).max(axis=1)


def _tensor(outputs: Tensors, _: Tensors) -> Tensor:
    import tensorflow as tf

    return -tf.reduce_max(outputs["logits"], axis=1)


SCORE = Score(
    name="mls",
    field="mls",
    title="MLS",
    meaning="- the largest logit",
    values=_values,
    tensor=_tensor,
)
