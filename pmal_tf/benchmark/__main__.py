"""Speed figures: `python -m pmal_tf.benchmark input --json=input.json`.

`python -m pmal_tf.benchmark mining --n=20000 --k=6` measures mining instead, `python -m
pmal_tf.benchmark training` the steps of training, and `python -m pmal_tf.benchmark
serving` an exported model.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from absl import app, flags

from pmal_tf.backbones.settings import NetworkSettings
from pmal_tf.data.settings import SourceOptions
from pmal_tf.mining.settings import MiningSettings
from pmal_tf.runtime.console import plain_messages
from pmal_tf.runtime.errors import PmalError
from pmal_tf.training.recipe import Recipe


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
    names = ("n", "k", "dtype", "memory_mb", "references", "scaling")
    plot = Path(values.plot) if values.plot else None
    repetitions = 5 if values.repetitions is None else values.repetitions
    given = {name: getattr(values, name) for name in names}
    return given | {"plot": plot, "repetitions": repetitions}


def _training_arguments(values: flags.FlagValues) -> dict[str, Any]:
    """Returns what `benchmark.training.run` takes.

    Raises:
        PmalError: If a batch size is not a number.
    """
    try:
        batch_sizes = [int(size) for size in values.batch_sizes]
    except ValueError as error:
        raise PmalError(
            "`batch_sizes` must list whole numbers. Received: --batch_sizes="
            f"{','.join(values.batch_sizes)}"
        ) from error
    names = ("backbones", "width", "jit")
    return {name: getattr(values, name) for name in names} | {
        "batch_sizes": batch_sizes,
        "precisions": values.precision,
        "image_size": values.image_size or 32,
        "repetitions": 15 if values.repetitions is None else values.repetitions,
    }


def _serving_arguments(values: flags.FlagValues) -> dict[str, Any]:
    """Returns what `benchmark.serving.run` takes.

    Raises:
        PmalError: If more than one network is named.
    """
    if len(values.backbones) != 1:
        raise PmalError(
            "`backbones` must name one network to serve. Received: --backbones="
            f"{','.join(values.backbones)}"
        )
    return {
        "backbone": values.backbones[0],
        "width": values.width,
        "image_size": values.image_size or 32,
        "repetitions": 500 if values.repetitions is None else values.repetitions,
    }


# A benchmark is a module of this folder with `run`, which returns a text and
# measurements, and a line here: what `run` takes, from the flags.
KINDS = {
    "input": _input_arguments,
    "mining": _mining_arguments,
    "serving": _serving_arguments,
    "training": _training_arguments,
}


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
    text = "Side of the images; 0: input: the dataset's own; else 32."
    define("integer", "image_size", 0, text, lower_bound=0, upper_bound=1024)
    define("integer", "n", 20_000, "mining: number of samples.")
    define("integer", "k", 6, "mining: number of classes.")
    text = "mining: number type within tiles."
    define("enum", "dtype", "float32", text, enum_values=["float32", "float64"])
    text = "mining: memory budget in MiB."
    define("integer", "memory_mb", MiningSettings.mining_memory_mb, text)
    text = "How often each is timed; mining: 5; training: 15 pairs; serving: 500."
    define("integer", "repetitions", None, text)
    text = "mining: references to measure beside; of these, or nothing."
    define("list", "references", ["scipy", "matmul", "sqrt"], text)
    define("boolean", "scaling", False, "mining: measure how cost grows with n and k.")
    text = "mining: picture of the growth to draw, .png, .svg or .pdf; has it measured."
    define("string", "plot", "", text)
    text = "training: networks to measure; each with each batch size and precision; "
    text += "serving: one."
    define("list", "backbones", [NetworkSettings.backbone], text)
    text = "training: images in a step."
    define("list", "batch_sizes", [str(Recipe.batch_size)], text)
    text = "training: number types of the networks' arithmetic, as in training."
    define("list", "precision", [NetworkSettings.precision], text)
    text = "training, serving: multiplier of the networks' channels."
    define("float", "width", NetworkSettings.width, text)
    text = "training: compare steps under XLA (on) or plain graphs (off)."
    define("string", "jit", "on", text)


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
