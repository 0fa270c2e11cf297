"""One small training loop for every model, with Keras callbacks.

`Model.fit` of Keras 3.15 fails on several hosts, and its shuffling and dropout cannot
be told which epoch they are in. This loop drives the same `train_step`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import keras
import tensorflow as tf

from pmal_tf.errors import TrainingDivergedError
from pmal_tf.seeds import derive_seed


def train(
    model: keras.Model,
    batches: tf.data.Dataset,
    *,
    first_epoch: int,
    epochs: int,
    steps_per_epoch: int,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    jit: bool = True,
) -> None:
    """Runs epochs `first_epoch` to `epochs - 1`.

    Args:
        model: A compiled model.
        batches: The batches of those epochs, one after the other.
        first_epoch: The epoch to begin with, counted from 0.
        epochs: The epoch to stop before.
        steps_per_epoch: Batches per epoch.
        seed: Seed of dropout.
        callbacks: Keras callbacks; `logs` hold Python floats.
        jit: Whether to compile the step with XLA.

    Raises:
        TrainingDivergedError: At the first step whose loss is not finite.
    """
    step_function = tf.function(
        model.train_step, jit_compile=jit, reduce_retracing=True
    )
    callback_list = keras.callbacks.CallbackList(
        list(callbacks), model=model, epochs=epochs, steps=steps_per_epoch
    )
    iterator = iter(batches)
    callback_list.on_train_begin()
    for epoch in range(first_epoch, epochs):
        model.reset_metrics()
        seed_dropout(model, seed, epoch)
        callback_list.on_epoch_begin(epoch)
        logs: dict[str, float] = {}
        for step in range(steps_per_epoch):
            callback_list.on_train_batch_begin(step)
            results = step_function(next(iterator))
            logs = {name: float(value) for name, value in results.items()}
            # The running mean of the loss is finite only if every term was.
            if not math.isfinite(logs["loss"]):
                raise TrainingDivergedError(
                    f"the loss became {logs['loss']} at epoch {epoch + 1}, step "
                    f"{step + 1} of {steps_per_epoch}"
                )
            callback_list.on_train_batch_end(step, logs)
        callback_list.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    callback_list.on_train_end()


def seed_dropout(model: keras.Model, seed: int, epoch: int) -> None:
    """Sets every dropout layer's generator from (seed, epoch).

    Keras neither saves their state nor can rewind it, so a resumed run would drop other
    units than an uninterrupted one.
    """
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    for number, state in enumerate(states):
        state.assign([derive_seed(seed, "dropout", epoch, number), 0])
