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
# and the result.
_TILES_AT_ONCE = 6
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
    ) -> TilePlan:
        """Chooses the largest good tile that a memory budget allows.

        The budget is for everything that grows with N or with the tile, the [N, K]
        points of all U `spaces` among it.

        Raises:
            PmalError: If not even the smallest tile fits.
        """
        on_gpu = bool(tf.config.list_logical_devices("GPU"))
        tile = min(_BEST_TILE_ON_GPU if on_gpu else _BEST_TILE, count)
        while (least := cls.memory(count, classes, dtype, tile, spaces)) > memory_bytes:
            if tile <= _LEAST_TILE:
                images = f"{count} images of {classes} classes"
                raise too_little_memory(images, least, memory_bytes)
            tile = max(tile // 2, _LEAST_TILE)
        return cls(count, tile, dtype)

    @staticmethod
    def memory(
        count: int, classes: int, dtype: tf.DType, tile: int, spaces: int = 2
    ) -> int:
        """Returns the bytes that a tile size takes: logits, sums and tiles."""
        padded = math.ceil(count / tile) * tile
        logits = spaces * padded * classes * dtype.size
        sums = (4 + 2 * blocks_at_once()) * padded * 8
        tiles = _TILES_AT_ONCE * blocks_at_once() * tile * tile * dtype.size
        return logits + sums + tiles


def too_little_memory(what: str, least: int, given: int) -> PmalError:
    """Returns the error of a budget of `given` bytes for what takes `least` bytes."""
    return PmalError(
        f"`mining_memory_mb` must be at least {math.ceil(least / 2**20)} for {what}. "
        f"Received: mining_memory_mb={given / 2**20:g}"
    )


def squared_difference_sums(
    first: tf.Tensor,
    second: tf.Tensor,
    weight: np.ndarray,
    plan: TilePlan,
    *,
    out: np.ndarray,
    start: int = 0,
) -> Iterator[int]:
    """Sums weight_i weight_j (d^1(i, j) - d^2(i, j))^2 over j, for every i.

    The sums of blocks of rows are added in the order of the blocks, so that the number
    of replicas changes no bit.

    Args:
        first: [padded, K] points of one space, of which the first N count.
        second: [padded, K] points of the other.
        weight: [N] how often each point counts, integers.
        plan: The tiles.
        out: [padded] float64; the sums of the `start` blocks done before, and zeros at
            first. What the other blocks of rows give is added.
        start: First block.

    Yields:
        After each block of rows the number of blocks done.
    """
    tile = plan.tile
    # What fills up the last tile has no weight.
    weights = tf.constant(np.pad(weight, (0, plan.padded - plan.count)), plan.dtype)
    norms = (squared_norms(first), squared_norms(second))
    arrays = (first, second, *norms, weights)
    compiled = _compiled_stripe(tile, signature_of(arrays))
    for block, (rows, columns) in on_replicas(compiled, arrays, start, plan.blocks):
        out[block * tile : (block + 1) * tile] += rows
        out += columns
        yield block + 1


@functools.lru_cache(maxsize=8)
def _compiled_stripe(
    tile: int, signature: tuple[tf.TensorSpec, ...]
) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """Returns the function of one block of rows, compiled once per shape.

    It gives the sums of the block's rows [tile], over the columns from the diagonal on,
    and those of the columns right of the diagonal [N], both float64 and times the
    weight of the row or column that they are of.
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

        def squares(position: tf.Tensor) -> tf.Tensor:
            near, far = (
                pairwise_euclidean(
                    *(own_points, part(points, position)),
                    *(own_norms, part(norms, position)),
                )
                for (own_points, own_norms), (points, norms) in zip(
                    own, spaces, strict=True
                )
            )
            # Both weights at once, so that one array serves both sums.
            weights = own_weight[:, None] * part(weight, position)[None, :]
            return weights * (near - far) ** 2

        def lane_sums(values: tf.Tensor) -> tf.Tensor:
            # Over the last axis XLA adds one number after the other; over the one
            # before, all lanes at a time.
            lanes = tf.reduce_sum(tf.reshape(values, [tile, -1, lane]), axis=1)
            return tf.cast(lanes, tf.float64)

        def step(
            position: tf.Tensor, lanes: tf.Tensor, columns: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            values = squares(position)
            below = tf.cast(tf.reduce_sum(values, axis=0), tf.float64)
            columns = tf.tensor_scatter_nd_update(columns, [[position]], below[None])
            return position + 1, lanes + lane_sums(values), columns

        # A sample's distance to itself is 0, whatever rounding makes of it.
        lanes = lane_sums(squares(block) * off_diagonal)
        columns = tf.zeros([blocks, tile], tf.float64)
        _, lanes, columns = tf.while_loop(
            lambda position, *_: position < blocks, step, (block + 1, lanes, columns)
        )
        return tf.reduce_sum(lanes, axis=1), tf.reshape(columns, [-1])

    return stripe
