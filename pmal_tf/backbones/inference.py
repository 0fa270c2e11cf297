"""Forward passes over arrays of any length, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from pmal_tf.runtime import distribution
from pmal_tf.runtime.types import Images


def forward_in_batches(
    forward: Callable[[tf.Tensor], Mapping[str, tf.Tensor]],
    images: Images,
    batch_size: int = 256,
    *,
    jit: bool = False,
    allocate: Callable[[str, tuple[int, ...], np.dtype], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Applies a model to every image, in inference mode, dropping none.

    Under a `tf.distribute` strategy each replica takes batches of its own, and every
    host gets all results, a dict of [N, ...] arrays. The last batches are filled up
    with zeros and cut again, so that one compiled function serves all.

    Args:
        forward: [batch, H, W, 3] images to a dict of [batch, ...] tensors; called
            inside a `tf.function`.
        images: [N, H, W, 3], N >= 1; in memory or on disk.
        batch_size: Images per call and replica.
        jit: Whether to compile with XLA; on one device only.
        allocate: Called with the name, shape and type of each output for the array that
            takes it, e.g. a memory-mapped file; by default one in memory.
    """
    replicas = distribution.replicas()
    batch_size = min(batch_size, -(-len(images) // replicas))
    signature = tf.TensorSpec((batch_size, *images.shape[1:]), images.dtype)
    if replicas == 1:
        compute = tf.function(forward, jit_compile=jit).get_concrete_function(signature)
    else:
        compute = distribution.on_all_replicas(forward, signature)
    allocate = allocate or (lambda name, shape, dtype: np.empty(shape, dtype))
    collected: dict[str, np.ndarray] = {}
    together = batch_size * replicas
    for start in range(0, len(images), together):
        batch = images[start : start + together]
        count = len(batch)
        if count < together:
            padding = np.zeros((together - count, *batch.shape[1:]), batch.dtype)
            batch = np.concatenate([batch, padding])
        for name, value in compute(tf.constant(batch)).items():
            part = value.numpy()[:count]
            if name not in collected:
                shape = (len(images), *part.shape[1:])
                collected[name] = allocate(name, shape, part.dtype)
            collected[name][start : start + count] = part
    return collected
