"""A threshold that rejects a promised share of known images."""

from __future__ import annotations

import math

import numpy as np
from absl import logging

from pmal_tf.data.hashing import hash_ids
from pmal_tf.runtime.errors import PmalError

WITHHELD = "known images that training never saw, withheld for this"
TEST_HALF = "a seeded half of the known test images"

# Scores of images, by rule.
Scores = dict[str, np.ndarray]


def conformal_threshold(known_score: np.ndarray, reject_rate: float) -> float:
    """Split-conformal threshold (Vovk et al. 2005; Papadopoulos et al. 2002).

    The k-th smallest of n scores with k = ceil((n + 1) (1 - reject_rate)): a further
    known image, exchangeable with these, is rejected (scores above it) with probability
    at most `reject_rate`, a share in (0, 1). Takes [n] scores of known images that
    training never saw.

    Raises:
        PmalError: If there are too few images for the promise, or a score is not a
            number.
    """
    position = _position(len(known_score), reject_rate)
    if not np.isfinite(known_score).all():
        raise PmalError(
            "`known_score` must hold finite numbers. Received: "
            f"{np.count_nonzero(~np.isfinite(known_score))} that are not"
        )
    return float(np.sort(known_score)[position - 1])


def rate_interval(count: int, reject_rate: float) -> tuple[float, float]:
    """Central 90 % interval of the rate at which a calibrated threshold rejects.

    `conformal_threshold` keeps its promise on average over draws of the n images it is
    set on. A single draw has a rate of its own: where scores have a density, the share
    of knowns below the k-th smallest of n has the Beta(k, n + 1 - k) distribution of
    order statistics, so the rejected share is Beta(n + 1 - k, k) (Vovk, "Conditional
    validity of inductive conformal predictors", 2012). Raises as that does.
    """
    from scipy.stats import beta

    position = _position(count, reject_rate)
    low, high = beta.ppf([0.05, 0.95], count + 1 - position, position)
    return float(low), float(high)


def _position(count: int, reject_rate: float) -> int:
    """Returns k; raises as `conformal_threshold`."""
    if not 0.0 < reject_rate < 1.0:
        raise PmalError(
            f"`reject_rate` must lie in (0, 1). Received: reject_rate={reject_rate}"
        )
    # The small term takes off rounding: 10 * (1 - 0.7) must not become 4.
    position = math.ceil((count + 1) * (1.0 - reject_rate) - 1e-9)
    if position > count:
        raise PmalError(
            f"A false-rejection rate of {reject_rate} needs at least "
            f"{_least_images(reject_rate)} known images to calibrate on. Received: "
            f"{count}. Ask for a larger --reject_rate."
        )
    return position


def _least_images(reject_rate: float) -> int:
    """Returns how few images a promise can be kept with."""
    return math.ceil(1.0 / reject_rate) - 1


def calibrate(
    calibration: Scores,
    known: Scores,
    unknown: Scores,
    *,
    reject_rate: float,
    source: str,
) -> dict:
    """Sets each rule's threshold, and measures what it rejects.

    Where there are too few images for the promise, the smallest that can be kept is
    made instead, 1 / (n + 1) for n images, with a warning.

    Args:
        calibration: Scores of known images that neither training nor `known` holds.
        known: Scores of known images to measure on.
        unknown: Scores of unknown images.
        reject_rate: Promised share of knowns rejected.
        source: Which images the first ones are.

    Returns:
        The content of `calibration.json`.

    Raises:
        PmalError: If there is no image to calibrate on.
    """
    count = len(next(iter(calibration.values())))
    if not count:
        raise PmalError(
            "A threshold needs known images that training never saw. Received: none. "
            "Add test images, or withhold training images with --calibration_fraction."
        )
    least = 1 / (count + 1)
    if reject_rate < least:
        logging.warning(
            "A false-rejection rate of %g needs %d known images to calibrate on; with "
            "%d to calibrate on (%s), the threshold promises %.3g. More images, or a "
            "larger --calibration_fraction, would help.",
            reject_rate,
            _least_images(reject_rate),
            count,
            source,
            least,
        )
        reject_rate = least
    rules: dict[str, dict[str, float | None]] = {}
    for rule, score in calibration.items():
        threshold = conformal_threshold(score, reject_rate)
        rules[rule] = {"threshold": threshold}
        for side, measured in (("known", known[rule]), ("unknown", unknown[rule])):
            share = float(np.mean(measured > threshold)) if len(measured) else None
            rules[rule][f"{side}_rejected"] = share
    return {
        "reject_rate": reject_rate,
        "rate_interval_90": rate_interval(count, reject_rate),
        "source": source,
        "calibration_images": count,
        "measured_images": len(next(iter(known.values()))),
        "unknown_images": len(next(iter(unknown.values()))),
        "rules": rules,
    }


def calibrate_on_half(
    scores: Scores,
    is_unknown: np.ndarray,
    example_id: np.ndarray,
    *,
    reject_rate: float,
    seed: int,
) -> dict:
    """Sets each rule's threshold on half of the known test images.

    For benchmarks, which withhold no training images: the promise is measured on the
    other half. Which half an image falls in depends on its id and the seed only.
    Takes [n] scores by rule of all test images; returns what `calibrate` does.
    """
    known = np.flatnonzero(~is_unknown)
    order = known[np.argsort(hash_ids(example_id[known], "calibration", seed))]
    used, held_out = np.split(order, [(len(order) + 1) // 2])
    parts = (
        {rule: score[positions] for rule, score in scores.items()}
        for positions in (used, held_out, is_unknown)
    )
    return calibrate(*parts, reject_rate=reject_rate, source=TEST_HALF)
