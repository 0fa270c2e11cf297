"""Whether one method is ahead of another, judged from paired trials."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pmal_tf.runtime.errors import PmalError

# With one pair every resample is that pair. With two, the interval is from the smaller
# to the larger difference whatever they are, and two differences of like sign come up
# by a coin's chance of one half: neither tells anything.
LEAST_PAIRS = 3
_LEVEL, _RESAMPLES, _SEED = 0.95, 10_000, 0


@dataclass(frozen=True)
class Comparison:
    """A difference between two methods over n paired trials.

    Attributes:
        differences: First minus second by trial, in the unit of the values.
        mean_difference: Their mean.
        low: Lower end of the mean's interval; None for fewer than three pairs.
        high: Upper end.
    """

    differences: tuple[float, ...]
    mean_difference: float
    low: float | None = None
    high: float | None = None

    @property
    def ahead(self) -> bool:
        """Whether the first is ahead: the whole interval lies above 0."""
        return self.low is not None and self.low > 0

    @property
    def behind(self) -> bool:
        """Whether the first is behind: the whole interval lies below 0."""
        return self.high is not None and self.high < 0

    @property
    def brief(self) -> str:
        """What may be said of the first, in a word or three."""
        if self.low is None:
            return "too few pairs"
        return "ahead" if self.ahead else "behind" if self.behind else "too close"

    @property
    def verdict(self) -> str:
        """What may be said of the first, and why nothing where it is nothing."""
        if self.low is None:
            return f"{self.brief} to say (n = {len(self.differences)})"
        is_open = not (self.ahead or self.behind)
        return self.brief + (": interval includes 0" if is_open else "")


def compare_measured(
    pairs: Sequence[tuple[float | None, float | None]],
) -> Comparison | None:
    """Compares over the trials that have both numbers, None if there is no such."""
    both = [(a, b) for a, b in pairs if a is not None and b is not None]
    return (
        paired_bootstrap([a for a, _ in both], [b for _, b in both]) if both else None
    )


def paired_bootstrap(a: Sequence[float], b: Sequence[float]) -> Comparison:
    """Estimates how far the mean of `a - b` may lie from what was measured.

    Pairs are drawn with replacement, as many as there are, and the mean difference of
    each such resample is taken; the interval is between two percentiles of these means
    (Efron's percentile method), the same whenever it is computed. It knows nothing of
    trials that were not run: with n = 3 its ends are the smallest and the largest
    difference, because a resample of one pair only has a chance of 1/27, more than the
    2.5 % that are cut off. Then "ahead" means ahead in every trial, which two equal
    methods reach in 1 of 8 cases.

    Args:
        a: n values of the first method, one per trial.
        b: n values of the second, in the same order of trials.

    Returns:
        The differences, their mean and, from three pairs on, its 95 % interval.

    Raises:
        PmalError: If the values do not pair, or one is not finite.
    """
    if len(a) != len(b) or not len(a):
        raise PmalError(
            "`a` and `b` must hold a value each per trial, of at least one trial. "
            f"Received: {len(a)} and {len(b)} values"
        )
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    if not np.isfinite(difference).all():
        raise PmalError(
            f"`a` and `b` must be finite numbers. Received: a={list(a)}, b={list(b)}"
        )
    count, by_trial = len(difference), tuple(difference.tolist())
    mean = float(difference.mean())
    if count < LEAST_PAIRS:
        return Comparison(by_trial, mean)
    drawn = np.random.default_rng(_SEED).integers(count, size=(_RESAMPLES, count))
    means = difference[drawn].mean(axis=1)
    tail = (1 - _LEVEL) / 2
    low, high = (float(end) for end in np.quantile(means, (tail, 1 - tail)))
    return Comparison(by_trial, mean, low, high)
