"""Images a second of the training pipeline, beside those of OSCRI's training step.

Per dataset: how fast its images are decoded, once; how fast batches are shuffled and
augmented from then on; and both, for the first epoch of a first run. The reference is
the full-width OSCRI step of the paper's recipe, batch 128, float32, on such batches.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.backbones.classifier import build_classifier
from pmal_tf.benchmark.measurement import Measurement, Rates, compare, measure_rate
from pmal_tf.data.batches.pipeline import TrainingPipeline
from pmal_tf.data.class_lists import protocols_of
from pmal_tf.data.decoding.stored_images import StoredImages
from pmal_tf.data.images import LabelledImages, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.sources import SOURCES, open_source
from pmal_tf.data.splits import apply_split, open_set_split
from pmal_tf.results.page.tables import markdown_table
from pmal_tf.runtime.errors import PmalError
from pmal_tf.training.recipe import Recipe

BATCH_SIZE = 128
_REPETITIONS = 5
_PIPELINE_SECONDS, _STEP_SECONDS = 1.0, 2.0
_RAND_AUGMENT_OPERATIONS = 2


@dataclass(frozen=True)
class InputSpeed:
    """How fast one dataset's images come.

    Attributes:
        dataset: The dataset.
        batch: Some of its images, for the training step.
        num_classes: Known classes.
        load_images: Images read and decoded.
        load_seconds: In how long.
        pipeline: Images per second of shuffled, augmented batches.
        rand_augment: The same with two RandAugment operations per image.
        from_disk: The pipeline's rate when every batch is read from disk; None where
            images are never kept there.
        first_epoch: Images per second of a first epoch, reading included.
    """

    dataset: str
    batch: LabelledImages
    num_classes: int
    load_images: int
    load_seconds: float
    pipeline: Rates
    rand_augment: Rates
    from_disk: Rates | None
    first_epoch: float


def run(
    datasets: Sequence[str], options: SourceOptions
) -> tuple[str, list[Measurement]]:
    """Measures the datasets that are at hand.

    Args:
        datasets: Their names; empty: all that are prepared.
        options: Where they lie.

    Returns:
        A table, and the measurements.

    Raises:
        PmalError: If a dataset that is named is not there, or none is.
    """
    inputs, absent = [], []
    for name in datasets or SOURCES:
        try:
            source = open_source(name, options)
            source.check()
        except PmalError:
            if datasets:
                raise
            absent.append(name)
            continue
        inputs.append(_measure_input(source))
    if not inputs:
        raise PmalError(
            "No dataset is prepared. Received: none of " + ", ".join(absent)
        )
    # Before the training step takes its own memory.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    steps = [_step_rate(speed.batch, speed.num_classes) for speed in inputs]
    measurements = [Measurement("peak_memory", peak, "MiB")]
    for speed, step in zip(inputs, steps, strict=True):
        ours = {
            "pipeline": speed.pipeline.median,
            "rand_augment": speed.rand_augment.median,
            "first_epoch": speed.first_epoch,
        }
        if speed.from_disk is not None:
            ours["from_disk"] = speed.from_disk.median
        measurements += [
            compare(f"{name}_over_step_{speed.dataset}", rate, step.median)
            for name, rate in ours.items()
        ]
    lines = [
        _table(inputs, steps),
        f"Peak memory of the process before the training step: {peak:,.0f} MiB.",
    ]
    if absent:
        lines.append(f"Not prepared, so not measured: {', '.join(absent)}.")
    return "\n".join(lines) + "\n", measurements


def _measure_input(source: Source) -> InputSpeed:
    """Measures one dataset, on the training images of its first trial."""
    began = time.perf_counter()
    train, test = source.load()
    split = open_set_split(source, _first_protocol(source), 0)
    stored, _ = apply_split(source, split, train, test)
    known = stored.in_memory()
    load_seconds = time.perf_counter() - began
    pipeline = _pipeline_rate(source, known, 0)
    on_disk = isinstance(stored.image, StoredImages)
    return InputSpeed(
        dataset=source.name,
        batch=known.take(np.arange(min(BATCH_SIZE, len(known)))),
        num_classes=len(split.known),
        load_images=len(train) + len(test),
        load_seconds=load_seconds,
        pipeline=pipeline,
        rand_augment=_pipeline_rate(source, known, _RAND_AUGMENT_OPERATIONS),
        from_disk=_pipeline_rate(source, stored, 0) if on_disk else None,
        first_epoch=len(known) / (load_seconds + len(known) / pipeline.median),
    )


def _pipeline(
    source: Source, images: LabelledImages, rand_augment: int
) -> TrainingPipeline:
    """Returns the pipeline that training has."""
    return TrainingPipeline(
        image=images.image,
        label=images.label,
        example_id=images.example_id,
        batch_size=BATCH_SIZE,
        seed=0,
        augment=source.natural,
        rand_augment=rand_augment,
    )


def _pipeline_rate(source: Source, images: LabelledImages, rand_augment: int) -> Rates:
    """Measures the pipeline by itself."""
    pipeline = _pipeline(source, images, rand_augment)
    batches = iter(pipeline.batches(0, 1_000_000))

    def one_batch() -> int:
        next(batches)
        return pipeline.images_per_batch

    return measure_rate(one_batch, repetitions=_REPETITIONS, seconds=_PIPELINE_SECONDS)


def _step_rate(images: LabelledImages, num_classes: int) -> Rates:
    """Measures the training step of the paper's recipe on one batch, over and over."""
    recipe = Recipe(batch_size=BATCH_SIZE)
    keras.utils.set_random_seed(0)
    classifier = build_classifier("oscri", images.image.shape[1:], num_classes)
    classifier.compile(
        optimizer=recipe.build_optimizer(1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    step = tf.function(classifier.train_step, jit_compile=recipe.use_jit)
    batch = (tf.constant(images.image[:]), tf.constant(images.label))

    def one_step() -> int:
        float(step(batch)["loss"])
        return len(images)

    return measure_rate(one_step, repetitions=_REPETITIONS, seconds=_STEP_SECONDS)


def _first_protocol(source: Source) -> str:
    """Returns the protocol whose first trial is measured."""
    published = protocols_of(source.name)
    return published[0] if published else "paper"


def _table(inputs: Sequence[InputSpeed], steps: Sequence[Rates]) -> str:
    """Renders the measurements."""
    header = [
        *("dataset", "pixels", "read once, images/s", "pipeline, images/s"),
        *("with RandAugment", "from disk", "OSCRI step, images/s", "pipeline / step"),
        "first epoch / step",
    ]
    rows = [
        [
            speed.dataset,
            str(speed.batch.image.shape[1]),
            f"{speed.load_images / speed.load_seconds:,.0f}",
            *map(str, (speed.pipeline, speed.rand_augment, speed.from_disk or "-")),
            str(step),
            f"{speed.pipeline.median / step.median:.1f}",
            f"{speed.first_epoch / step.median:.1f}",
        ]
        for speed, step in zip(inputs, steps, strict=True)
    ]
    return markdown_table(header, rows)
