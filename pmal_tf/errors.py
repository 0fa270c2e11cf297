"""Errors that a user can mend; the command line prints them without a traceback."""


class PmalError(ValueError):
    """A mistake in what the package was given, told in a sentence.

    The message says what is wrong, what was expected, `Received: ...`, and the way
    out. Command lines print it and leave with status 1.
    """


class TrainingDivergedError(PmalError):
    """The loss, or a weight, stopped being a finite number."""
