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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
from pmal_tf.benchmark.measurement import (
    Measurement,
    render,
    single,
    spread,
    time_in_turn,
)
from pmal_tf.benchmark.memory import peak_extra_memory
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes, PrototypeSchedule
from pmal_tf.methods.pmal.settings import PMALSettings
from pmal_tf.runtime.errors import PmalError, TrainingDivergedError
from pmal_tf.runtime.precision import check_precision
from pmal_tf.training.checkpoints import list_checkpoints, save_checkpoint
from pmal_tf.training.loop import execution
from pmal_tf.training.recipe import Recipe
from pmal_tf.training.trainable import SoftmaxModel

PROTOTYPES_PER_CLASS = PMALSettings.prototypes_per_class
_FEW_CLASSES, _MANY_CLASSES = 6, 200
_LEAST_IMAGE_SIZE, _DEFAULT_IMAGE_SIZE = 8, 32
# A step is taken as often as fills this.
_LEAST_SECONDS = 0.25
_INPUTS = 50
# Of schedules; so many that the learning rate stays what it is.
_STEPS_PER_EPOCH = 10_000


@dataclass(frozen=True)
class Setting:
    """What all steps that are compared have in common."""

    backbone: str
    batch_size: int
    precision: str
    width: float
    image_size: int


@dataclass(frozen=True)
class Variant:
    """One way to take a step, by its name in measurements and its title in tables.

    The mode is that of `PMALModel`, empty for the softmax classifier; so many
    `prototypes` come with every batch; `jit` compiles with XLA.
    """

    name: str
    title: str
    num_classes: int = _FEW_CLASSES
    prototype_mode: str = ""
    prototypes: int = 0
    jit: bool = True

    @property
    def label(self) -> str:
        """Returns e.g. `PMAL, joint, K = 6, XLA`."""
        graph = "XLA" if self.jit else "plain graph"
        return f"{self.title}, K = {self.num_classes}, {graph}"


_SLICE = PMALSettings.prototype_slice
_ALL = _FEW_CLASSES * PROTOTYPES_PER_CLASS
VARIANTS = (
    Variant("softmax", "softmax"),
    Variant("joint", "PMAL, joint", prototype_mode="joint", prototypes=_ALL),
    Variant("every", "PMAL, inference", prototype_mode="inference", prototypes=_ALL),
    Variant("bank", "PMAL, bank", prototype_mode="bank", prototypes=_SLICE),
    Variant("softmax_200", "softmax", _MANY_CLASSES),
    Variant("bank_200", "PMAL, bank", _MANY_CLASSES, "bank", _SLICE),
)
# Names of ours and of the reference, by the name of the figure.
Comparisons = Mapping[str, tuple[str, str]]
_RATIOS: Comparisons = {
    "step_ratio_joint": ("joint", "softmax"),
    "step_ratio_every": ("every", "softmax"),
    "step_ratio_bank": ("bank", "softmax"),
    # Named after its prototypes, K * T.
    "step_ratio_bank_2000": ("bank_200", "softmax_200"),
}
_GAIN = "xla_gain"  # A ratio of images a second, the others of seconds.


class TrainingStep:
    """Takes one training step at each call, by the function that training calls.

    Like the loop, it reads the metrics after each step, which waits for the device. The
    model is compiled and its optimiser built; the batches are without end.

    Attributes:
        first_seconds: What the first step took, compiling included.
        peak_bytes: By how much memory grows in a step.
        seconds: What steps took in every pair that it is in.
    """

    def __init__(
        self, variant: Variant, model: keras.Model, batches: tf.data.Dataset
    ) -> None:
        self.variant, self.model, self.batches = variant, model, batches
        self.first_seconds, self.peak_bytes = 0.0, 0
        self.seconds: list[float] = []
        self._execute = execution(model, seed=0, jit=variant.jit)
        self._iterator = iter(batches)
        self._numbers = itertools.count()

    def __call__(self) -> dict[str, float]:
        """Takes a step; returns the running means of the losses.

        Raises:
            TrainingDivergedError: If it leaves a weight that is not finite.
        """
        number = next(self._numbers)
        broken, results = self._execute(
            self._iterator, tf.constant(number), tf.constant(1)
        )
        logs = {name: float(value) for name, value in results.items()}
        if int(broken) >= 0:
            raise TrainingDivergedError(
                "A measured step must leave finite weights. Received: one that is not "
                f"after step {number + 1}. Measure in another --precision."
            )
        return logs


def run(settings: BenchmarkSettings) -> tuple[str, list[Measurement]]:
    """Measures the steps of every combination of backbone, batch size and precision.

    The names of all but the first combination's measurements end in
    `_<backbone>_<batch size>_<precision>`.

    Raises:
        PmalError: If a setting is out of range, or a device cannot do it.
    """
    names = ("backbones", "batch_sizes", "precision")
    lists = (settings.backbones, settings.batch_sizes, settings.precision)
    for name, items in zip(names, lists, strict=True):
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
    texts, measurements = [], []
    for number, chosen in enumerate(itertools.product(*lists)):
        setting = Setting(*chosen, settings.width, image_size)
        jit, repetitions = settings.jit == "on", settings.repetitions or 15
        text, found = _measure(setting, jit, repetitions)
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
        steps = {each.name: _get_ready(build_step(each, setting)) for each in variants}
        pairs = time_pairs(comparisons, steps, repetitions)
        writing, mebibytes = _checkpoint(steps["joint"].model, repetitions)
    finally:
        keras.config.set_dtype_policy(before)
    images = setting.batch_size
    measurements = [
        median_ratio(
            name, pairs[name], steps[ours].variant, steps[other].variant, images
        )
        for name, (ours, other) in comparisons.items()
    ]
    for step in steps.values():
        measurements += _figures(step, images)
    measurements += [
        single("checkpoint_seconds", writing, "s", "written to a temporary folder"),
        Measurement("checkpoint_mib", mebibytes, "MiB", note="of PMAL"),
    ]
    share = max(
        _seconds_of_input(step.batches) / median(step.seconds)
        for step in steps.values()
    )
    title = (
        f"{setting.backbone}, width {setting.width:g}, {setting.image_size} x "
        f"{setting.image_size} pixels, batch {images}, {setting.precision}. In bank "
        f"mode {_SLICE} prototypes come with a step; {PROTOTYPES_PER_CLASS} per class "
        f"in all. Ratios are those of steps {'under XLA' if jit else 'as plain graphs'}"
        f", but for {_GAIN}."
    )
    notes = [
        "A ratio is the median of those of pairs that were timed back to back. More "
        "images, in times of the batch, is what prototypes add to what passes through "
        "the network; in inference mode they pass without a gradient, about a third of "
        "the arithmetic.",
        f"To take a batch from the input costs at most {share:.2%} of a step.",
    ]
    return render(title, measurements, notes), measurements


def _plan(jit: bool) -> tuple[list[Variant], Comparisons]:
    """Returns the steps, under XLA if `jit`, one more that is not, and their pairs."""
    other = "softmax_plain" if jit else "softmax_xla"
    variants = [replace(each, jit=jit) for each in VARIANTS]
    variants.append(Variant(other, "softmax", jit=not jit))
    gain = ("softmax", other) if jit else (other, "softmax")
    return variants, {**_RATIOS, _GAIN: gain}


def _get_ready(step: TrainingStep) -> TrainingStep:
    """Compiles a step, and takes some that no ratio is made of."""
    ((step.first_seconds,),) = time_in_turn(step, repetitions=1)
    # Not of the first, which has the compiler's own memory; and what one has more than
    # the other is not the step's.
    step.peak_bytes = min(_peak_memory(step) for _ in range(2))
    logging.info("Ready after %.1f s: %s", step.first_seconds, step.variant.label)
    return step


def _peak_memory(step: TrainingStep) -> int:
    """Returns by how many bytes memory grows while a step is taken, at its peak.

    Weights and what the optimiser keeps are there before. TensorFlow never gives back
    what its pools once had, so their own accounts are read: on a GPU that is all, on a
    CPU what the process takes beside the pool is added. The step was taken before, so
    that the pool need not grow.
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
    comparisons: Comparisons, steps: Mapping[str, TrainingStep], repetitions: int
) -> dict[str, list[tuple[float, float]]]:
    """Times pair after pair, over and over, and adds what each step took to its own.

    Each round begins with another pair, and in every second round the reference goes
    first. A round before them is not counted: for a while, new steps were seen to be
    slower. Returns by name the seconds of ours and of the other, pair by pair.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in comparisons}
    names = list(comparisons)
    for number in range(repetitions + 1):
        start = number % len(names)
        for name in (*names[start:], *names[:start]):
            pair = [steps[own] for own in comparisons[name]]
            order = -1 if number % 2 else 1
            ours, reference = time_in_turn(
                *pair[::order], repetitions=1, least_seconds=_LEAST_SECONDS
            )[::order]
            if number > 0:
                found[name].append((ours[0], reference[0]))
                pair[0].seconds.extend(ours)
                pair[1].seconds.extend(reference)
    return found


def median_ratio(
    name: str,
    pairs: Sequence[tuple[float, float]],
    ours: Variant,
    other: Variant,
    batch_size: int,
) -> Measurement:
    """Returns the pair whose ratio is the median of all; `pairs` are of seconds.

    Of an even number, the median is the lower of the middle two.
    """
    if name == _GAIN:
        pairs = [(batch_size / a, batch_size / b) for a, b in pairs]
    ordered = sorted(pairs, key=lambda pair: pair[0] / pair[1])
    own, reference = ordered[(len(ordered) - 1) // 2]
    ratios = spread([a / b for a, b in pairs])
    images = (batch_size + ours.prototypes) / (batch_size + other.prototypes)
    return Measurement(
        name,
        own / reference,
        "ratio",
        ours=own,
        reference=reference,
        sides="images/s" if name == _GAIN else "s",
        samples=tuple(zip(*pairs, strict=True)),
        note=f"{ours.label} / {other.label}; {images:.3g} times the images; pairs: "
        f"{ratios}",
    )


def _figures(step: TrainingStep, batch_size: int) -> list[Measurement]:
    """Returns the figures of a step by itself, prototypes not counted as images."""
    name = step.variant.name
    rates = [batch_size / taken for taken in step.seconds]
    compiling = step.first_seconds - median(step.seconds)
    note = f"{step.variant.label}; {step.variant.prototypes} prototypes with it"
    return [
        single(f"images_per_second_{name}", rates, "images/s", note),
        Measurement(f"compile_seconds_{name}", compiling, "s"),
        Measurement(f"peak_memory_mib_{name}", step.peak_bytes / 2**20, "MiB"),
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


def build_step(variant: Variant, setting: Setting) -> TrainingStep:
    """Makes a step of fresh weights in the dtype policy that is set; compiles later."""
    keras.utils.set_random_seed(0)
    shape = (setting.image_size, setting.image_size, 3)
    classifier = build_classifier(
        setting.backbone, shape, variant.num_classes, width=setting.width
    )
    prototypes = random_prototypes(variant.num_classes, shape)
    batches = _one_batch(setting.batch_size, variant.num_classes, shape)
    if variant.prototype_mode:
        model: keras.Model = PMALModel(
            embedding_and_logits(classifier),
            PROTOTYPES_PER_CLASS,
            prototype_mode=variant.prototype_mode,
        )
        model.refresh_prototypes(prototypes.image, prototypes.mask)
        schedule = PrototypeSchedule(size=variant.prototypes)
        batches = prototypes.attach(batches, schedule=schedule)
    else:
        model = SoftmaxModel(classifier)
    recipe = Recipe(batch_size=setting.batch_size)
    model.compile(optimizer=recipe.build_optimizer(_STEPS_PER_EPOCH))
    # The scaling of losses in float16, where there is one, is around it by now.
    model.optimizer.build(model.trainable_variables)
    return TrainingStep(variant, model, batches)


def random_prototypes(num_classes: int, shape: tuple[int, int, int]) -> Prototypes:
    """Returns noise as prototypes, T of each class, whose ids are their positions."""
    mask = np.ones((num_classes, PROTOTYPES_PER_CLASS), bool)
    rng = np.random.default_rng(1)
    return Prototypes(
        image=rng.integers(0, 256, (*mask.shape, *shape), np.uint8),
        mask=mask,
        example_id=np.arange(mask.size).astype(str).reshape(mask.shape),
        robustness=np.ones(mask.shape),
    )


def _one_batch(
    batch_size: int, num_classes: int, shape: tuple[int, int, int]
) -> tf.data.Dataset:
    """Returns a batch of noise in memory, again and again; no image is a prototype."""
    rng = np.random.default_rng(0)
    first = num_classes * PROTOTYPES_PER_CLASS
    features = {
        "image": rng.integers(0, 256, (batch_size, *shape), np.uint8),
        "example_index": np.arange(first, first + batch_size),
    }
    label = rng.integers(0, num_classes, batch_size)
    # Asleep, the tuner's thread would hold up the end of every iterator.
    options = tf.data.Options()
    options.autotune.enabled = False
    batch = tf.data.Dataset.from_tensors((features, label))
    return batch.repeat().with_options(options)
