"""Maximum logit guided by the cosine to the class's prototypes.

    -max_k g_k,    g_k = logit_k (1 - d_k) where logit_k >= 0, else logit_k (1 + d_k)

for cosine distances d_k: a logit counts as far as the prototypes bear it out. The sign
matters, since the product alone would make evidence of a negative logit times a
negative cosine; g_k = logit_k - |logit_k| d_k falls with the distance in any case.
"""

from __future__ import annotations

import numpy as np

from pmal_tf.results.scores.score import LARGEST, Arrays, Score, Tensor, Tensors


def _values(outputs: Arrays, _: Arrays) -> np.ndarray:
    logits = outputs["logits"].astype(np.float64)
    guided = logits * (1.0 - np.sign(logits) * outputs["distance"])
    return np.clip(-guided.max(axis=1), -LARGEST, LARGEST)


def _tensor(outputs: Tensors, _: Tensors) -> Tensor:
    import tensorflow as tf

    logits = outputs["logits"]
    guided = logits * (1.0 - tf.sign(logits) * outputs["distance"])
    return tf.clip_by_value(-tf.reduce_max(guided, axis=1), -LARGEST, LARGEST)


SCORE = Score(
    name="guided_mls",
    field="guided_mls",
    title="guided MLS",
    meaning="- the largest logit, less its size times the distance to the class",
    values=_values,
    tensor=_tensor,
    needs=("logits", "distance"),
)
