"""High-quality candidates per class (Section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pmal_tf.errors import PmalError


@dataclass(frozen=True)
class Candidates:
    """Candidates of every class.

    Attributes:
        mask: [N] boolean.
        count: [K] candidates per class.
        relaxed: [K] boolean; True where fewer than the wanted number passed the
            threshold and the next best were taken in.
    """

    mask: np.ndarray
    count: np.ndarray
    relaxed: np.ndarray


def quality_rank(exponent: np.ndarray, example_id: np.ndarray) -> np.ndarray:
    """Ranks samples from high to low quality, ties by example id.

    The paper's "r(x_j) > r(x_i)" is read as "x_j comes before x_i in this order", so
    that two equal samples never both count as the best.

    Args:
        exponent: [N] exponents e of the robustness r = exp(-e).
        example_id: [N] strings, each once.

    Returns:
        [N] ranks; 0 is the sample with the highest robustness.
    """
    order = np.lexsort((example_id, exponent))
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return rank


def select_candidates(
    exponent: np.ndarray,
    class_index: np.ndarray,
    rank: np.ndarray,
    *,
    num_classes: int,
    epsilon: float,
    at_least: int,
) -> Candidates:
    """Keeps the samples with r(x_i) >= epsilon max r(x_j) of their class.

    Taken in the log domain, e_i <= min_j e_j - ln(epsilon), where r cannot underflow.
    Where fewer than `at_least` pass, the best `at_least` of the class are taken.

    Args:
        exponent: [N] float64 exponents of the robustness.
        class_index: [N] in [0, K).
        rank: [N] from `quality_rank`.
        num_classes: K.
        epsilon: Threshold in (0, 1].
        at_least: Wanted candidates, the number T of prototypes per class.

    Raises:
        PmalError: If `epsilon` is out of range or a class has no sample.
    """
    if not 0.0 < epsilon <= 1.0:
        raise PmalError(f"`epsilon` must lie in (0, 1]. Received: epsilon={epsilon}")
    size = np.bincount(class_index, minlength=num_classes)
    if len(size) > num_classes or (size == 0).any():
        raise PmalError(
            f"Every class index in 0..{num_classes - 1} needs a sample, and no other "
            f"may occur. Received: samples per class {size.tolist()}"
        )
    slack = -np.log(epsilon)
    labels = class_index.astype(np.int32)
    mask = np.array(_within_slack(exponent, labels, slack, num_classes))
    passed = np.bincount(class_index[mask], minlength=num_classes)
    relaxed = passed < np.minimum(at_least, size)
    # Rank within the class: position in the class-sorted order less the class's start.
    order = np.lexsort((rank, class_index))
    start = np.cumsum(size) - size
    rank_in_class = np.empty(len(order), np.int64)
    rank_in_class[order] = np.arange(len(order)) - np.repeat(start, size)
    mask |= relaxed[class_index] & (rank_in_class < at_least)
    count = np.bincount(class_index[mask], minlength=num_classes)
    return Candidates(mask=mask, count=count, relaxed=relaxed)


@tf.function(
    input_signature=[
        tf.TensorSpec((None,), tf.float64),
        tf.TensorSpec((None,), tf.int32),
        tf.TensorSpec((), tf.float64),
        tf.TensorSpec((), tf.int32),
    ]
)
def _within_slack(
    exponent: tf.Tensor,
    class_index: tf.Tensor,
    slack: tf.Tensor,
    num_classes: tf.Tensor,
) -> tf.Tensor:
    """Returns [N] boolean: e_i <= min over the class + slack."""
    best = tf.math.unsorted_segment_min(exponent, class_index, num_classes)
    return exponent <= tf.gather(best, class_index) + slack
