"""Speed figures: `python -m pmal_tf.benchmark input --json=input.json`.

`python -m pmal_tf.benchmark mining --n=20000 --k=6` measures mining instead, `python -m
pmal_tf.benchmark training` the steps of training, and `python -m pmal_tf.benchmark
serving` an exported model.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags

from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.runtime.console import plain_messages
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import write_json
from pmal_tf.runtime.settings import kind_of, settings_in

# A benchmark is a module of this folder with `run`, which takes `BenchmarkSettings` and
# returns a text and measurements.
KINDS = ("input", "mining", "serving", "training")
_DECLARE: dict[type, Callable[..., object]] = {
    bool: flags.DEFINE_boolean,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    tuple: flags.DEFINE_list,
}


def define_flags(values: flags.FlagValues) -> None:
    """Declares the settings of all benchmarks as flags."""
    for field in settings_in(BenchmarkSettings):
        default: Any = field.default
        declare = _DECLARE[type(default)]
        default = [*map(str, default)] if isinstance(default, tuple) else default
        declare(field.name, default, field.metadata["help"], flag_values=values)


def settings_from(values: flags.FlagValues) -> BenchmarkSettings:
    """Returns the flags as settings.

    Raises:
        PmalError: If a value is not allowed.
    """
    given: dict[str, Any] = {}
    for field in settings_in(BenchmarkSettings):
        value: Any = values[field.name].value
        if isinstance(value, list):
            try:
                value = tuple(map(kind_of(field), value))
            except ValueError as error:
                raise PmalError(
                    f"`{field.name}` must list whole numbers. Received: "
                    f"--{field.name}={','.join(value)}"
                ) from error
        given[field.name] = value
    return BenchmarkSettings(**given)


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
