"""Training one stage: compile, go on from a checkpoint, run the loop, keep records."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import tensorflow as tf
from absl import logging

from pmal_tf.data.pipeline import TrainingPipeline, images_only
from pmal_tf.errors import TrainingDivergedError
from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.training.callbacks import EpochRecord, ProgressBar
from pmal_tf.training.checkpoints import (
    EpochCheckpoint,
    check_weights,
    list_checkpoints,
    remove_checkpoints,
    restore_newest,
)
from pmal_tf.training.loop import train
from pmal_tf.training.model import PMALModel
from pmal_tf.training.recipe import Recipe
from pmal_tf.workdir import write_atomically


@dataclass(frozen=True)
class StageRecords:
    """Where a training stage keeps its records.

    Attributes:
        stage: Its name.
        folder: Its checkpoints.
        metrics: The trial's `metrics.jsonl`.
        tensorboard: Its TensorBoard folder, or None.
    """

    stage: str
    folder: Path
    metrics: Path
    tensorboard: Path | None


def fit_classifier(
    classifier: keras.Model,
    pipeline: TrainingPipeline,
    recipe: Recipe,
    *,
    seed: int,
    records: StageRecords | None = None,
) -> None:
    """Trains a softmax classifier with the cross-entropy loss.

    Args:
        classifier: A model from images to logits; trained in place.
        pipeline: The training images.
        recipe: Optimiser, schedule and budget.
        seed: Seed of dropout.
        records: Where to keep checkpoints and metrics; None keeps none.

    Raises:
        TrainingDivergedError: If the loss or a weight stops being finite.
    """
    classifier.compile(
        optimizer=recipe.build_optimizer(pipeline.steps_per_epoch),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    _fit(classifier, pipeline, images_only, recipe, seed, records)


def fit_pmal(
    model: PMALModel,
    pipeline: TrainingPipeline,
    prototypes: Prototypes,
    recipe: Recipe,
    *,
    seed: int,
    records: StageRecords | None = None,
) -> None:
    """Optimises the embedding against fixed prototypes, Eq. 10, and fills the bank.

    Args:
        model: The model; trained in place.
        pipeline: The training images.
        prototypes: The mined prototypes, images of `pipeline`.
        recipe: Optimiser, schedule and budget.
        seed: Seed of dropout.
        records: Where to keep checkpoints and metrics; None keeps none.

    Raises:
        TrainingDivergedError: If the loss or a weight stops being finite.
    """
    model.compile(optimizer=recipe.build_optimizer(pipeline.steps_per_epoch))

    def attach(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return prototypes.attach(dataset, pipeline.example_id)

    _fit(model, pipeline, attach, recipe, seed, records)
    model.refresh_prototypes(prototypes.image, prototypes.mask)


def _fit(
    model: keras.Model,
    pipeline: TrainingPipeline,
    adapt: Callable[[tf.data.Dataset], tf.data.Dataset],
    recipe: Recipe,
    seed: int,
    records: StageRecords | None,
) -> None:
    """Runs the loop over adapted batches, from the newest checkpoint on."""
    first_epoch = 0
    callbacks: list[keras.callbacks.Callback] = []
    if records is not None:
        first_epoch = restore_newest(model, records.folder)
        callbacks = _callbacks(records, pipeline, recipe, first_epoch)
    if first_epoch:
        logging.info("Going on after epoch %d of %d", first_epoch, recipe.epochs)
    try:
        train(
            model,
            adapt(pipeline.batches(first_epoch, recipe.epochs)),
            first_epoch=first_epoch,
            epochs=recipe.epochs,
            steps_per_epoch=pipeline.steps_per_epoch,
            seed=seed,
            callbacks=callbacks,
            jit=recipe.use_jit,
        )
        check_weights(model, "after the last epoch")
    except TrainingDivergedError as error:
        if records is None:
            raise
        raise TrainingDivergedError(_divergence(error, records)) from error


def _callbacks(
    records: StageRecords,
    pipeline: TrainingPipeline,
    recipe: Recipe,
    first_epoch: int,
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that keep a stage's records, in order."""
    steps = pipeline.steps_per_epoch
    interactive = sys.stdout.isatty() and sys.stderr.isatty()
    callbacks: list[keras.callbacks.Callback] = [
        EpochRecord(
            records.metrics,
            records.stage,
            first_epoch=first_epoch,
            epochs=recipe.epochs,
            images_per_epoch=steps * pipeline.images_per_batch,
            log=not interactive,
        ),
        EpochCheckpoint(records.folder),
    ]
    if records.tensorboard is not None:
        callbacks.append(
            keras.callbacks.TensorBoard(records.tensorboard, write_graph=False)
        )
    if interactive:
        callbacks.append(ProgressBar(records.stage, recipe.epochs, steps))
    return callbacks


def _divergence(error: TrainingDivergedError, records: StageRecords) -> str:
    """Says which stage diverged, and which checkpoint is the last good one."""
    kept = list_checkpoints(records.folder)
    last = f"kept at {kept[0]}" if kept else "none was made before"
    return (
        f"Training must keep a finite loss. Received: stage {records.stage}: {error}. "
        f"Last good checkpoint: {last}. Lower --learning_rate, or try "
        "--precision=float32."
    )


def finish(model: keras.Model, records: StageRecords) -> Path:
    """Saves a stage's final model and removes its checkpoints.

    Returns:
        The path of `model.keras`.
    """
    path = records.folder / "model.keras"
    write_atomically(path, model.save)
    remove_checkpoints(records.folder)
    return path
