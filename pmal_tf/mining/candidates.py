"""High-quality candidates per class (Section 4.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


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
    return _places(np.lexsort((example_id, exponent)))


def select_candidates(
    exponent: np.ndarray,
    class_index: np.ndarray,
    rank: np.ndarray,
    *,
    epsilon: float,
    at_least: int,
) -> Candidates:
    """Keeps the samples with r(x_i) >= epsilon max r(x_j) of their class.

    Taken in the log domain, e_i <= min_j e_j - ln(epsilon), where r cannot underflow.
    Where fewer than `at_least` pass, the best `at_least` of the class are taken.

    Args:
        exponent: [N] float64 exponents of the robustness.
        class_index: [N]; every one of 0..K-1 occurs.
        rank: [N] from `quality_rank`.
        epsilon: Threshold in (0, 1].
        at_least: Wanted candidates, the number T of prototypes per class.
    """
    size = np.bincount(class_index)
    lowest = np.full(len(size), np.inf)
    np.minimum.at(lowest, class_index, exponent)
    mask = exponent <= lowest[class_index] - np.log(epsilon)
    passed = np.bincount(class_index[mask], minlength=len(size))
    relaxed = passed < np.minimum(at_least, size)
    mask |= relaxed[class_index] & (_rank_in_class(rank, class_index) < at_least)
    count = np.bincount(class_index[mask], minlength=len(size))
    return Candidates(mask=mask, count=count, relaxed=relaxed)


def matched_candidates(
    model: Candidates, rank: np.ndarray, class_index: np.ndarray
) -> Candidates:
    """Keeps as many of every class as another quality kept, the best by this one.

    A threshold on probabilities or variances means something else than one on
    robustness: exp(-variance) of a probability is never below 0.77, so that any epsilon
    below keeps every image. Qualities are compared fairly at equal numbers.

    Args:
        model: The candidates to match.
        rank: [N] from `quality_rank`, by this quality.
        class_index: [N] in [0, K).
    """
    mask = _rank_in_class(rank, class_index) < model.count[class_index]
    return Candidates(mask=mask, count=model.count, relaxed=model.relaxed)


def _rank_in_class(rank: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Returns the [N] ranks within the samples' own classes."""
    size = np.bincount(class_index)
    start = np.cumsum(size) - size
    return _places(np.lexsort((rank, class_index))) - start[class_index]


def _places(order: np.ndarray) -> np.ndarray:
    """Returns where each position stands in an order of all of them."""
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places
