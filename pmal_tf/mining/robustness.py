"""Embedding topology robustness: which training images are of high quality (Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import tensorflow as tf

from pmal_tf.distances import centred_logits, pairwise_euclidean
from pmal_tf.errors import PmalError

TOPOLOGY_NORMS = ("rms", "literal")
# Entries of one block of the distance matrix: 2 million float64 are 16 MiB, and a
# handful of such buffers live at once, whatever N is.
_BLOCK_ENTRIES = 1 << 21


@dataclass(frozen=True)
class Robustness:
    """Robustness of every sample.

    Attributes:
        exponent: [N] float64, e >= 0; smaller means higher quality.
        robustness: [N] float64, r = exp(-e) in [0, 1]. Where r underflows to 0, the
            exponent still orders the samples, so selection uses the exponent.
    """

    exponent: np.ndarray
    robustness: np.ndarray


def topology_robustness(
    embeddings: Sequence[np.ndarray],
    kernels: Sequence[np.ndarray],
    *,
    norm: str = "rms",
    block_rows: int | None = None,
) -> Robustness:
    """Computes Eq. 7 over U embedding spaces.

    The embedding topology of a sample is the vector of its Mahalanobis distances to all
    N samples, t(z_i) = (d_M(z_i, z_1), ..., d_M(z_i, z_N)). A sample whose topology
    differs little between two independently trained models carries little noise:

        r_i = exp(-e_i),   e_i = |t(z_i^1) - t(z_i^2)|_2 / sqrt(N).

    The paper's Eq. 7 lacks the 1 / sqrt(N). As a root mean square the exponent does not
    grow with N; to the letter it reaches hundreds, and r is 0 for every sample. Both
    order the samples alike. For U > 2 models r is the mean over all pairs (Section
    6.3), and e = -log mean exp(-e_pair), by log-sum-exp.

    Distances come from centred logits (see `pmal_tf.distances.centred_logits`), in
    float64, in blocks of rows; no [D, D] or [N, N] matrix is formed.

    Args:
        embeddings: U >= 2 arrays [N, D_u].
        kernels: U kernels [D_u, K] of the models' linear heads.
        norm: `"rms"`, or `"literal"` for Eq. 7 as printed.
        block_rows: Rows per block; by default, as many as keep memory small.

    Returns:
        Exponent and robustness, [N] each.

    Raises:
        PmalError: If there are fewer than two spaces, shapes do not fit, or a number is
            not finite.
    """
    if norm not in TOPOLOGY_NORMS:
        raise PmalError(
            f"`topology_norm` must be one of {', '.join(TOPOLOGY_NORMS)}. "
            f"Received: topology_norm={norm!r}"
        )
    _check_spaces(embeddings, kernels)
    spaces = [
        centred_logits(embedding, kernel)
        for embedding, kernel in zip(embeddings, kernels, strict=True)
    ]
    count = len(embeddings[0])
    rows = block_rows or max(1, _BLOCK_ENTRIES // count)
    pairs = list(combinations(spaces, 2))
    log_sum = np.full(count, -np.inf)
    for first, second in pairs:
        squares = _squared_topology_difference(first, second, min(rows, count))
        exponent = np.sqrt(squares / count if norm == "rms" else squares)
        log_sum = np.logaddexp(log_sum, -exponent)
    exponent = np.maximum(np.log(len(pairs)) - log_sum, 0.0)
    return Robustness(exponent=exponent, robustness=np.exp(-exponent))


def _squared_topology_difference(
    first: tf.Tensor, second: tf.Tensor, block_rows: int
) -> np.ndarray:
    """Returns [N] float64: sum over j of (d^1(i, j) - d^2(i, j))^2."""
    count = first.shape[0]
    parts = []
    for start in range(0, count, block_rows):
        # The last block overlaps the one before, so that all have one shape.
        begin = max(0, min(start, count - block_rows))
        block = _squared_difference_block(first, second, begin, block_rows)
        parts.append(block.numpy()[start - begin :])
    return np.concatenate(parts)


_MATRIX = tf.TensorSpec((None, None), tf.float64)
_INTEGER = tf.TensorSpec((), tf.int32)


@tf.function(input_signature=[_MATRIX, _MATRIX, _INTEGER, _INTEGER])
def _squared_difference_block(
    first: tf.Tensor, second: tf.Tensor, begin: tf.Tensor, block_rows: tf.Tensor
) -> tf.Tensor:
    """Returns the [rows] sums of rows `begin` to `begin + block_rows`."""
    end = begin + block_rows
    difference = pairwise_euclidean(first[begin:end], first)
    difference -= pairwise_euclidean(second[begin:end], second)
    return tf.reduce_sum(difference**2, axis=1)


def _check_spaces(
    embeddings: Sequence[np.ndarray], kernels: Sequence[np.ndarray]
) -> None:
    """Checks that spaces, samples, widths and classes fit together."""
    if len(embeddings) < 2 or len(embeddings) != len(kernels):
        raise PmalError(
            "Robustness compares at least 2 embedding spaces, with one kernel each. "
            f"Received: {len(embeddings)} embeddings and {len(kernels)} kernels"
        )
    shapes = [
        (np.shape(z), np.shape(w)) for z, w in zip(embeddings, kernels, strict=True)
    ]
    first_z, first_w = shapes[0]
    for z_shape, w_shape in shapes:
        fits = (
            len(z_shape) == 2
            and len(w_shape) == 2
            and z_shape[1] == w_shape[0]
            and z_shape[0] == first_z[0] > 0
            and w_shape[1] == first_w[1]
        )
        if not fits:
            raise PmalError(
                "Embeddings must be [N, D_u] and kernels [D_u, K], with the same N "
                "and K in every space. Received: (embeddings, kernel) shapes "
                f"{shapes}"
            )
    for space, (embedding, kernel) in enumerate(zip(embeddings, kernels, strict=True)):
        broken = np.flatnonzero(~np.isfinite(np.asarray(embedding)).all(axis=1))
        if len(broken) or not np.isfinite(np.asarray(kernel)).all():
            where = f"rows {broken[:10].tolist()}" if len(broken) else "the kernel"
            raise PmalError(
                "Embeddings and kernels must be finite numbers; the model they come "
                "from has diverged. Received: NaN or infinity in space "
                f"{space}, {where}"
            )
