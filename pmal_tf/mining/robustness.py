"""Embedding topology robustness: which training images are of high quality (Eq. 7)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import tensorflow as tf

from pmal_tf.errors import PmalError
from pmal_tf.mining.tiles import TilePlan, squared_difference_sums
from pmal_tf.mining.unfinished import Unfinished

TOPOLOGY_NORMS = ("rms", "literal")
MINING_DTYPES = ("float32", "float64")
_CHUNK_ROWS = 8192


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
    dtype: str = "float64",
    memory_mb: int = 512,
    unfinished: Path | None = None,
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

    Distances come from centred logits (see `pmal_tf.distances.centred_logits`), which
    take off the mean of the samples before squares are expanded. Samples that are equal
    in every space count as one with a weight, so that their distance is 0 and not what
    rounding leaves of it. No [D, D] or [N, N] matrix is formed. In float32 tiles the
    exponent is within 1e-5 of itself plus 1e-5 of the mean distance of float64's.

    Args:
        embeddings: U >= 2 arrays [N, D_u].
        kernels: U kernels [D_u, K] of the models' linear heads.
        norm: `"rms"`, or `"literal"` for Eq. 7 as printed.
        dtype: Number type within tiles, `"float32"` or `"float64"`. Sums over tiles are
            float64.
        memory_mb: Budget in MiB of what grows with N or with the tiles.
        unfinished: File for the sums so far; where it holds those of the same numbers,
            the work goes on from there, to the same bits. It is removed at the end.

    Returns:
        Exponent and robustness, [N] each.

    Raises:
        PmalError: If there are fewer than two spaces, shapes do not fit, a number is
            not finite, or the budget is too small.
    """
    for name, value, allowed in (
        ("topology_norm", norm, TOPOLOGY_NORMS),
        ("mining_dtype", dtype, MINING_DTYPES),
    ):
        if value not in allowed:
            raise PmalError(
                f"`{name}` must be one of {', '.join(allowed)}. Received: "
                f"{name}={value!r}"
            )
    _check_spaces(embeddings, kernels)
    count, classes = len(embeddings[0]), kernels[0].shape[1]
    number = tf.as_dtype(dtype)
    plan = TilePlan.within(count, classes, number, memory_mb * 2**20, len(embeddings))
    spaces = [
        _points(z, w, number.as_numpy_dtype)
        for z, w in zip(embeddings, kernels, strict=True)
    ]
    first, inverse = _distinct(spaces)
    weight = np.bincount(inverse)
    if len(first) < count:
        spaces = [points[first] for points in spaces]
    plan = TilePlan(len(first), min(plan.tile, len(first)), number)
    log_sum = np.full(len(first), -np.inf)
    pairs = list(combinations(range(len(spaces)), 2))
    progress = Unfinished(unfinished, spaces, plan)
    for pair, (one, other) in enumerate(pairs):
        done = progress.load(pair) or (0, np.zeros(len(first)))
        squares = done[1]
        for blocks, squares in squared_difference_sums(
            spaces[one], spaces[other], weight, plan, done=done
        ):
            progress.save(pair, blocks, squares)
        exponent = np.sqrt(squares / count if norm == "rms" else squares)
        log_sum = np.logaddexp(log_sum, -exponent)
    progress.remove()
    exponent = np.maximum(np.log(len(pairs)) - log_sum, 0.0)[inverse]
    return Robustness(exponent=exponent, robustness=np.exp(-exponent))


def _points(
    embeddings: np.ndarray, kernel: np.ndarray, dtype: type[np.floating]
) -> np.ndarray:
    """Returns [N, K] centred logits, computed in float64 chunk by chunk."""
    centre = np.mean(embeddings, axis=0, dtype=np.float64)
    points = np.empty((len(embeddings), kernel.shape[1]), dtype)
    for start in range(0, len(embeddings), _CHUNK_ROWS):
        chunk = embeddings[start : start + _CHUNK_ROWS].astype(np.float64) - centre
        points[start : start + len(chunk)] = _logits(chunk, kernel)
    return points


def _logits(embeddings: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Returns Z A of embeddings that are centred already."""
    kernel = np.asarray(kernel, np.float64)
    return embeddings @ (kernel - kernel.mean(axis=1, keepdims=True))


def _distinct(spaces: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Finds samples that are equal in every space.

    Returns:
        Position of the first of each group of equal samples, ascending, and for every
        sample the position of its group in that list.
    """
    seen: dict[bytes, int] = {}
    inverse = np.empty(len(spaces[0]), np.int64)
    first: list[int] = []
    for index, rows in enumerate(zip(*spaces, strict=True)):
        digest = hashlib.blake2b(digest_size=16)
        for row in rows:
            digest.update(np.ascontiguousarray(row).data)
        group = seen.setdefault(digest.digest(), len(seen))
        if group == len(first):
            first.append(index)
        inverse[index] = group
    return np.array(first), inverse


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
