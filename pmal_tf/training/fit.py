"""Training one stage: compile, go on from a checkpoint, run the loop, keep records."""

from __future__ import annotations

import contextlib
import functools
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import tensorflow as tf
from absl import logging

from pmal_tf.backbones.whitening import check_adapted
from pmal_tf.data.batches.pipeline import HostReplicas, TrainingPipeline
from pmal_tf.runtime import distribution, signals
from pmal_tf.runtime.errors import TrainingDivergedError
from pmal_tf.runtime.files import write_atomically
from pmal_tf.training.callbacks import (
    EpochRecord,
    ProgressBar,
    StageRecords,
    drop_records,
)
from pmal_tf.training.checkpoints import (
    Checkpoints,
    check_weights,
    list_checkpoints,
    restore_newest,
)
from pmal_tf.training.loop import train
from pmal_tf.training.recipe import Recipe
from pmal_tf.training.trainable import SoftmaxModel, Trainable

MODEL = "model.keras"


def fit_classifier(
    classifier: keras.Model,
    pipeline: TrainingPipeline,
    recipe: Recipe,
    *,
    seed: int,
    records: StageRecords | None = None,
) -> None:
    """Trains a model from images to logits with the cross-entropy loss; see `fit`."""
    model = SoftmaxModel(classifier, recipe.label_smoothing)
    fit(model, pipeline, recipe, seed=seed, records=records)


def batches_of(
    pipeline: TrainingPipeline, recipe: Recipe, step: int, share: HostReplicas
) -> tf.data.Dataset:
    """Returns the batches of a host from a step on."""
    epoch, skip = divmod(step, pipeline.steps_per_epoch)
    return pipeline.batches(epoch, recipe.epochs, skip=skip, share=share)


def fit(
    model: Trainable,
    pipeline: TrainingPipeline,
    recipe: Recipe,
    *,
    seed: int,
    records: StageRecords | None = None,
    batches: Callable[[int, HostReplicas], tf.data.Dataset] | None = None,
    measure: Callable[[], dict[str, float]] | None = None,
) -> None:
    """Trains a model in place, from the newest checkpoint on.

    Args:
        model: The model.
        pipeline: The training images.
        recipe: Optimiser, schedule and budget.
        seed: Seed of dropout.
        records: Where to keep checkpoints and metrics; None keeps none.
        batches: From a step and the replicas of this host to their batches from that
            step on, where these are more than the pipeline's.
        measure: Returns numbers to record beside the losses after each epoch.

    Raises:
        PmalError: If the network whitens images and was not adapted to any.
        TrainingDivergedError: If the loss or a weight stops being finite.
    """
    check_adapted(model)
    model.compile(optimizer=recipe.build_optimizer(pipeline.steps_per_epoch))
    step, steps = 0, pipeline.steps_per_epoch
    model.build_optimizers()
    batches = batches or functools.partial(batches_of, pipeline, recipe)
    callbacks: list[keras.callbacks.Callback] = []
    if measure is not None:
        # Before those that record what is measured.
        add = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: logs.update(measure())
        )
        callbacks.append(add)
    if records is not None:
        step = restore_newest(model, records.folder)
        callbacks += _callbacks(records, pipeline, step)
    if step:
        logging.info(
            f"Going on after step {step}: of epoch {step // steps + 1} of "
            f"{recipe.epochs}, {step % steps} of {steps} steps are done"
        )
    synchronizes = distribution.replicas() > 1 and recipe.sync_batch_norm
    batch_norm = _synchronized_batch_norm if synchronizes else contextlib.nullcontext
    try:
        with signals.deferred(), batch_norm(model):
            train(
                model,
                functools.partial(batches, step),
                first_step=step,
                epochs=recipe.epochs,
                steps_per_epoch=steps,
                seed=seed,
                callbacks=callbacks,
                jit=recipe.use_jit,
                steps_per_execution=recipe.steps_per_execution,
            )
        for name, optimizer in model.optimizers.items():
            # Where an average of the weights is kept, they take its values.
            optimizer.finalize_variable_values(model.variables_of(name))
        check_weights(model, "after the last epoch")
    except TrainingDivergedError as error:
        if records is None:
            raise
        kept = list_checkpoints(records.folder)
        last = f"kept at {kept[0]}" if kept else "none was made before"
        raise TrainingDivergedError(
            f"Training must keep a finite loss. Received: stage {records.stage}: "
            f"{error}. Last good checkpoint: {last}. Lower --learning_rate, or try "
            "--precision=float32."
        ) from error


def _callbacks(
    records: StageRecords, pipeline: TrainingPipeline, first_step: int
) -> list[keras.callbacks.Callback]:
    """Returns the callbacks that keep a stage's records, in order."""
    checkpoints = Checkpoints(records)
    if not distribution.is_chief():
        return [checkpoints]
    epochs_done = first_step // pipeline.steps_per_epoch
    drop_records(records.metrics, records.stage, epochs_done)
    interactive = sys.stdout.isatty() and sys.stderr.isatty()
    callbacks: list[keras.callbacks.Callback] = [
        EpochRecord(records, first_step, pipeline.images_per_batch, not interactive)
    ]
    if records.tensorboard is not None:
        callbacks.append(
            keras.callbacks.TensorBoard(records.tensorboard, write_graph=False)
        )
    # After all that is written of an epoch: what comes before a kill stays.
    callbacks.append(checkpoints)
    if interactive:
        callbacks.append(ProgressBar(records.stage))
    return callbacks


@contextlib.contextmanager
def _synchronized_batch_norm(model: keras.Model) -> Iterator[None]:
    """Lets every BatchNorm of a model see the global batch while it is trained.

    Layers are switched, not built so: a model may come from a file, and train on other
    devices next.
    """
    switched = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
    ]
    for layer in switched:
        layer.synchronized = True
    try:
        yield
    finally:
        for layer in switched:
            layer.synchronized = False


def is_trained(records: StageRecords) -> bool:
    """Tells whether a stage was cut short after its model was saved."""
    return zipfile.is_zipfile(records.folder / MODEL)


def save_trained(model: keras.Model, records: StageRecords) -> None:
    """Saves a stage's final model as `model.keras`."""
    path = records.folder / MODEL
    if distribution.is_chief():
        write_atomically(path, model.save)
    else:
        # Saving takes all hosts: Keras makes variables on the way, which they share.
        with tempfile.TemporaryDirectory() as folder:
            model.save(Path(folder) / path.name)
