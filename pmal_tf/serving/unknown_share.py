"""The share of images answered `unknown`: what to watch once a model is in use."""

from __future__ import annotations

from pmal_tf.serving.exported import Promise


def exact_interval(
    successes: int, count: int, level: float = 0.95
) -> tuple[float, float]:
    """Clopper-Pearson interval of a share.

    Args:
        successes: How many of them.
        count: How many there are, at least 1.
        level: Probability with which such intervals hold the true share, at least.
    """
    from scipy.stats import beta

    tail = (1.0 - level) / 2.0
    low, high = 0.0, 1.0
    if successes > 0:
        low = float(beta.ppf(tail, successes, count - successes + 1))
    if successes < count:
        high = float(beta.ppf(1.0 - tail, successes + 1, count - successes))
    return low, high


def describe_share(
    unknown: int,
    readable: int,
    unreadable: int,
    *,
    promise: Promise | None,
    given_threshold: float | None = None,
) -> str:
    """Says how many images were unknown, and whether that is to be expected.

    Args:
        unknown: How many of the readable images were answered `unknown`.
        readable: How many images the model saw.
        unreadable: How many it did not; they do not count in the share.
        promise: What the model's own threshold was set to, if anything.
        given_threshold: The threshold that took its place, if one did.
    """
    failed = f", {unreadable:,} unreadable" if unreadable else ""
    if not readable:
        return f"0 images{failed}."
    low, high = exact_interval(unknown, readable)
    text = (
        f"{readable:,} image{'s' if readable > 1 else ''}: {unknown:,} unknown "
        f"({100 * unknown / readable:.1f} %, 95 % interval {100 * low:.1f} to "
        f"{100 * high:.1f} %){failed}."
    )
    if given_threshold is not None:
        return f"{text} The threshold {given_threshold:g} is not the model's own."
    if promise is None:
        return f"{text} Whoever exported the model chose the threshold."
    return f"{text} {_against_promise(low, promise)}"


def _against_promise(low: float, promise: Promise) -> str:
    """Compares the lower end of a share's interval with what was promised."""
    rate = f"{100 * promise.reject_rate:.1f} %"
    text = f"The threshold was set to reject at most {rate} of known images."
    if low > max(promise.reject_rate, promise.highest_rate):
        return f"{text} More is rejected than known images alone would explain."
    if low > promise.reject_rate:
        return (
            f"{text} More is rejected, but known images alone might explain it: set on "
            f"{promise.images:,} images, a threshold may reject up to "
            f"{100 * promise.highest_rate:.1f} % of them."
        )
    return text
