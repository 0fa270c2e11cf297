"""Downloads a dataset: `python -m pmal_tf.data.prepare --dataset=cifar10`.

No other command downloads anything.
"""

from __future__ import annotations

import sys

from absl import app, flags

from pmal_tf.data.sources import SOURCES, get_source
from pmal_tf.errors import PmalError


def _main(argv: list[str]) -> None:
    """Prepares the dataset that the flags name, and prints where it lies."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected arguments: {argv[1:]}")
    values = flags.FLAGS
    try:
        line = get_source(values.dataset).prepare(values.data_dir)
    except PmalError as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(line + "\n")


if __name__ == "__main__":
    flags.DEFINE_string("dataset", None, f"One of {', '.join(SOURCES)}.", required=True)
    flags.DEFINE_string("data_dir", None, "Where prepared datasets lie.")
    app.run(_main)
