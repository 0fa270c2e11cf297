"""What mining is measured beside: scipy, bare matrix products, bare square roots."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from scipy.spatial.distance import cdist

from pmal_tf.benchmark.measurement import time_in_turn
from pmal_tf.benchmark.memory import available_memory
from pmal_tf.runtime.errors import PmalError

_DIMENSION = 128
# Of classes' centres, of samples around them, and of the second space beside the first.
_CENTRE_SPREAD, _SAMPLE_SPREAD, _SPACE_SPREAD = 1.0, 0.5, 0.2
_BLOCK_ROWS = 1024
_TILE_COLUMNS, _TILE_ROWS = 1024, 1024
# Square roots for each number that is loaded and stored: with one, moving the tile
# takes as long as the roots.
_ROOTS_AT_ONCE = 4
_SAMPLED_ROWS = 256
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Spaces:
    """Two embedding spaces, [n, D] float32 each, and their kernels, [D, K]."""

    embeddings: tuple[np.ndarray, np.ndarray]
    kernels: tuple[np.ndarray, np.ndarray]

    def centred_logits(self, dtype: str) -> list[np.ndarray]:
        """Returns [n, K] Z (W - mean_k(w_k)) of both spaces, computed in `dtype`."""
        kernels = [kernel.astype(dtype) for kernel in self.kernels]
        return [
            z.astype(dtype) @ (w - w.mean(axis=1, keepdims=True))
            for z, w in zip(self.embeddings, kernels, strict=True)
        ]


def random_spaces(n: int, k: int) -> Spaces:
    """Draws a mixture of n samples of k classes, and the same once more with noise."""
    random = np.random.default_rng(0)

    def normal(rows: int, columns: int, spread: float) -> np.ndarray:
        return np.float32(spread) * random.standard_normal((rows, columns), np.float32)

    first = normal(k, _DIMENSION, _CENTRE_SPREAD)[random.integers(k, size=n)]
    first += normal(n, _DIMENSION, _SAMPLE_SPREAD)
    second = first + normal(n, _DIMENSION, _SPACE_SPREAD)
    kernel = normal(_DIMENSION, k, 1.0)
    other = kernel + normal(_DIMENSION, k, _SPACE_SPREAD)
    return Spaces((first, second), (kernel, other))


def why_not_scipy(n: int) -> str:
    """Says why scipy has no room for n samples here; empty where it has."""
    # Two matrices of distances, and the two that NumPy makes of their differences.
    needed, available = 4 * n**2 * 8, available_memory()
    if 4 * needed <= 3 * available:
        return ""
    return (
        f"Not measured beside scipy: two float64 matrices of {n:,} x {n:,}, and the "
        f"two that NumPy makes of them, take {needed / 2**30:,.1f} GiB, more than "
        f"three quarters of the available {available / 2**30:,.1f} GiB."
    )


class ScipyRoute:
    """Robustness with scipy, in float64: two whole distance matrices.

    The first call of either variant allocates these two, later ones use them again, so
    that neither is timed while the kernel hands out their pages. The variants differ in
    what follows the distances.
    """

    def __init__(self, spaces: Spaces):
        self._spaces = spaces
        self._matrices: list[np.ndarray] = []

    def as_written(self) -> np.ndarray:
        """Returns [n] exponents, Eq. 7 as a root mean square, as a user writes it.

        NumPy makes new matrices of the differences and squares, and the kernel hands
        out their pages at every call, which can cost more than the arithmetic.
        """
        first, second = self._distances()
        return np.sqrt(((first - second) ** 2).mean(axis=1))

    def in_place(self) -> np.ndarray:
        """Returns the same without a third matrix: the leanest form that there is."""
        first, second = self._distances()
        first -= second
        first *= first
        return np.sqrt(first.mean(axis=1))

    def _distances(self) -> list[np.ndarray]:
        """Returns [n, n] distances of both spaces, for the caller to write over."""
        points = self._spaces.centred_logits("float64")
        n = len(points[0])
        if not self._matrices:
            self._matrices = [np.empty((n, n)) for _ in points]
        return [
            cdist(own, own, out=matrix)
            for own, matrix in zip(points, self._matrices, strict=True)
        ]

    def mean_distance(self) -> float:
        """Returns the mean distance of some samples, evenly spread, to all."""
        points = self._spaces.centred_logits("float64")
        step = max(len(points[0]) // _SAMPLED_ROWS, 1)
        return float(np.mean([cdist(own[::step], own).mean() for own in points]))


def check_agreement(
    exponent: np.ndarray, expected: np.ndarray, mean_distance: float
) -> float:
    """Checks our [n] exponents against the reference's, in float64.

    Returns:
        The largest relative difference.

    Raises:
        PmalError: If one is off by more than 1e-5 of itself and of the mean distance.
    """
    difference = np.abs(exponent - expected)
    bound = _TOLERANCE * (expected + mean_distance)
    # Written so that a NaN does not pass, and is the one that is named.
    if not (difference <= bound).all():
        worst = int(np.argmax(difference - bound))
        raise PmalError(
            f"Our exponents must be scipy's within {_TOLERANCE} of themselves plus "
            f"{_TOLERANCE} of the mean distance, {mean_distance:.6g}. Received: "
            f"{exponent[worst]:.9g} where scipy has {expected[worst]:.9g}, sample "
            f"{worst}. This is a fault of pmal_tf on this machine: please report it."
        )
    positive = expected > 0
    return float(np.max(difference[positive] / expected[positive], initial=0.0))


def matrix_products(spaces: Spaces, dtype: str) -> Callable[[], object]:
    """Returns what does the matrix products of both spaces, and nothing else.

    For every block of rows, X_block X^T of the [n, K] centred logits, summed over its
    columns so that it must be computed: the whole square, in blocks as wide as it.

    Returns:
        The faster of TensorFlow's own kernels and XLA's, compiled.
    """
    points = [tf.constant(own) for own in spaces.centred_logits(dtype)]
    n = len(points[0])

    def block_sums(own: tf.Tensor, start: tf.Tensor, rows: int) -> tf.Tensor:
        block = tf.slice(own, [start, 0], [rows, own.shape[1]])
        return tf.reduce_sum(tf.matmul(block, own, transpose_b=True), axis=1)

    def candidate(jit_compile: bool) -> Callable[[], object]:
        compiled = tf.function(block_sums, jit_compile=jit_compile)
        return lambda: [
            # As arrays: a device's queue is waited for.
            compiled(own, tf.constant(start), min(_BLOCK_ROWS, n - start)).numpy()
            for own in points
            for start in range(0, n, _BLOCK_ROWS)
        ]

    candidates = [candidate(True), candidate(False)]
    for work in candidates:
        work()
    xla, plain = time_in_turn(*candidates, repetitions=2)
    return candidates[0 if min(xla) <= min(plain) else 1]


def square_roots(count: int, dtype: str) -> Callable[[], float]:
    """Returns what takes square roots, and little else, without leaving the cache.

    A tile is added to a sum of roots again and again, each time moved by the number of
    the round, so that no round's work can be left out or done once for all.

    Args:
        count: How many, at least; a small part of a round more are taken.
        dtype: Number type.

    Returns:
        The work, compiled by XLA; it returns the sum of the roots.
    """
    rounds, rows = _rounds(count)
    number = tf.as_dtype(dtype)
    shifts = [index / _ROOTS_AT_ONCE for index in range(_ROOTS_AT_ONCE)]

    @tf.function(jit_compile=True)
    def compiled(tile: tf.Tensor, rounds: tf.Tensor) -> tf.Tensor:
        def step(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            moved = tile + tf.cast(index, number)
            return index + 1, total + sum(tf.sqrt(moved + shift) for shift in shifts)

        _, total = tf.while_loop(
            lambda index, _: index < rounds, step, (0, tf.zeros_like(tile))
        )
        return tf.reduce_sum(total)

    values = np.random.default_rng(0).uniform(1.0, 2.0, (rows, _TILE_COLUMNS))
    tile = tf.constant(values, number)
    return lambda: float(compiled(tile, tf.constant(rounds)))


def _rounds(count: int) -> tuple[int, int]:
    """Returns the rounds and the rows of the tile that `count` roots take."""
    per_row = _ROOTS_AT_ONCE * _TILE_COLUMNS
    rounds = math.ceil(count / (per_row * _TILE_ROWS))
    return rounds, math.ceil(count / (rounds * per_row))
