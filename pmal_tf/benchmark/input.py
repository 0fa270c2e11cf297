"""Images a second of the training pipeline, beside those of OSCRI's training step.

Per dataset: how fast its images are decoded, once; how fast batches are shuffled and
augmented from then on; and both, for the first epoch of a first run. The reference is
the full-width OSCRI step of the paper's recipe, batch 128, float32, on such batches.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from statistics import median

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.backbones.classifier import build_classifier
from pmal_tf.benchmark.measurement import Measurement, compare, render, time_in_turn
from pmal_tf.benchmark.settings import BenchmarkSettings
from pmal_tf.data.batches.pipeline import TrainingPipeline
from pmal_tf.data.class_lists import protocols_of
from pmal_tf.data.decoding.stored_images import StoredImages
from pmal_tf.data.images import LabelledImages, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.sources import SOURCES, open_source
from pmal_tf.data.splits import apply_split, open_set_split
from pmal_tf.runtime.errors import PmalError
from pmal_tf.training.recipe import Recipe

BATCH_SIZE = 128
_REPETITIONS = 5
_PIPELINE_SECONDS, _STEP_SECONDS = 1.0, 2.0
_RAND_AUGMENT_OPERATIONS = 2


def run(settings: BenchmarkSettings) -> tuple[str, list[Measurement]]:
    """Measures the datasets that are at hand.

    Raises:
        PmalError: If a dataset that is named is not there, or none is.
    """
    datasets, where = settings.datasets, (settings.data_dir, settings.cache_dir)
    options = SourceOptions(*where, image_size=settings.image_size)
    inputs, absent = [], []
    for name in datasets or SOURCES:
        try:
            source = open_source(name, options)
            source.check()
        except PmalError:
            if datasets:
                raise
            absent.append(name)
        else:
            inputs.append(_measure_input(source))
    if not inputs:
        raise PmalError(
            "No dataset is prepared. Received: none of " + ", ".join(absent)
        )
    # Before the training step takes its own memory.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note = "of the process before the training step"
    measurements = [Measurement("peak_memory", peak, "MiB", note=note)]
    for rates, batch, num_classes, note in inputs:
        step = _step_rates(batch, num_classes)
        measurements += [
            compare(name, own, step, sides="images/s", note=note)
            for name, own in rates.items()
        ]
    notes = [f"Not prepared, so not measured: {', '.join(absent)}."] if absent else []
    title = f"Input pipeline beside OSCRI's training step, batch {BATCH_SIZE}."
    return render(title, measurements, notes), measurements


def _measure_input(
    source: Source,
) -> tuple[dict[str, list[float]], LabelledImages, int, str]:
    """Measures one dataset, on the training images of its first trial.

    Returns:
        Images per second of batches, by the figure's name: shuffled and augmented; with
        two operations of RandAugment per image; reading included; and, where images are
        kept on disk, every batch read from there. For the training step some images and
        the number of known classes. And how fast images are read and decoded, once.
    """
    began = time.perf_counter()
    train, test = source.load()
    protocol = (*protocols_of(source.name), "paper")[0]
    split = open_set_split(source, protocol, 0)
    stored, _ = apply_split(source, split, train, test)
    known = stored.in_memory()
    load_seconds = time.perf_counter() - began
    read = (len(train) + len(test)) / load_seconds
    pipeline = _pipeline_rates(source, known, 0)
    epoch_seconds = load_seconds + len(known) / median(pipeline)
    rates = {
        "pipeline": pipeline,
        "rand_augment": _pipeline_rates(source, known, _RAND_AUGMENT_OPERATIONS),
        "first_epoch": [len(known) / epoch_seconds],
    }
    if isinstance(stored.image, StoredImages):
        rates["from_disk"] = _pipeline_rates(source, stored, 0)
    batch = known.take(np.arange(min(BATCH_SIZE, len(known))))
    note = f"{known.image.shape[1]} pixels, once read at {read:,.0f} images/s"
    named = {f"{name}_over_step_{source.name}": own for name, own in rates.items()}
    return named, batch, len(split.known), note


def _pipeline_rates(
    source: Source, images: LabelledImages, rand_augment: int
) -> list[float]:
    """Measures training's pipeline by itself."""
    pipeline = TrainingPipeline(
        image=images.image,
        label=images.label,
        example_id=images.example_id,
        batch_size=BATCH_SIZE,
        seed=0,
        augment=source.natural,
        rand_augment=rand_augment,
    )
    batches = iter(pipeline.batches(0, 1_000_000))
    return _rates(lambda: next(batches), pipeline.images_per_batch, _PIPELINE_SECONDS)


def _step_rates(images: LabelledImages, num_classes: int) -> list[float]:
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
    return _rates(lambda: float(step(batch)["loss"]), len(images), _STEP_SECONDS)


def _rates(work: Callable[[], object], images: int, seconds: float) -> list[float]:
    """Returns images a second of work on so many images, timed for so long."""
    work()
    (times,) = time_in_turn(work, repetitions=_REPETITIONS, least_seconds=seconds)
    return [images / own for own in times]
