"""Speed figures: `python -m pmal_tf.benchmark input --json=input.json`.

`python -m pmal_tf.benchmark mining --n=20000 --k=6` measures mining instead.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from pmal_tf.config import Config
from pmal_tf.data.images import SourceOptions
from pmal_tf.errors import PmalError
from pmal_tf.quiet import plain_messages


def _input_arguments(values: flags.FlagValues) -> dict[str, Any]:
    """Returns what `benchmark.input.run` takes."""
    options = SourceOptions(
        data_dir=values.data_dir,
        cache_dir=values.cache_dir,
        image_size=values.image_size,
    )
    return {"datasets": values.datasets, "options": options}


def _mining_arguments(values: flags.FlagValues) -> dict[str, Any]:
    """Returns what `benchmark.mining.run` takes."""
    names = ("n", "k", "dtype", "memory_mb", "repetitions", "references", "scaling")
    plot = Path(values.plot) if values.plot else None
    return {name: getattr(values, name) for name in names} | {"plot": plot}


# A benchmark is a module of this folder with `run`, which returns a text and
# measurements, and a line here: what `run` takes, from the flags.
KINDS = {"input": _input_arguments, "mining": _mining_arguments}


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of all kinds; a kind ignores those of the others.

    Args:
        values: Where to declare them.
    """

    def define(kind: str, name: str, default: Any, text: str, **more: Any) -> None:
        declare = getattr(flags, f"DEFINE_{kind}")
        declare(name, default, help=text, flag_values=values, **more)

    define("string", "json", "", "File to write the measurements to.")
    text = "input: datasets to measure; all prepared ones if none."
    define("list", "datasets", [], text)
    define("string", "data_dir", "", "input: folder of prepared datasets, or images.")
    define("string", "cache_dir", "", "input: folder for decoded images.")
    text = "input: side of the images; 0: the dataset's own."
    define("integer", "image_size", 0, text, lower_bound=0, upper_bound=1024)
    define("integer", "n", 20_000, "mining: number of samples.")
    define("integer", "k", 6, "mining: number of classes.")
    text = "mining: number type within tiles."
    define("enum", "dtype", "float32", text, enum_values=["float32", "float64"])
    text = "mining: memory budget in MiB."
    define("integer", "memory_mb", Config.mining_memory_mb, text)
    define("integer", "repetitions", 5, "mining: how often each thing is timed.")
    text = "mining: references to measure beside; of these, or nothing."
    define("list", "references", ["scipy", "matmul", "sqrt"], text)
    define("boolean", "scaling", False, "mining: measure how cost grows with n and k.")
    text = "mining: picture of the growth to draw, .png, .svg or .pdf; has it measured."
    define("string", "plot", "", text)


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
    try:
        text, measurements = benchmark.run(**KINDS[argv[1]](values))
    except PmalError as error:
        sys.exit(f"Error: {error}")
    sys.stdout.write(text)
    if values.json:
        write_measurements(Path(values.json), measurements)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    app.run(_main)
