"""One training loop for every model and every `tf.distribute` strategy.

`Model.fit` of Keras 3.15 fails on several hosts, and its shuffling and dropout cannot
be told which step they are in. This loop drives the same `train_step`, and honours
Keras's callbacks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from pmal_tf.data.batches.pipeline import ONE_REPLICA, HostReplicas
from pmal_tf.runtime import distribution
from pmal_tf.runtime.errors import TrainingDivergedError
from pmal_tf.runtime.seeds import derive_seed

# Takes the iterator, the number of the first step, and how many steps to take; returns
# the first step after which a weight was not finite, or -1, and the metrics.
Execution = Callable[..., tuple[tf.Tensor, dict[str, tf.Tensor]]]
# Odd, 2^32 divided by the golden ratio: neighbouring steps share no stream.
_STEP_KEY = 2_654_435_769


def train(
    model: keras.Model,
    batches: Callable[[HostReplicas], tf.data.Dataset],
    *,
    first_step: int,
    epochs: int,
    steps_per_epoch: int,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    jit: bool = False,
    steps_per_execution: int = 1,
) -> None:
    """Trains from a step to the end of the last epoch.

    Args:
        model: A compiled model whose `train_step` runs on every replica. Its metrics
            are reset at the start of each epoch, not within one.
        batches: Given the replicas of this host, their batches from `first_step` on.
        first_step: Steps that are done, counted from the start of training.
        epochs: The epoch to stop before.
        steps_per_epoch: At least 1.
        seed: Seed of dropout.
        callbacks: Keras callbacks; `logs` hold Python floats. Those of steps are called
            once per execution.
        jit: Whether to compile the step with XLA.
        steps_per_execution: Steps between two returns to Python.

    Raises:
        TrainingDivergedError: At the first step that leaves a weight, or has a loss,
            that is not finite.
    """
    execute = execution(model, seed, jit)
    iterator = _iterator(batches)
    callback_list = keras.callbacks.CallbackList(
        list(callbacks), model=model, epochs=epochs, steps=steps_per_epoch
    )
    callback_list.on_train_begin()
    step = first_step
    for epoch in range(first_step // steps_per_epoch, epochs):
        begin = epoch * steps_per_epoch
        if step == begin:
            model.reset_metrics()
        callback_list.on_epoch_begin(epoch)
        logs: dict[str, float] = {}
        while step < begin + steps_per_epoch:
            count = min(steps_per_execution, begin + steps_per_epoch - step)
            callback_list.on_train_batch_begin(step - begin)
            broken, results = execute(iterator, tf.constant(step), tf.constant(count))
            logs = {name: float(value) for name, value in results.items()}
            step += count
            _check_finite(int(broken), logs["loss"], step - 1, steps_per_epoch)
            callback_list.on_train_batch_end(step - begin - 1, logs)
        callback_list.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    callback_list.on_train_end()


def _iterator(batches: Callable[[HostReplicas], tf.data.Dataset]) -> tf.data.Iterator:
    """Returns the batches, one per replica at a time."""
    if distribution.replicas() == 1:
        return iter(batches(ONE_REPLICA))

    def of_host(context: tf.distribute.InputContext) -> tf.data.Dataset:
        local = context.num_replicas_in_sync // context.num_input_pipelines
        first = context.input_pipeline_id * local
        return batches(HostReplicas(context.num_replicas_in_sync, first, local))

    # Not `experimental_distribute_dataset`: it would cut up the prototypes as well.
    strategy = distribution.current()
    return iter(strategy.distribute_datasets_from_function(of_host))


def execution(model: keras.Model, seed: int, jit: bool) -> Execution:
    """Returns the function that takes some steps of a compiled model."""
    strategy = distribution.current()

    def on_replica(batch: object, step: tf.Tensor) -> tf.Tensor:
        seed_dropout(model, seed, step)
        model.train_step(batch)
        finite = [tf.reduce_all(tf.math.is_finite(v)) for v in model.trainable_weights]
        return tf.reduce_all(tf.stack(finite))

    one_step = tf.function(on_replica, jit_compile=True) if jit else on_replica

    @tf.function(reduce_retracing=True)
    def execute(
        iterator: tf.data.Iterator, first: tf.Tensor, count: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        broken = tf.constant(-1)
        for step in tf.range(first, first + count):
            finite = strategy.run(one_step, args=(next(iterator), step))
            # The weights of all replicas are the same.
            finite = strategy.experimental_local_results(finite)[0]
            broken = tf.where((broken < 0) & ~finite, step, broken)
        return broken, {metric.name: metric.result() for metric in model.metrics}

    return execute


def _check_finite(broken: int, loss: float, last: int, steps_per_epoch: int) -> None:
    """Raises unless all is finite that an execution left.

    `broken` is the first step that left a weight that is not, or -1; `loss` the running
    mean of the epoch, which is finite only if every term was.
    """
    finite = math.isfinite(loss)
    if broken < 0 and finite:
        return
    what = "the gradient was not finite" if finite else f"the loss was {loss}"
    epoch, step = divmod(broken if broken >= 0 else last, steps_per_epoch)
    raise TrainingDivergedError(
        f"{what} at epoch {epoch + 1}, step {step + 1} of {steps_per_epoch}"
    )


def seed_dropout(model: keras.Model, seed: int, step: tf.Tensor | int) -> None:
    """Sets every dropout layer's generator from (seed, step), and from the replica.

    Keras neither saves their state nor can rewind it, so a resumed run would drop other
    units than an uninterrupted one; and all replicas would drop the same.
    """
    context = tf.distribute.get_replica_context()
    replica = context.replica_id_in_sync_group if context else 0
    key = tf.cast(step, tf.uint32) * tf.constant(_STEP_KEY, tf.uint32)
    # The second word is what layers count their draws in.
    draws = tf.bitwise.left_shift(
        tf.cast(replica, tf.uint32), tf.constant(16, tf.uint32)
    )
    states = [v for v in model.variables if v.path.endswith("seed_generator_state")]
    for number, state in enumerate(states):
        first = tf.constant(derive_seed(seed, "dropout", number), tf.uint32)
        state.assign(tf.stack([first + key, draws]))
