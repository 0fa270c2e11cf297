"""Forward passes over arrays of any length, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from pmal_tf.types import Images

Allocate = Callable[[str, tuple[int, ...], np.dtype], np.ndarray]
Forward = Callable[[tf.Tensor], Mapping[str, tf.Tensor]]


def forward_in_batches(
    forward: Forward,
    images: Images,
    batch_size: int = 256,
    *,
    jit: bool = False,
    allocate: Allocate | None = None,
) -> dict[str, np.ndarray]:
    """Applies a model to every image, in inference mode, dropping none.

    The last batch is filled up with zeros and cut again, so that one compiled function
    serves all batches.

    Args:
        forward: [batch, H, W, 3] images to a dict of [batch, ...] tensors; called
            inside a `tf.function`.
        images: [N, H, W, 3], N >= 1; in memory or on disk.
        batch_size: Images per call.
        jit: Whether to compile with XLA.
        allocate: Called with the name, shape and type of each output for the array that
            takes it, e.g. a memory-mapped file; by default one in memory.

    Returns:
        The dict with [N, ...] arrays.
    """
    batch_size = min(batch_size, len(images))
    signature = tf.TensorSpec((batch_size, *images.shape[1:]), images.dtype)
    compiled = tf.function(forward, jit_compile=jit).get_concrete_function(signature)
    collected: dict[str, np.ndarray] = {}
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        missing = batch_size - len(batch)
        if missing:
            padding = np.zeros((missing, *batch.shape[1:]), batch.dtype)
            outputs = compiled(tf.constant(np.concatenate([batch, padding])))
        else:
            outputs = compiled(tf.constant(batch))
        for name, value in outputs.items():
            part = value.numpy()[: len(batch)]
            if name not in collected:
                shape = (len(images), *part.shape[1:])
                collected[name] = (
                    allocate(name, shape, part.dtype)
                    if allocate
                    else np.empty(shape, part.dtype)
                )
            collected[name][start : start + len(batch)] = part
    return collected
