"""Blocks of rows, dealt to the replicas of the `tf.distribute` strategy in use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import tensorflow as tf

BlockFunction = Callable[..., tuple[tf.Tensor, ...]]


def on_replicas(
    function: BlockFunction, arrays: Sequence[tf.Tensor], first: int, stop: int
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Computes the blocks from `first` to before `stop`; yields number and results.

    `function` is called with the arrays, of which each replica gets a copy, and the
    number of a block. It gives tensors of the same shape for each; past the last block
    what it gives is not used.
    """
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        yield from _on_threads(function, arrays, first, stop)
        return
    copies = [_copies(strategy, array) for array in arrays]
    several_hosts = len(strategy.extended.worker_devices) < replicas

    @tf.function
    def group(copies: list[tf.Tensor], begin: tf.Tensor) -> list[tf.Tensor]:
        def one(*own: tf.Tensor) -> list[tf.Tensor]:
            context = tf.distribute.get_replica_context()
            results = function(*own, begin + context.replica_id_in_sync_group)
            parts = [result[None] for result in results]
            if several_hosts:
                return [context.all_gather(part, axis=0) for part in parts]
            return parts

        parts = strategy.run(one, args=tuple(copies))
        local = [strategy.experimental_local_results(part) for part in parts]
        # Every worker has gathered all results, in the order of replicas.
        return [part[0] if several_hosts else tf.concat(part, 0) for part in local]

    for begin in range(first, stop, replicas):
        gathered = [part.numpy() for part in group(copies, tf.constant(begin))]
        for replica in range(min(replicas, stop - begin)):
            yield begin + replica, [part[replica] for part in gathered]


def signature_of(arrays: Sequence[tf.Tensor]) -> tuple[tf.TensorSpec, ...]:
    """Returns the shapes and types of what `on_replicas` calls a function with."""
    specs = [tf.TensorSpec(array.shape, array.dtype) for array in arrays]
    return (*specs, tf.TensorSpec((), tf.int32))


def _on_threads(
    function: BlockFunction, arrays: Sequence[tf.Tensor], first: int, stop: int
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Computes blocks on one device, on a CPU as many at a time as there are cores.

    A block of small tiles stays in its core's cache and leaves no core waiting for
    another, which operations that are split over the cores do at their every end.
    """

    def compute(block: int) -> list[np.ndarray]:
        return [result.numpy() for result in function(*arrays, tf.constant(block))]

    threads = blocks_at_once()
    if first >= stop:
        return
    # Compiles, once, before there are threads; the last block is the smallest.
    last = compute(stop - 1)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future[list[np.ndarray]]] = deque()
        try:
            for block in range(first, stop - 1):
                # A few blocks ahead: their results wait in memory.
                while len(ahead) < 2 * threads and block + len(ahead) < stop - 1:
                    ahead.append(pool.submit(compute, block + len(ahead)))
                yield block, ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
    yield stop - 1, last


def blocks_at_once() -> int:
    """Returns how many blocks are computed at a time: one per core, or on the GPU."""
    if tf.config.list_logical_devices("GPU"):
        return 1
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _copies(strategy: tf.distribute.Strategy, array: tf.Tensor) -> tf.Tensor:
    """Returns an array as one value per replica, each on its own device."""
    devices = strategy.extended.worker_devices

    def copy(context: tf.distribute.experimental.ValueContext) -> tf.Tensor:
        # Replicas are numbered over all workers, the devices are this worker's.
        with tf.device(devices[context.replica_id_in_sync_group % len(devices)]):
            return tf.identity(array)

    return strategy.experimental_distribute_values_from_function(copy)


@contextmanager
def without_tensor_float_32() -> Iterator[None]:
    """Keeps GPUs from multiplying float32 as TensorFloat-32.

    Its 10 bits of mantissa are far too few for expanded squares.
    """
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
