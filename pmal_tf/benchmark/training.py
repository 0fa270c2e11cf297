"""How much PMAL's training step costs beside the softmax classifier's.

Each grade of PMAL, from all prototypes with every batch to a few of them in turn, is
timed beside the softmax step of the same network, and that step under XLA beside the
plain graph. Every step is the function that `training.loop.train` calls.

Its input is one batch of noise that lies in memory and is handed on again and again: it
costs nothing but the dealing of prototypes, which is a part of PMAL. Taking a batch is
also timed by itself, and reported as a share of the step.

Both of a pair run back to back. Who goes first changes from round to round, and so does
the order of the pairs, so that what slows the machine down falls on all alike.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

import keras
import tensorflow as tf
from absl import logging

from pmal_tf.benchmark.measurement import (
    Measurement,
    render,
    single,
    spread,
    time_in_turn,
)
from pmal_tf.benchmark.memory import peak_extra_memory
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.benchmark.training_steps import (
    FEW_CLASSES,
    MANY_CLASSES,
    PROTOTYPES_PER_CLASS,
    Setting,
    TrainingStep,
    Variant,
    build_step,
)
from pmal_tf.methods.pmal.settings import PMALSettings
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.precision import check_precision
from pmal_tf.training.checkpoints import list_checkpoints, save_checkpoint

_LEAST_IMAGE_SIZE, _DEFAULT_IMAGE_SIZE = 8, 32
# A step is taken as often as fills this.
_LEAST_SECONDS = 0.25
_INPUTS = 50
_SLICE = PMALSettings.prototype_slice
_ALL = FEW_CLASSES * PROTOTYPES_PER_CLASS
_MANY = str(MANY_CLASSES)
VARIANTS = (
    Variant("softmax", "softmax"),
    Variant("joint", "PMAL, joint", FEW_CLASSES, "joint", _ALL),
    Variant("every", "PMAL, inference", FEW_CLASSES, "inference", _ALL),
    Variant("bank", "PMAL, bank", FEW_CLASSES, "bank", _SLICE),
    Variant(f"softmax_{_MANY}", "softmax", MANY_CLASSES),
    Variant(f"bank_{_MANY}", "PMAL, bank", MANY_CLASSES, "bank", _SLICE),
)


@dataclass(frozen=True)
class Comparison:
    """Two steps to compare.

    Attributes:
        name: Of the measurement.
        ours: Name of a variant.
        reference: Name of another.
        of_rates: Whether to divide images a second, not seconds.
    """

    name: str
    ours: str
    reference: str
    of_rates: bool = False


_RATIOS = (
    Comparison("step_ratio_joint", "joint", "softmax"),
    Comparison("step_ratio_every", "every", "softmax"),
    Comparison("step_ratio_bank", "bank", "softmax"),
    # Named after its prototypes, K * T.
    Comparison("step_ratio_bank_2000", f"bank_{_MANY}", f"softmax_{_MANY}"),
)


@dataclass(frozen=True)
class MeasuredStep:
    """A step that is compiled, and what was measured of it.

    Attributes:
        variant: Which it is.
        step: Takes it.
        first_seconds: What the first one took, compiling included.
        peak_bytes: By how much memory grows in a step.
        seconds: What later ones took, in every pair that it is in.
    """

    variant: Variant
    step: TrainingStep
    first_seconds: float
    peak_bytes: int
    seconds: list[float] = field(default_factory=list)


def run(settings: BenchmarkSettings) -> tuple[str, list[Measurement]]:
    """Measures the steps of every combination of backbone, batch size and precision.

    Returns:
        Tables, and the measurements; the names of all but the first combination end in
        `_<backbone>_<batch size>_<precision>`.

    Raises:
        PmalError: If a setting is out of range, or a device cannot do it.
    """
    lists = (settings.backbones, settings.batch_sizes, settings.precision)
    for name, items in zip(
        ("backbones", "batch_sizes", "precision"), lists, strict=True
    ):
        if not items or len(set(items)) != len(items):
            raise PmalError(
                f"`{name}` must list at least one value, each once. Received: "
                f"--{name}={','.join(map(str, items))}"
            )
    image_size = settings.image_size or _DEFAULT_IMAGE_SIZE
    if image_size < _LEAST_IMAGE_SIZE:
        raise PmalError(
            f"`image_size` must be at least {_LEAST_IMAGE_SIZE}. Received: "
            f"--image_size={image_size}"
        )
    for policy in settings.precision:
        check_precision(policy)
    repetitions = settings.repetitions or 15
    texts, measurements = [], []
    for number, chosen in enumerate(itertools.product(*lists)):
        setting = Setting(*chosen, width=settings.width, image_size=image_size)
        text, found = _measure(setting, settings.jit == "on", repetitions)
        suffix = "_".join(["", *map(str, chosen)]) if number else ""
        texts.append(text)
        measurements += [replace(each, name=each.name + suffix) for each in found]
    return "\n".join(texts), measurements


def _measure(
    setting: Setting, jit: bool, repetitions: int
) -> tuple[str, list[Measurement]]:
    """Measures one combination; returns its tables and measurements."""
    variants, comparisons = _plan(jit)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(setting.precision)
    try:
        steps = {each.name: _get_ready(each, setting) for each in variants}
        pairs = time_pairs(comparisons, steps, repetitions)
        writing, mebibytes = _checkpoint(steps["joint"].step.model, repetitions)
    finally:
        keras.config.set_dtype_policy(before)
    images = setting.batch_size
    measurements = [
        *(median_ratio(each, pairs[each], steps, images) for each in comparisons),
        *(figure for own in steps.values() for figure in _figures(own, images)),
        single("checkpoint_seconds", writing, "s", "written to a temporary folder"),
        Measurement("checkpoint_mib", mebibytes, "MiB", note="of PMAL"),
    ]
    share = max(
        _seconds_of_input(own.step.batches) / median(own.seconds)
        for own in steps.values()
    )
    title = (
        f"{setting.backbone}, width {setting.width:g}, {setting.image_size} x "
        f"{setting.image_size} pixels, batch {images}, {setting.precision}. The bank "
        f"is fed {_SLICE} prototypes a step; {PROTOTYPES_PER_CLASS} per class in all. "
        f"Ratios are those of steps {'under XLA' if jit else 'as plain graphs'}, but "
        "for xla_gain."
    )
    notes = [
        "A ratio is the median of those of pairs that were timed back to back. More "
        "images, in times of the batch, is what prototypes add to what passes through "
        "the network; in inference mode they pass without a gradient, about a third of "
        "the arithmetic.",
        f"To take a batch from the input costs at most {share:.2%} of a step.",
    ]
    return render(title, measurements, notes), measurements


def _plan(jit: bool) -> tuple[list[Variant], list[Comparison]]:
    """Returns the steps to take, and what to compare.

    Args:
        jit: Whether steps are compiled with XLA, all but a second softmax step; or else
            that one alone.
    """
    other = "softmax_plain" if jit else "softmax_xla"
    fast, plain = ("softmax", other) if jit else (other, "softmax")
    variants = [replace(each, jit=jit) for each in VARIANTS]
    variants.append(Variant(other, "softmax", jit=not jit))
    return variants, [*_RATIOS, Comparison("xla_gain", fast, plain, of_rates=True)]


def _get_ready(variant: Variant, setting: Setting) -> MeasuredStep:
    """Compiles a step, and takes some that no ratio is made of."""
    step = build_step(variant, setting)
    ((first,),) = time_in_turn(step, repetitions=1)
    # Not of the first, which has the compiler's own memory; and what one has more than
    # the other is not the step's.
    peak = min(_peak_memory(step) for _ in range(2))
    logging.info("Ready after %.1f s: %s", first, variant.label)
    return MeasuredStep(variant, step, first, peak)


def _peak_memory(step: TrainingStep) -> int:
    """Returns by how many bytes memory grows while a step is taken, at its peak.

    Weights and what the optimiser keeps are there before. TensorFlow never gives back
    what its pools once had, so their own accounts are read: on a GPU that is all, on a
    CPU what the process takes beside the pool is added.

    Args:
        step: One that was taken before, so that the pool need not grow.
    """
    experimental = tf.config.experimental
    on_gpu = bool(tf.config.list_logical_devices("GPU"))
    device = "GPU:0" if on_gpu else "CPU:0"
    try:
        experimental.reset_memory_stats(device)
        before = experimental.get_memory_info(device)["current"]
    except ValueError:  # Without oneDNN there is no pool on a CPU, and no account.
        return peak_extra_memory(step)[1]
    beside = 0
    if on_gpu:
        step()
    else:
        _, beside = peak_extra_memory(step)
    return experimental.get_memory_info(device)["peak"] - before + beside


def time_pairs(
    comparisons: Sequence[Comparison],
    steps: Mapping[str, MeasuredStep],
    repetitions: int,
) -> dict[Comparison, list[tuple[float, float]]]:
    """Times pair after pair, over and over, and adds what each step took to its own.

    Each round begins with another pair, and in every second round the reference goes
    first. A round before them is not counted: for a while, new steps were seen to be
    slower.

    Returns:
        For each comparison the seconds of our step and of the other, pair by pair.
    """
    found: dict[Comparison, list[tuple[float, float]]] = {c: [] for c in comparisons}
    for number in range(repetitions + 1):
        start = number % len(comparisons)
        for comparison in (*comparisons[start:], *comparisons[:start]):
            pair = [steps[comparison.ours], steps[comparison.reference]]
            order = -1 if number % 2 else 1
            works = [own.step for own in pair[::order]]
            ours, reference = time_in_turn(
                *works, repetitions=1, least_seconds=_LEAST_SECONDS
            )[::order]
            if number > 0:
                found[comparison].append((ours[0], reference[0]))
                pair[0].seconds.extend(ours)
                pair[1].seconds.extend(reference)
    return found


def median_ratio(
    comparison: Comparison,
    pairs: Sequence[tuple[float, float]],
    steps: Mapping[str, MeasuredStep],
    batch_size: int,
) -> Measurement:
    """Returns the pair whose ratio is the median of all; `pairs` are of seconds.

    Of an even number, the median is the lower of the middle two.
    """
    ours = steps[comparison.ours].variant
    other = steps[comparison.reference].variant
    if comparison.of_rates:
        pairs = [(batch_size / a, batch_size / b) for a, b in pairs]
    ordered = sorted(pairs, key=lambda pair: pair[0] / pair[1])
    middle = ordered[(len(ordered) - 1) // 2]
    ratios = spread([a / b for a, b in pairs])
    images = (batch_size + ours.fed) / (batch_size + other.fed)
    return Measurement(
        *(comparison.name, middle[0] / middle[1], "ratio", *middle),
        sides="images/s" if comparison.of_rates else "s",
        samples=tuple(zip(*pairs, strict=True)),
        note=f"{ours.label} / {other.label}; {images:.3g} times the images; pairs: "
        f"{ratios}",
    )


def _figures(own: MeasuredStep, batch_size: int) -> list[Measurement]:
    """Returns the figures of a step by itself, prototypes not counted as images."""
    name = own.variant.name
    rates = [batch_size / taken for taken in own.seconds]
    compiling = own.first_seconds - median(own.seconds)
    note = f"{own.variant.label}; {own.variant.fed} prototypes fed"
    return [
        single(f"images_per_second_{name}", rates, "images/s", note),
        Measurement(f"compile_seconds_{name}", compiling, "s"),
        Measurement(f"peak_memory_mib_{name}", own.peak_bytes / 2**20, "MiB"),
    ]


def _seconds_of_input(batches: tf.data.Dataset) -> float:
    """Returns the median of the seconds that a batch takes."""
    iterator = iter(batches)
    next(iterator)
    (times,) = time_in_turn(partial(next, iterator), repetitions=_INPUTS)
    return median(times)


def _checkpoint(model: keras.Model, repetitions: int) -> tuple[list[float], float]:
    """Returns how long a checkpoint of a model takes, and how many MiB it has."""
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def write() -> None:
            save_checkpoint(model, folder, next(numbers))

        write()
        (times,) = time_in_turn(write, repetitions=repetitions)
        return times, list_checkpoints(folder)[0].stat().st_size / 2**20
