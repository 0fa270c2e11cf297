"""Speed figures: `python -m pmal_tf.benchmark input --json=input.json`.

`python -m pmal_tf.benchmark mining --n=20000 --k=6` measures mining instead, `python -m
pmal_tf.benchmark training` the steps of training, `python -m pmal_tf.benchmark serving`
an exported model, and `python -m pmal_tf.benchmark quality` the minutes until a network
is good.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from absl import app, flags

from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.runtime.console import plain_messages
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_json
from pmal_tf.runtime.settings import settings_in
from pmal_tf.workflow.flags import define_flag, value_of_flag

# A benchmark is a module of this folder with `run`, which takes `BenchmarkSettings` and
# returns a text and measurements.
KINDS = ("input", "mining", "quality", "serving", "training")


def define_flags(values: flags.FlagValues) -> None:
    """Declares the settings of all benchmarks as flags."""
    for field in settings_in(BenchmarkSettings):
        define_flag(field, values)


def settings_from(values: flags.FlagValues) -> BenchmarkSettings:
    """Returns the flags as settings.

    Raises:
        PmalError: If a value is not allowed.
    """
    fields = settings_in(BenchmarkSettings)
    return BenchmarkSettings(**{f.name: value_of_flag(f, values) for f in fields})


def main(argv: list[str]) -> None:
    """Runs the benchmark that the command line names.

    Raises:
        UsageError: If it names none.
    """
    if len(argv) != 2 or argv[1] not in KINDS:
        raise app.UsageError(
            f"Name one benchmark of {', '.join(KINDS)}. Received: {' '.join(argv[1:])}"
        )
    plain_messages()
    try:
        settings = settings_from(flags.FLAGS)
        # Imports TensorFlow.
        benchmark = importlib.import_module(f"pmal_tf.benchmark.{argv[1]}")
        text, measurements = benchmark.run(settings)
    except PmalError as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(text)
    if settings.json:
        write_json(Path(settings.json), [found.as_json() for found in measurements])


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(main)
