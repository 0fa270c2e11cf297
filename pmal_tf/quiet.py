"""Keeping other libraries' progress messages out of the run's log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from absl import logging


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Shows warnings only: TensorFlow, Keras and TFDS share absl's logger with us."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
