"""Training images as points between which the paper's distance is Euclidean (Eq. 6)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import tensorflow as tf
from threadpoolctl import threadpool_limits

from pmal_tf.mining.replicas import blocks_at_once

_CHUNK_ROWS = 2048
# What TensorFlow asks of the addresses of its tensors, in bytes.
_ALIGNMENT = 64


class CentredLogits:
    """The map from embeddings of one space to their points.

    Section 4.1 takes Sigma^-1 = A A^T with A = W - mean_k(w_k). Hence

        d_M(z_i, z_j)^2 = (z_i - z_j) A A^T (z_i - z_j)^T = |z_i A - z_j A|^2,

    so distances need the [N, K] matrix Z A and never a [D, D] one. The mean embedding
    is taken off too: distances do not feel it, and expanded squares of small numbers
    lose fewer digits. All in float64.

    Args:
        embeddings: [N, D] embeddings z, in memory or on disk.
        kernel: [D, K] kernel W of the classifier's last linear layer.
    """

    def __init__(self, embeddings: np.ndarray, kernel: np.ndarray) -> None:
        kernel = np.asarray(kernel, np.float64)
        self.classes = kernel.shape[1]
        self._embeddings = embeddings
        self._kernel = kernel - kernel.mean(axis=1, keepdims=True)
        with np.errstate(over="ignore"):
            self._centre = sum(
                chunk.sum(axis=0, dtype=np.float64) for _, chunk in chunks(embeddings)
            ) / len(embeddings)

    def __call__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Returns the [n, K] float64 points of a slice or of positions.

        Equal embeddings have equal points to the bit, whether they come in one call or
        in several: a product of matrices rounds by its size, so all have one.
        """
        embeddings = self._embeddings[rows]
        points = np.empty((len(embeddings), self.classes))
        for where, part in chunks(embeddings):
            centred = part - self._centre
            if len(part) < _CHUNK_ROWS:
                centred = np.pad(centred, ((0, _CHUNK_ROWS - len(part)), (0, 0)))
            points[where] = (centred @ self._kernel)[: len(part)]
        return points

    def fill(self, points: np.ndarray, scale: float = 1.0) -> float:
        """Writes the points of all N embeddings into the first N rows of an array.

        Its number type may be any; `scale` makes the points fit into it.

        Returns:
            The largest absolute number among them before that; NaN on overflow.
        """

        def fill_part(where: slice) -> float:
            # What does not fit is found by its size, and scaled.
            with np.errstate(over="ignore", invalid="ignore"):
                part = self(where)
                points[where] = part if scale == 1.0 else scale * part
                return float(np.maximum(part.max(), -part.min()))

        # A core each: the threads of a matrix library go on waiting for work for a
        # while when they have none, and keep the cores from what comes next.
        with (
            threadpool_limits(1, user_api="blas"),
            ThreadPoolExecutor(blocks_at_once()) as pool,
        ):
            slices = [where for where, _ in chunks(self._embeddings)]
            return float(np.max(list(pool.map(fill_part, slices))))


def chunks(array: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yields an array's rows in parts of which a copy takes little memory."""
    for start in range(0, len(array), _CHUNK_ROWS):
        where = slice(start, min(start + _CHUNK_ROWS, len(array)))
        yield where, array[where]


def groups_of_equals(spaces: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Finds samples that are equal in every [N, K] array of points.

    Returns:
        Position of the first of each group of equal samples, ascending, and for every
        sample the position of its group in that list.
    """
    for attempt in itertools.count():
        hashes = sum(
            _row_hashes(points, np.random.default_rng([attempt, number]))
            for number, points in enumerate(spaces)
        )
        _, first, group = np.unique(hashes, return_index=True, return_inverse=True)
        repeated = np.flatnonzero(first[group] != np.arange(len(group)))
        if all(
            np.array_equal(points[rows], points[first[group[rows]]], equal_nan=True)
            for points in spaces
            for _, rows in chunks(repeated)
        ):
            break
        # Different samples had one hash: other weights will tell them apart.
    # `unique` sorts by hash; groups are numbered as they first appear.
    order = np.argsort(first)
    return first[order], np.argsort(order)[group]


def _row_hashes(points: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns a 64-bit hash of every row: its words in random multiples, modulo 2^64.

    Integers, so that equal rows have equal hashes wherever they stand.
    """
    words = points.shape[1] * points.dtype.itemsize // 4
    multiples = generator.integers(2**64, size=words, dtype=np.uint64)
    hashes = np.empty(len(points), np.uint64)
    for where, rows in chunks(points):
        # Zeros of both signs are one number.
        bits = np.ascontiguousarray(rows + 0.0).view(np.uint32).astype(np.uint64)
        hashes[where] = bits @ multiples
    return hashes


def aligned_zeros(shape: tuple[int, ...], dtype: type[np.floating]) -> np.ndarray:
    """Returns zeros at an address that a tensor may have, for `as_tensor`."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor of an array's own memory; on a GPU, a copy there.

    `tf.convert_to_tensor` would copy, and keep the array for a while beside it. The
    array is the first rows of one from `aligned_zeros`, not to be written to any more.
    """
    tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    if not tf.config.list_logical_devices("GPU"):
        return tensor
    with tf.device("GPU:0"):
        return tf.identity(tensor)
