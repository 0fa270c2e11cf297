"""What commands write to stderr: plain lines, and few of other libraries."""

from __future__ import annotations

import logging as standard_logging
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


def plain_messages() -> None:
    """Shows the log as time and text, and keeps TensorFlow's start-up messages out.

    To be called by a command before TensorFlow loads.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    standard_logging.getLogger("tensorflow").setLevel(standard_logging.WARNING)
    formatter = standard_logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S")
    logging.get_absl_handler().setFormatter(formatter)
