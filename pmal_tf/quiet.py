"""Keeping other libraries' progress messages out of the run's log."""

from __future__ import annotations

import os
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


def quiet_tensorflow() -> None:
    """Keeps TensorFlow's start-up messages off stderr; to be called before it loads."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
