"""Energy guided by the cosine to the nearest class (after NNGuide, Park et al. 2023).

    -(E - |E| min_k d_k),    E = log sum_k exp(logit_k),

for cosine distances d_k: NNGuide multiplies the energy E by the mean cosine to the
nearest of a bank of training images, each weighed by an energy of its own. Here the
prototypes are the bank, the attention to them weighs, and the class's set is the
neighbourhood. For E >= 0 it is NNGuide's product E (1 - d); a negative E, at which the
product would reward distance, grows with it as in `guided_mls`.
"""

from __future__ import annotations

import numpy as np

from pmal_tf.results.scores.score import LARGEST, Arrays, Score, Tensor, Tensors


def _values(outputs: Arrays, _: Arrays) -> np.ndarray:
    energy = np.logaddexp.reduce(outputs["logits"].astype(np.float64), axis=1)
    guided = energy * (1.0 - np.sign(energy) * outputs["distance"].min(axis=1))
    return np.clip(-guided, -LARGEST, LARGEST)


def _tensor(outputs: Tensors, _: Tensors) -> Tensor:
    import tensorflow as tf

    energy = tf.reduce_logsumexp(outputs["logits"], axis=1)
    nearest = tf.reduce_min(outputs["distance"], axis=1)
    guided = energy * (1.0 - tf.sign(energy) * nearest)
    return tf.clip_by_value(-guided, -LARGEST, LARGEST)


SCORE = Score(
    name="guided_energy",
    field="guided_energy",
    title="guided energy",
    meaning="- the log of the sum of exp(logit), less its size times the distance to "
    "the nearest class",
    values=_values,
    tensor=_tensor,
    needs=("logits", "distance"),
)
