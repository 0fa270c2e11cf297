"""Robustness estimated from a stratified sample of the images, with its error.

The square of Eq. 7's exponent is a mean over all N images, e_i^2 = mean_j x_ij with
x_ij = (d^1(i, j) - d^2(i, j))^2. Drawing m_h of the N_h images of every class h gives

    e_i^2 ~ sum_h (N_h / N) mean_{j in sample of h} x_ij,

without bias, and its variance is

    sum_h (N_h / N)^2 (1 - m_h / N_h) S_h^2 / m_h.

The scale-free forms of `pmal_tf.mining.topologies` are ratios of such means. Those of
the sample make up the estimate, whose bias is of the order 1 / M, and x_ij in the
variance is the influence of image j on it.

Since the sample of a class is in random order, the squared differences of neighbours,
(x_{i,a+1} - x_{i,a})^2, have twice the class's variance S_h^2 as their mean. So the
variance is one weighted sum of neighbours' differences, and no sums per class are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pmal_tf.mining.distances import pairwise_euclidean
from pmal_tf.mining.replicas import blocks_at_once, on_replicas, signature_of
from pmal_tf.mining.tiles import TilePlan, too_little_memory
from pmal_tf.mining.topologies import TOPOLOGIES, Topology
from pmal_tf.runtime.errors import PmalError

# The variance within a class needs two of its images.
LEAST_PER_CLASS = 2
# Distances to anchors that live at once: of two spaces, what they are made from, and
# the differences. Scale-free forms keep the distances and what they are divided to.
_ROWS_AT_ONCE, _SCALE_FREE_ROWS_AT_ONCE = 6, 9


@dataclass(frozen=True)
class Anchors:
    """A stratified sample.

    Attributes:
        position: [M] positions among the N samples, class by class, in random order
            within each.
        weight: [M] of an anchor in a mean; they sum to 1.
        difference_weight: [M] of (x_{i,a+1} - x_{i,a})^2 in the variance of that mean;
            0 where a and a + 1 are of two classes, and for the last.
    """

    position: np.ndarray
    weight: np.ndarray
    difference_weight: np.ndarray


def draw_anchors(class_index: np.ndarray, count: int, seed: int) -> Anchors:
    """Draws `count` < N samples in proportion to the sizes of the [N] classes.

    Raises:
        PmalError: If there are fewer than two anchors for every class.
    """
    _, strata, size = np.unique(class_index, return_inverse=True, return_counts=True)
    drawn = _allocate(size, count)
    order = np.random.default_rng(seed).permutation(len(strata))
    shuffled = order[np.argsort(strata[order], kind="stable")]
    start = np.cumsum(size) - size
    position = np.concatenate(
        [shuffled[s : s + m] for s, m in zip(start, drawn, strict=True)]
    )
    share = size / size.sum()
    # A class of one image has no variance and none is estimated.
    variance = share**2 * (1 - drawn / size) / drawn / (2 * np.maximum(drawn - 1, 1))
    stratum = np.repeat(np.arange(len(size)), drawn)
    same = np.append(stratum[1:] == stratum[:-1], False)
    return Anchors(
        position=position,
        weight=(share / drawn)[stratum],
        difference_weight=np.where(same, variance[stratum], 0.0),
    )


def check_anchors(count: int, least: int) -> None:
    """Raises a `PmalError` where `count` anchors are fewer than the `least` needed."""
    if count < least:
        raise PmalError(
            f"`topology_anchors` must allow {LEAST_PER_CLASS} per class for an error "
            f"to be estimated, {least} in all; 0 takes every image. Received: "
            f"topology_anchors={count}"
        )


def _allocate(size: np.ndarray, count: int) -> np.ndarray:
    """Shares M anchors out over classes of [H] sizes by largest remainder."""
    least = np.minimum(LEAST_PER_CLASS, size)
    check_anchors(count, int(least.sum()))
    drawn = np.maximum(np.floor(count * size / size.sum()).astype(np.int64), least)
    while drawn.sum() != count:
        gap = count * size / size.sum() - drawn
        if drawn.sum() < count:
            drawn[np.argmax(np.where(drawn < size, gap, -np.inf))] += 1
        else:
            drawn[np.argmin(np.where(drawn > least, gap, np.inf))] -= 1
    return drawn


def anchored_means(
    first: tf.Tensor,
    second: tf.Tensor,
    group: np.ndarray,
    anchors: Anchors,
    topology: Topology,
    plan: TilePlan,
    *,
    out: np.ndarray,
    start: int = 0,
) -> Iterator[int]:
    """Estimates the mean square x of a topology for every i, and the variance of that.

    Args:
        first: [padded, K] points of one space, of which the first N count.
        second: [padded, K] points of the other.
        group: [N]; samples of one group are at distance 0 in both spaces.
        anchors: The sample.
        topology: The form.
        plan: `plan.tile` rows are compared with all anchors at once.
        out: [2, padded] float64, for means and variances.
        start: First block.

    Yields:
        After each block of rows the number of blocks done.
    """
    tile = plan.tile
    groups = np.pad(group, (0, plan.padded - plan.count), constant_values=-1)
    arrays = (
        *(first, second, tf.constant(groups, tf.int32)),
        *(tf.gather(points, anchors.position) for points in (first, second)),
        tf.constant(group[anchors.position], tf.int32),
        tf.constant(anchors.weight, plan.dtype),
        tf.constant(anchors.difference_weight[:-1], plan.dtype),
    )
    compiled = _compiled_block(tile, topology, signature_of(arrays))
    for block, results in on_replicas(compiled, arrays, start, plan.blocks):
        out[:, block * tile : (block + 1) * tile] = results
        yield block + 1


@functools.lru_cache(maxsize=8)
def _compiled_block(
    tile: int, topology: Topology, signature: tuple[tf.TensorSpec, ...]
) -> Callable[..., tuple[tf.Tensor, tf.Tensor]]:
    """Returns the function of one block of rows, compiled once per shape."""

    @tf.function(jit_compile=True, input_signature=signature)
    def block(
        first: tf.Tensor,
        second: tf.Tensor,
        group: tf.Tensor,
        first_anchors: tf.Tensor,
        second_anchors: tf.Tensor,
        anchor_group: tf.Tensor,
        weight: tf.Tensor,
        difference_weight: tf.Tensor,
        number: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        def own(values: tf.Tensor) -> tf.Tensor:
            # Not `tf.slice`: XLA would compile it anew for every block.
            return tf.gather(tf.reshape(values, [-1, tile, *values.shape[1:]]), number)

        near = pairwise_euclidean(own(first), first_anchors)
        far = pairwise_euclidean(own(second), second_anchors)
        # Equal samples are at distance 0, whatever rounding makes of it.
        apart = tf.cast(own(group)[:, None] != anchor_group[None, :], near.dtype)
        mean, values = topology.estimates(near, far, apart, weight)
        steps = (values[:, 1:] - values[:, :-1]) ** 2
        variance = tf.linalg.matvec(steps, difference_weight)
        return tf.cast(mean, tf.float64), tf.cast(variance, tf.float64)

    return block


def rows_within(
    count: int,
    classes: int,
    anchors: int,
    dtype: tf.DType,
    memory_bytes: int,
    spaces: int = 2,
    topology: Topology = TOPOLOGIES["rms"],
) -> TilePlan:
    """Chooses how many rows are compared with M anchors at once; see `TilePlan.within`.

    Raises:
        PmalError: If not even one row fits.
    """
    logits = (spaces * count + 2 * anchors) * classes * dtype.size
    fixed = logits + 4 * count * 8
    at_once = _SCALE_FREE_ROWS_AT_ONCE if topology.scale_free else _ROWS_AT_ONCE
    per_row = at_once * blocks_at_once() * anchors * dtype.size
    rows = (memory_bytes - fixed) // per_row
    if rows < 1:
        least = fixed + per_row
        what = f"{count} images of {classes} classes and {anchors} anchors"
        raise too_little_memory(what, least, memory_bytes)
    best = max(2**20 // anchors, 16)
    return TilePlan(count, int(min(rows, best, count)), dtype)
