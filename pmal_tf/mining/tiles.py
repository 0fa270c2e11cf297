"""Sums over all pairs of samples, tile by tile of the upper triangle.

The difference of two distance matrices is symmetric, so a tile above the diagonal gives
the sums of its rows and, as its mirror image, those of its columns. A tile that fits
into the processor's cache costs a fraction of a stripe of the whole width; one compiled
call works through all tiles of a block of rows. Nothing of the size N x N exists.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pmal_tf.mining.distances import pairwise_euclidean, squared_norms
from pmal_tf.mining.replicas import blocks_at_once, on_replicas, signature_of
from pmal_tf.runtime.errors import PmalError

# Two cores of an Intel Xeon, N = 20,000, float32, medians of 6 without the preparation,
# tiles of 256, 320, 384, 512: K = 6: 0.150, 0.148, 0.144, 0.146 s; K = 100: 0.445,
# 0.454, 0.413, 0.415 s.
_BEST_TILE, _LEAST_TILE = 384, 16
# A GPU has no cache to keep to, and larger tiles need fewer launches (not measured).
_BEST_TILE_ON_GPU = 4096
# Tiles of a block that live at once: two distance matrices, what they are made from,
# and what is summed.
_TILES_AT_ONCE = 5
# Sums that are added to side by side.
_LANES = 64


@dataclass(frozen=True)
class TilePlan:
    """How the pairs of N = `count` samples are cut into tiles of a side."""

    count: int
    tile: int
    dtype: tf.DType

    @property
    def blocks(self) -> int:
        """Tiles along one side; the last may stick out."""
        return math.ceil(self.count / self.tile)

    @property
    def padded(self) -> int:
        """Samples with those that fill up the last tile."""
        return self.blocks * self.tile

    @classmethod
    def within(
        cls,
        count: int,
        classes: int,
        dtype: tf.DType,
        memory_bytes: int,
        spaces: int = 2,
        sums: int = 1,
    ) -> TilePlan:
        """Chooses the largest good tile that a memory budget allows.

        The budget is for everything that grows with N or with the tile, the [N, K]
        points of all U `spaces` among it; `sums` are those of `difference_sums`.

        Raises:
            PmalError: If not even the smallest tile fits.
        """
        on_gpu = bool(tf.config.list_logical_devices("GPU"))
        tile = min(_BEST_TILE_ON_GPU if on_gpu else _BEST_TILE, count)
        size = functools.partial(cls.memory, count, classes, dtype)
        while (least := size(tile, spaces, sums)) > memory_bytes:
            if tile <= _LEAST_TILE:
                images = f"{count} images of {classes} classes"
                raise too_little_memory(images, least, memory_bytes)
            tile = max(tile // 2, _LEAST_TILE)
        return cls(count, tile, dtype)

    @staticmethod
    def memory(
        count: int,
        classes: int,
        dtype: tf.DType,
        tile: int,
        spaces: int = 2,
        sums: int = 1,
    ) -> int:
        """Returns the bytes that a tile size takes: logits, sums and tiles."""
        padded = math.ceil(count / tile) * tile
        logits = spaces * padded * classes * dtype.size
        of_rows = (3 + (1 + 2 * blocks_at_once()) * sums) * padded * 8
        at_once = (_TILES_AT_ONCE + sums) * blocks_at_once()
        return logits + of_rows + at_once * tile * tile * dtype.size


def too_little_memory(what: str, least: int, given: int) -> PmalError:
    """Returns the error of a budget of `given` bytes for what takes `least` bytes."""
    return PmalError(
        f"`mining_memory_mb` must be at least {math.ceil(least / 2**20)} for {what}. "
        f"Received: mining_memory_mb={given / 2**20:g}"
    )


def difference_sums(
    first: tf.Tensor,
    second: tf.Tensor,
    weight: np.ndarray,
    plan: TilePlan,
    *,
    out: np.ndarray,
    start: int = 0,
) -> Iterator[int]:
    """Sums weight_i weight_j (d^1(i, j) - d^2(i, j))^2 over j, for every i.

    And where that is asked for, d^1(i, j) and d^2(i, j) with these weights. The sums of
    blocks of rows are added in the order of the blocks, so that the number of replicas
    changes no bit.

    Args:
        first: [padded, K] points of one space, of which the first N count.
        second: [padded, K] points of the other.
        weight: [N] how often each point counts, integers.
        plan: The tiles.
        out: [1, padded] float64, or [3, padded] for all three; the sums of the `start`
            blocks done before, and zeros at first. What the other blocks of rows give
            is added.
        start: First block.

    Yields:
        After each block of rows the number of blocks done.
    """
    tile = plan.tile
    # What fills up the last tile has no weight.
    weights = tf.constant(np.pad(weight, (0, plan.padded - plan.count)), plan.dtype)
    norms = (squared_norms(first), squared_norms(second))
    arrays = (first, second, *norms, weights)
    compiled = _compiled_stripe(tile, len(out), signature_of(arrays))
    for block, (rows, columns) in on_replicas(compiled, arrays, start, plan.blocks):
        out[:, block * tile : (block + 1) * tile] += rows
        out += columns
        yield block + 1


@functools.lru_cache(maxsize=8)
def _compiled_stripe(
    tile: int, sums: int, signature: tuple[tf.TensorSpec, ...]
) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """Returns the function of one block of rows, compiled once per shape.

    It gives the sums of the block's rows [sums, tile], over the columns from the
    diagonal on, and those of the columns right of the diagonal [sums, N], both float64
    and times the weight of the row or column that they are of.
    """
    points = signature[0]
    blocks, lane = points.shape[0] // tile, math.gcd(tile, _LANES)
    off_diagonal = 1.0 - tf.eye(tile, dtype=points.dtype)

    @tf.function(jit_compile=True, input_signature=signature)
    def stripe(
        first: tf.Tensor,
        second: tf.Tensor,
        first_norms: tf.Tensor,
        second_norms: tf.Tensor,
        weight: tf.Tensor,
        block: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def part(values: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
            # Not `tf.slice`: XLA would compile it anew for every block.
            return tf.gather(
                tf.reshape(values, [blocks, tile, *values.shape[1:]]), position
            )

        spaces = ((first, first_norms), (second, second_norms))
        own = [(part(points, block), part(norms, block)) for points, norms in spaces]
        own_weight = part(weight, block)

        def tile_sums(
            position: tf.Tensor, diagonal: bool = False
        ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
            near, far = (
                pairwise_euclidean(
                    *(own_points, part(points, position)),
                    *(own_norms, part(norms, position)),
                )
                for (own_points, own_norms), (points, norms) in zip(
                    own, spaces, strict=True
                )
            )
            other_weight = part(weight, position)
            # Both weights at once, so that one array serves both sums.
            weights = own_weight[:, None] * other_weight[None, :]
            squares = weights * (near - far) ** 2
            if diagonal:
                # A sample's distance to itself is 0, whatever rounding makes of it.
                squares *= off_diagonal
                near, far = off_diagonal * near, off_diagonal * far
            # Over the last axis XLA adds one number after the other; over the one
            # before, all lanes at a time.
            rows = [tf.reduce_sum(tf.reshape(squares, [tile, -1, lane]), axis=1)]
            columns = [tf.reduce_sum(squares, axis=0)]
            # Products with the weights read the distances once more, where sums over
            # weighted arrays would have to write these first: 1.3 times the time of
            # squares alone in place of 1.6 (K = 6, 2 cores of an AMD EPYC).
            for distance in (near, far)[: sums - 1]:
                rows.append(own_weight * tf.linalg.matvec(distance, other_weight))
                below = tf.linalg.matvec(distance, own_weight, transpose_a=True)
                columns.append(other_weight * below)
            return _in_float64(rows), _in_float64(columns)

        def step(
            position: tf.Tensor, rows: list[tf.Tensor], columns: list[tf.Tensor]
        ) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor]]:
            beside, below = tile_sums(position)
            columns = [
                tf.tensor_scatter_nd_update(own, [[position]], new[None])
                for own, new in zip(columns, below, strict=True)
            ]
            rows = [own + new for own, new in zip(rows, beside, strict=True)]
            return position + 1, rows, columns

        rows, _ = tile_sums(block, diagonal=True)
        columns = [tf.zeros([blocks, tile], tf.float64)] * sums
        _, rows, columns = tf.while_loop(
            lambda position, *_: position < blocks, step, (block + 1, rows, columns)
        )
        rows[0] = tf.reduce_sum(rows[0], axis=1)
        return tf.stack(rows), tf.reshape(tf.stack(columns), [sums, -1])

    return stripe


def _in_float64(values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Returns tensors in float64."""
    return [tf.cast(own, tf.float64) for own in values]
