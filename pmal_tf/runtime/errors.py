"""Errors that a user can mend; the command line prints them without a traceback."""

import errno


class PmalError(ValueError):
    """A mistake in what the package was given.

    The message says what is wrong, what was expected, `Received: ...`, and the way
    out. Command lines print it and leave with status 1.
    """


class TrainingDivergedError(PmalError):
    """The loss, or a weight, stopped being a finite number."""


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def is_disk_full(error: BaseException) -> bool:
    """Returns whether a disk is full, for which HDF5 and TensorFlow have only words."""
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
    return full or "No space left on device" in str(error)
