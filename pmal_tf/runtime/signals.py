"""Leaving on SIGTERM and Ctrl-C: at once where nothing is lost, else after a step."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from absl import logging


class Interrupted(BaseException):
    """The process was asked to leave by a signal; `kept` says what of its work stays.

    Not an `Exception`: whoever expects errors must not take this for one.
    """

    def __init__(self, number: int, kept: str = "") -> None:
        super().__init__(number, kept)
        self.number = number
        self.kept = kept or "Finished stages and checkpoints are kept."
        # What shells expect of a process that a signal ended.
        self.exit_status = 128 + number

    def __str__(self) -> str:
        name = signal.Signals(self.number).name
        return f"Stopped by {name}. {self.kept} The same command goes on from there."


class _State:
    """What the handler and the training loop share."""

    deferring = False
    received: int | None = None


def leave_on_signals() -> None:
    """Turns SIGTERM and SIGINT into `Interrupted`, from now on, in this process."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    """Raises at once, or lets the step in progress end; a second signal does not."""
    if _State.deferring and _State.received is None:
        _State.received = number
        logging.info("%s: leaving after this step", signal.Signals(number).name)
        return
    raise Interrupted(number)


@contextmanager
def deferred() -> Iterator[None]:
    """Lets signals wait; whoever asks for this looks at `requested` now and then.

    Raises:
        Interrupted: At the end, if a signal came and nobody has looked.
    """
    _State.deferring, _State.received = True, None
    try:
        yield
    finally:
        _State.deferring = False
    if _State.received is not None:
        raise Interrupted(_State.received)


def requested() -> int | None:
    """Returns the signal that waits, if one does."""
    return _State.received
