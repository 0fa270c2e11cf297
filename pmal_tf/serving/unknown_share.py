"""The share of images answered `unknown`: what to watch once a model is in use."""

from __future__ import annotations

from pmal_tf.serving.exported import Promise


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
    from scipy.stats import binomtest

    failed = f", {unreadable:,} unreadable" if unreadable else ""
    if not readable:
        return f"0 images{failed}."
    # Clopper and Pearson's.
    interval = binomtest(unknown, readable).proportion_ci(0.95, method="exact")
    text = (
        f"{readable:,} image{'s' if readable > 1 else ''}: {unknown:,} unknown "
        f"({100 * unknown / readable:.1f} %, 95 % interval {100 * interval.low:.1f} to "
        f"{100 * interval.high:.1f} %){failed}."
    )
    if given_threshold is not None:
        return f"{text} The threshold {given_threshold:g} is not the model's own."
    if promise is None:
        return f"{text} Whoever exported the model chose the threshold."
    rate = f"{100 * promise.reject_rate:.1f} %"
    text += f" The threshold was set to reject at most {rate} of known images."
    if interval.low > max(promise.reject_rate, promise.highest_rate):
        return f"{text} More is rejected than known images alone would explain."
    if interval.low > promise.reject_rate:
        return (
            f"{text} More is rejected, but known images alone might explain it: set on "
            f"{promise.images:,} images, a threshold may reject up to "
            f"{100 * promise.highest_rate:.1f} % of them."
        )
    return text
