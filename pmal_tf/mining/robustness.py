"""Embedding topology robustness: which training images are of high quality (Eq. 7)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from pathlib import Path

import numpy as np
import tensorflow as tf

from pmal_tf.mining.anchors import Anchors, anchored_means, draw_anchors, rows_within
from pmal_tf.mining.points import (
    CentredLogits,
    aligned_zeros,
    as_tensor,
    chunks,
    groups_of_equals,
)
from pmal_tf.mining.progress import Unfinished, progress_bar
from pmal_tf.mining.replicas import without_tensor_float_32
from pmal_tf.mining.settings import MiningSettings
from pmal_tf.mining.spaces import check_spaces
from pmal_tf.mining.tiles import TilePlan, difference_sums
from pmal_tf.mining.topologies import TOPOLOGIES, Topology
from pmal_tf.runtime.errors import PmalError

_USUAL_SIZE = 1e6


@dataclass(frozen=True)
class Robustness:
    """Robustness of every sample.

    Attributes:
        exponent: [N] float64, e >= 0; smaller means higher quality.
        robustness: [N] float64, r = exp(-e) in [0, 1]. Where r underflows to 0, the
            exponent still orders the samples, so selection uses the exponent.
        standard_error: [N] float64 of the exponent, where it was estimated from
            anchors; None where it is exact.
    """

    exponent: np.ndarray
    robustness: np.ndarray
    standard_error: np.ndarray | None = None


def topology_robustness(
    embeddings: Sequence[np.ndarray],
    kernels: Sequence[np.ndarray],
    *,
    topology: str = "correlation",
    dtype: str = "float32",
    memory_mb: int = 2048,
    anchors: int = 0,
    class_index: np.ndarray | None = None,
    seed: int = 0,
    unfinished: Path | None = None,
) -> Robustness:
    """Computes Eq. 7, or a scale-free form of it, over U embedding spaces.

    The embedding topology of a sample is the vector of its Mahalanobis distances to all
    N samples, t(z_i) = (d_M(z_i, z_1), ..., d_M(z_i, z_N)). A sample whose topology
    differs little between two independently trained models carries little noise:

        r_i = exp(-e_i),   e_i = 1 - Pearson(t(z_i^1), t(z_i^2)).

    The paper's Eq. 7 has e_i = |t(z_i^1) - t(z_i^2)|_2, which reaches hundreds, so that
    r is 0 for every sample; its root mean square, e_i / sqrt(N), orders them alike.
    Both punish samples of large logits, which scale-free forms do not;
    `pmal_tf.mining.topologies` has all four and their ranges. For U > 2 models r is the
    mean over all pairs (Section 6.3), and e = -log mean exp(-e_pair), by log-sum-exp.

    Distances come from centred logits (`pmal_tf.mining.points.CentredLogits`). Samples
    that are equal in every space count as one with a weight, so that their distance is
    0 and not what rounding leaves of it. No [D, D] or [N, N] matrix is formed.

    In float32 the exponent is within 1e-5 of itself of float64's, plus 5e-6 sqrt(e)
    times the mean of a sample's distances over their standard deviation
    (correlation), 1e-6 (chord), or 1e-5 of the mean distance (rms). The last holds as
    long as the spaces differ by more than some thousandths of that distance; those of
    models trained apart differ by tenths. Where they differ by less, the digits that
    expanded squares of close points lose would show: use float64.

    Under a `tf.distribute` strategy's scope, rows are spread over its replicas.

    Args:
        embeddings: U >= 2 arrays or tensors [N, D_u]; memory-mapped ones are read in
            parts.
        kernels: U kernels [D_u, K] of the models' linear heads.
        topology: `"correlation"`, `"chord"`, `"rms"`, or `"literal"` for Eq. 7 as
            printed.
        dtype: Number type within tiles; sums over tiles are float64.
        memory_mb: Budget in MiB of what grows with N or with the tiles.
        anchors: Number M of samples to compare every sample with, for an estimate of
            the exponent, of Eq. 7's square without bias; 0, or N and more: all,
            exactly.
        class_index: [N] classes to draw anchors from in proportion; without, all
            samples are drawn from alike.
        seed: Of the anchors.
        unfinished: File for the numbers so far; where it holds those of the same
            arguments, the work goes on from there, to the same bits. It is removed at
            the end.

    Raises:
        PmalError: If there are fewer than two spaces, shapes do not fit, a number is
            not finite or too large, all samples coincide in a space and the form is
            scale-free, or the budget is too small.
    """
    MiningSettings(
        topology=topology,
        mining_dtype=dtype,
        mining_memory_mb=int(memory_mb),
        topology_anchors=int(anchors),
    )
    embeddings = [np.asarray(embedding) for embedding in embeddings]
    kernels = [np.asarray(kernel) for kernel in kernels]
    if len(embeddings) < 2 or len(embeddings) != len(kernels):
        raise PmalError(
            "Robustness compares at least 2 embedding spaces, with one kernel each. "
            f"Received: {len(embeddings)} embeddings and {len(kernels)} kernels"
        )
    check_spaces(embeddings, kernels)
    form = TOPOLOGIES[topology]
    number, memory_bytes = tf.as_dtype(dtype), memory_mb * 2**20
    count, classes = len(embeddings[0]), kernels[0].shape[1]
    logits = [CentredLogits(z, w) for z, w in zip(embeddings, kernels, strict=True)]
    estimated = 0 < anchors < count
    if estimated:
        strata = np.zeros(count) if class_index is None else np.asarray(class_index)
        if len(strata) != count:
            raise PmalError(
                "`class_index` must have the class of every sample. Received: "
                f"{len(strata)} for {count} samples"
            )
        sample = draw_anchors(strata, anchors, seed)
        plan = rows_within(
            count, classes, anchors, number, memory_bytes, len(logits), form
        )
        points, unit = _points(logits, plan, form)
        pairs = _estimated_squares(points, sample, form, plan, unfinished)
    else:
        plan = TilePlan.within(
            count, classes, number, memory_bytes, len(logits), form.sums
        )
        points, unit = _points(logits, plan, form)
        pairs = _exact_squares(points, form, plan, unfinished)
    scale = (np.sqrt(count) if form.summed else 1.0) / unit
    with without_tensor_float_32():
        exponent, error = _mean_over_pairs(pairs, form, scale)
    return Robustness(exponent, np.exp(-exponent), error if estimated else None)


def _mean_over_pairs(
    pairs: Iterator[np.ndarray], topology: Topology, scale: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns [N] exponents e = -log mean exp(-e_pair), and their standard errors.

    `pairs` has for each pair of spaces [2, N], the mean square of a sample and the
    variance of that; `scale` is a factor of e_pair. The errors are by the delta method:
    e weighs e_pair with exp(-e_pair) / sum exp(-e_pair). All pairs share their anchors,
    so errors are added as if they went together: a bound for U > 2.
    """
    exponents, errors = zip(
        *(topology.exponents(mean, variance, scale) for mean, variance in pairs),
        strict=True,
    )
    log_sum = np.logaddexp.reduce([-exponent for exponent in exponents], axis=0)
    weights = np.exp([-exponent - log_sum for exponent in exponents])
    # Rounding may leave -1e-17 where all spaces are equal.
    exponent = np.maximum(np.log(len(exponents)) - log_sum, 0.0)
    return exponent, (weights * errors).sum(axis=0)


def _exact_squares(
    arrays: list[np.ndarray],
    topology: Topology,
    plan: TilePlan,
    unfinished: Path | None,
) -> Iterator[np.ndarray]:
    """Yields, for every pair of spaces, [2, N] mean squares and zeros."""
    count = plan.count
    first, group = groups_of_equals([points[:count] for points in arrays])
    if (distinct := len(first)) < count:
        plan = replace(plan, count=distinct, tile=min(plan.tile, distinct))
        arrays = [_compacted(points, first, plan) for points in arrays]
    weight = np.bincount(group)
    squares = [_sums_of_squares(points[:distinct], weight) for points in arrays]
    for pair, sums in zip(
        combinations(squares, 2),
        _work_through(
            arrays,
            functools.partial(difference_sums, weight=weight, plan=plan),
            (topology.sums, plan.padded),
            # Tiles: a block of rows has those from the diagonal on.
            list(accumulate(range(plan.blocks, 0, -1), initial=0)),
            Unfinished(unfinished, plan, topology.sums, weight, *arrays),
        ),
        strict=True,
    ):
        mean = topology.mean_squares(sums[:, :distinct] / weight, pair, count)[group]
        yield np.stack([mean, np.zeros(count)])


def _estimated_squares(
    arrays: list[np.ndarray],
    sample: Anchors,
    topology: Topology,
    plan: TilePlan,
    unfinished: Path | None,
) -> Iterator[np.ndarray]:
    """Yields, for every pair of spaces, [2, N] estimated mean squares and variances."""
    _, group = groups_of_equals([points[: plan.count] for points in arrays])
    for moments in _work_through(
        arrays,
        functools.partial(
            anchored_means, group=group, anchors=sample, topology=topology, plan=plan
        ),
        (2, plan.padded),
        range(plan.blocks + 1),
        Unfinished(unfinished, plan, topology, *vars(sample).values(), *arrays),
    ):
        yield moments[:, : plan.count]


def _work_through(
    arrays: Sequence[np.ndarray],
    blocks_of: Callable[..., Iterator[int]],
    shape: tuple[int, ...],
    work: Sequence[int],
    unfinished: Unfinished,
) -> Iterator[np.ndarray]:
    """Goes through the blocks of every pair of spaces, from where it was cut short.

    Args:
        arrays: U arrays of points, from `aligned_zeros`.
        blocks_of: Called with two of them as tensors, an array to write numbers into
            and the block to start with; yields the number of blocks done.
        shape: That of the numbers of a pair, which are yielded when whole.
        work: How much work 0, 1, 2, ... blocks are.
        unfinished: Where the numbers are kept.
    """
    pairs = list(combinations([as_tensor(points) for points in arrays], 2))
    nothing = np.zeros(len(pairs), np.int64), np.zeros((len(pairs), *shape))
    finished, values = unfinished.load() or nothing
    done = sum(work[int(blocks)] for blocks in finished)
    with progress_bar("Robustness", len(pairs) * work[-1], done) as progress:
        for pair, (one, other) in enumerate(pairs):
            start = int(finished[pair])
            for blocks in blocks_of(one, other, out=values[pair], start=start):
                progress.update(work[blocks] - work[blocks - 1])
                finished[pair] = blocks
                unfinished.save(finished, values)
            yield values[pair]
    unfinished.remove()


def _points(
    spaces: Sequence[CentredLogits], plan: TilePlan, topology: Topology
) -> tuple[list[np.ndarray], float]:
    """Returns [padded, K] centred logits of every space, times a unit, and the unit.

    It is 1 for numbers of a usual size; squares of very large or small ones do not fit
    into float32. A power of two is taken off and put back again without rounding. For a
    scale-free form every space has a unit of its own and nothing is put back.
    """
    shape, dtype = (plan.padded, spaces[0].classes), plan.dtype.as_numpy_dtype
    arrays = [aligned_zeros(shape, dtype) for _ in spaces]
    largest = np.array(
        [space.fill(points) for space, points in zip(spaces, arrays, strict=True)]
    )
    if not np.isfinite(largest).all():
        raise PmalError(
            "Embeddings and kernels are so large that distances overflow; the model "
            "they come from has diverged. Received: numbers of which products exceed "
            "1e308"
        )
    if not topology.scale_free:
        largest[:] = largest.max()
    usual = (largest == 0.0) | (1.0 / _USUAL_SIZE < largest) & (largest < _USUAL_SIZE)
    units = 2.0 ** -np.ceil(np.log2(np.where(usual, 1.0, largest)))
    for space, points, unit in zip(spaces, arrays, units, strict=True):
        if unit != 1.0:
            space.fill(points, unit)
    if not topology.scale_free:
        return arrays, units[0]
    for number, points in enumerate(arrays):
        _divide_by_size(points[: plan.count], number)
    return arrays, 1.0


def _divide_by_size(points: np.ndarray, number: int) -> None:
    """Makes the mean square length of the [N, K] points of space `number` 1.

    In spaces of one size topologies differ by what makes them unlike.
    """
    if all((part == points[0]).all() for _, part in chunks(points)):
        raise PmalError(
            "A topology without its scale needs images that differ in every space; "
            "this model gives all the same logits. Received: "
            f"{len(points)} equal points in space {number}. Train it otherwise, or "
            "compare with their scale by topology=rms"
        )
    total = sum(np.square(p, dtype=np.float64).sum() for _, p in chunks(points))
    points *= np.sqrt(len(points) / total)


def _sums_of_squares(points: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Returns [n] sums over j of weight_j |x_i - x_j|^2, without any pairs.

    |x_i|^2 sum_j w_j + sum_j w_j |x_j|^2 - 2 x_i . sum_j w_j x_j, where the last is
    next to nothing for centred points.
    """
    lengths = np.empty(len(points))
    total = np.zeros(points.shape[1])
    for where, part in chunks(points):
        lengths[where] = np.square(part, dtype=np.float64).sum(axis=1)
        total += weight[where] @ part.astype(np.float64)
    sums = weight.sum() * lengths + weight @ lengths
    for where, part in chunks(points):
        sums[where] -= 2.0 * (part @ total)
    return sums


def _compacted(points: np.ndarray, first: np.ndarray, plan: TilePlan) -> np.ndarray:
    """Moves the rows `first`, which ascend, to the top, without a copy of all."""
    for where, rows in chunks(first):
        points[where] = points[rows]
    points[len(first) :] = 0.0
    return points[: plan.padded]
