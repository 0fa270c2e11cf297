"""A threshold that rejects a promised share of known images."""

from __future__ import annotations

import math

import numpy as np
from absl import logging

from pmal_tf.data.hashing import hash_ids
from pmal_tf.errors import PmalError


def conformal_threshold(known_score: np.ndarray, reject_rate: float) -> float:
    """Split-conformal threshold (Vovk et al. 2005; Papadopoulos et al. 2002).

    The k-th smallest of n scores with k = ceil((n + 1) (1 - reject_rate)): a further
    known image, exchangeable with these, is rejected (scores above it) with probability
    at most `reject_rate`.

    Args:
        known_score: [n] scores of known images that training never saw.
        reject_rate: Promised share of knowns rejected, in (0, 1).

    Raises:
        PmalError: If there are too few images for the promise.
    """
    if not 0.0 < reject_rate < 1.0:
        raise PmalError(
            f"`reject_rate` must lie in (0, 1). Received: reject_rate={reject_rate}"
        )
    count = len(known_score)
    # The small term takes off rounding: 10 * (1 - 0.7) must not become 4.
    position = math.ceil((count + 1) * (1.0 - reject_rate) - 1e-9)
    if position > count:
        least = math.ceil(1.0 / reject_rate) - 1
        raise PmalError(
            f"A false-rejection rate of {reject_rate} needs at least {least} known "
            f"images to calibrate on. Received: {count}. Ask for a larger "
            "--reject_rate."
        )
    return float(np.sort(known_score)[position - 1])


def calibrate(
    scores: dict[str, np.ndarray],
    is_unknown: np.ndarray,
    example_id: np.ndarray,
    *,
    reject_rate: float,
    seed: int,
) -> dict:
    """Sets each rule's threshold on half of the known test images.

    Benchmarks withhold no training images for this, so the threshold comes from a
    seeded half of the known test images and the promise is measured on the other half.
    Where these are too few for the promise, the smallest that can be kept is made
    instead, 1 / (n + 1) for n images, with a warning.

    Args:
        scores: [n] scores by rule, of all test images.
        is_unknown: [n] boolean.
        example_id: [n] strings; which half an image falls in depends on these and the
            seed only.
        reject_rate: Promised share of knowns rejected.
        seed: Seed of the halving.

    Returns:
        The content of `calibration.json`.
    """
    known = np.flatnonzero(~is_unknown)
    order = known[np.argsort(hash_ids(example_id[known], "calibration", seed))]
    used, held_out = np.split(order, [(len(order) + 1) // 2])
    least = 1 / (len(used) + 1)
    if reject_rate < least:
        logging.warning(
            "A false-rejection rate of %g needs %d known test images, half of them to "
            "calibrate on; with %d to calibrate on, the threshold promises %.3g.",
            *(reject_rate, 2 * (math.ceil(1 / reject_rate) - 1), len(used), least),
        )
        reject_rate = least
    rules = {}
    for rule, score in scores.items():
        threshold = conformal_threshold(score[used], reject_rate)
        rules[rule] = {
            "threshold": threshold,
            "known_rejected": _share_above(score[held_out], threshold),
            "unknown_rejected": _share_above(score[is_unknown], threshold),
        }
    return {
        "reject_rate": reject_rate,
        "source": "a seeded half of the known test images; rates are measured on the "
        "other half and on the unknown test images",
        "calibration_images": len(used),
        "measured_images": len(held_out),
        "rules": rules,
    }


def _share_above(score: np.ndarray, threshold: float) -> float | None:
    """Returns the share of scores above a threshold, None where there are none."""
    return float(np.mean(score > threshold)) if len(score) else None
