"""Metrics of open set recognition on plain arrays.

Scores are larger for unknowns. Everything that ranks is safe under ties.
"""

from __future__ import annotations

import numpy as np
from sklearn import metrics as sklearn_metrics

from pmal_tf.runtime.errors import PmalError

_ACCEPTED_SHARE = 0.95
# What `open_set_metrics` gives.
OPEN_SET_METRICS = ("auroc", "oscr", "aupr_in", "aupr_out", "fpr95", "dtacc")


def closed_set_metrics(
    class_index: np.ndarray, predicted: np.ndarray, num_classes: int
) -> dict[str, float]:
    """Scores the classification of known images into [n] classes in [0, K).

    Returns:
        `acc`, the share classified rightly, and `macro_f1`, the mean F1 over the K
        known classes; both in [0, 1].
    """
    classes = range(num_classes)
    macro_f1 = sklearn_metrics.f1_score(
        class_index, predicted, labels=classes, average="macro", zero_division=0.0
    )
    accuracy = float(np.mean(class_index == predicted))
    return {"acc": accuracy, "macro_f1": float(macro_f1)}


def open_set_metrics(
    known_score: np.ndarray, unknown_score: np.ndarray, known_correct: np.ndarray
) -> dict[str, float]:
    """Scores the rejection of unknown images.

    Args:
        known_score: [n] scores of known test images.
        unknown_score: [m] scores of unknown test images.
        known_correct: [n] boolean, whether each known image was classified rightly.

    Returns:
        In [0, 1] each: `auroc` (unknown is positive), `oscr`, `aupr_in` (known is
        positive), `aupr_out` (unknown is positive), `fpr95` (share of unknowns accepted
        at the threshold that accepts 95 % of knowns), `dtacc` (best balanced accuracy
        over thresholds).

    Raises:
        PmalError: If a side is empty or a score is not a finite number.
    """
    for side, score in (("known", known_score), ("unknown", unknown_score)):
        if len(score) == 0 or not np.isfinite(score).all():
            raise PmalError(
                f"Open-set metrics need finite scores of {side} images. Received: "
                f"{len(score)} scores, {int((~np.isfinite(score)).sum())} not finite"
            )
    score = np.concatenate([known_score, unknown_score])
    is_unknown = np.arange(len(score)) >= len(known_score)
    return {
        "auroc": float(sklearn_metrics.roc_auc_score(is_unknown, score)),
        "oscr": oscr(known_score, unknown_score, known_correct),
        "aupr_in": float(sklearn_metrics.average_precision_score(~is_unknown, -score)),
        "aupr_out": float(sklearn_metrics.average_precision_score(is_unknown, score)),
        "fpr95": fpr_at_95_tpr(known_score, unknown_score),
        "dtacc": detection_accuracy(known_score, unknown_score),
    }


def oscr(
    known_score: np.ndarray, unknown_score: np.ndarray, known_correct: np.ndarray
) -> float:
    """Area under the open set classification rate curve (Dhamija et al. 2018).

    The curve plots the share of knowns that are accepted and right over the share of
    unknowns accepted, as the threshold moves. Its area has a closed form: the chance
    that a random known is right and scores below a random unknown, ties counting half,

        1 / (n m) sum_ij correct_i (1[s_i < u_j] + 1[s_i = u_j] / 2).

    Returns:
        A number in [0, accuracy].
    """
    ordered = np.sort(unknown_score)
    right = known_score[known_correct]
    above = len(ordered) - np.searchsorted(ordered, right, side="right")
    at_or_above = len(ordered) - np.searchsorted(ordered, right, side="left")
    pairs = len(known_score) * len(unknown_score)
    return float((above + at_or_above).sum() / 2 / pairs)


def fpr_at_95_tpr(known_score: np.ndarray, unknown_score: np.ndarray) -> float:
    """Share of unknowns accepted when at least 95 % of knowns are.

    An image is accepted when its score is at or below the threshold; the threshold is
    the smallest known score that accepts enough.
    """
    needed = int(np.ceil(_ACCEPTED_SHARE * len(known_score)))
    threshold = np.sort(known_score)[needed - 1]
    return float(np.mean(unknown_score <= threshold))


def detection_accuracy(known_score: np.ndarray, unknown_score: np.ndarray) -> float:
    """Largest (known accepted + unknown rejected) / 2 over all thresholds."""
    threshold = np.unique(np.concatenate([known_score, unknown_score]))
    accepted = [
        np.searchsorted(np.sort(score), threshold, side="right") / len(score)
        for score in (known_score, unknown_score)
    ]
    # Below the smallest score nothing is accepted, which is right for half.
    return float(max(0.5, np.max((accepted[0] + 1.0 - accepted[1]) / 2)))
