"""Downloads a dataset: `python -m pmal_tf.data.prepare --dataset=cifar10`.

No other command downloads anything. What is prepared already is verified instead, and
what was downloaded before is not downloaded again.
"""

from __future__ import annotations

import os
import sys

from absl import app, flags

from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.sources import SOURCES, get_dataset
from pmal_tf.runtime.console import plain_messages
from pmal_tf.runtime.errors import PmalError

_INTERRUPTED = 130  # What shells report of a command that Ctrl-C ended.


def _main(argv: list[str]) -> None:
    """Prepares the dataset that the flags name, and prints where it lies."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    plain_messages()
    try:
        dataset = get_dataset(values.dataset)
        line = dataset.prepare(SourceOptions(data_dir=values.data_dir))
    except PmalError as error:
        status, message = 1, f"Error: {error}"
    except KeyboardInterrupt:
        status = _INTERRUPTED
        message = "Interrupted. Finished downloads are kept; the same command goes on."
    else:
        sys.stdout.write(f"{line}\n")
        return
    sys.stdout.flush()
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()
    # A usual exit would wait for the threads of TensorFlow Datasets, which may be busy
    # with a long download that nobody waits for any more.
    os._exit(status)


if __name__ == "__main__":
    flags.DEFINE_string("dataset", None, f"One of {', '.join(SOURCES)}.", required=True)
    flags.DEFINE_string("data_dir", "", "Where prepared datasets lie.")
    app.run(_main)
