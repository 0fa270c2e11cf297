"""DR times the embedding's length: -max_k (1 - d_k) |z|, for cosine distances d_k.

A cosine throws away the length of z, which tells known images from unknown ones by
itself: networks answer what they have not seen with short embeddings. (1 - d_k) |z| is
the length of z's projection onto the direction of class k, where distances are not
centred; where they are, |z| still is that from the origin.
"""

from __future__ import annotations

import numpy as np

from pmal_tf.results.scores.score import LARGEST, Arrays, Score, Tensor, Tensors


def _values(outputs: Arrays, _: Arrays) -> np.ndarray:
    cosine = 1.0 - outputs["distance"].astype(np.float64).min(axis=1)
    length = np.linalg.norm(outputs["embedding"].astype(np.float64), axis=1)
    return np.clip(-cosine * length, -LARGEST, LARGEST)


def _tensor(outputs: Tensors, _: Tensors) -> Tensor:
    import tensorflow as tf

    cosine = 1.0 - tf.reduce_min(outputs["distance"], axis=1)
    # The square of a huge embedding, though finite, may not be.
    length = tf.minimum(tf.norm(outputs["embedding"], axis=1), LARGEST)
    return tf.clip_by_value(-cosine * length, -LARGEST, LARGEST)


SCORE = Score(
    name="norm_dr",
    field="norm_dr",
    title="norm DR",
    meaning="- the embedding's length along the nearest class",
    values=_values,
    tensor=_tensor,
    needs=("distance", "embedding"),
)
