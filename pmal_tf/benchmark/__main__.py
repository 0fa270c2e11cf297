"""Speed figures: `python -m pmal_tf.benchmark input --json=input.json`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from absl import app, flags

from pmal_tf.data.images import SourceOptions
from pmal_tf.errors import PmalError
from pmal_tf.quiet import plain_messages

# A benchmark is a module of this folder with `run(datasets, options)`, which returns a
# text and measurements.
KINDS = ("input",)


def _main(argv: list[str]) -> None:
    """Runs the benchmark that the command line names."""
    if len(argv) != 2 or argv[1] not in KINDS:
        raise app.UsageError(
            f"Name one benchmark of {', '.join(KINDS)}. Received: {' '.join(argv[1:])}"
        )
    values = flags.FLAGS
    plain_messages()
    # These import TensorFlow.
    from pmal_tf.benchmark.measurement import write_measurements

    benchmark = importlib.import_module(f"pmal_tf.benchmark.{argv[1]}")
    options = SourceOptions(
        data_dir=values.data_dir,
        cache_dir=values.cache_dir,
        image_size=values.image_size,
    )
    try:
        text, measurements = benchmark.run(values.datasets, options)
    except PmalError as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(text)
    if values.json:
        write_measurements(Path(values.json), measurements)


if __name__ == "__main__":
    flags.DEFINE_list("datasets", [], "Datasets to measure; all prepared ones if none.")
    flags.DEFINE_string("data_dir", "", "Folder of prepared datasets, or of images.")
    flags.DEFINE_string("cache_dir", "", "Folder for decoded images.")
    flags.DEFINE_integer(
        "image_size", 0, "Side of the images; 0: the dataset's own.", 0, 1024
    )
    flags.DEFINE_string("json", "", "File to write the measurements to.")
    app.run(_main)
