"""Large arrays that TensorFlow works on where they are."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

# What TensorFlow asks of the addresses of its tensors, in bytes.
_ALIGNMENT = 64


def zeros(shape: tuple[int, ...], dtype: type[np.floating]) -> np.ndarray:
    """Returns zeros at an address that a tensor may have."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(dtype).reshape(shape)


def as_tensor(array: np.ndarray) -> tf.Tensor:
    """Returns a tensor of an array's own memory; on a GPU, a copy there.

    `tf.convert_to_tensor` would copy, and keep the array for a while beside it.

    Args:
        array: From `zeros`, or a part of its first rows; not to be written to again.
    """
    tensor = tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    if not tf.config.list_logical_devices("GPU"):
        return tensor
    with tf.device("GPU:0"):
        return tf.identity(tensor)
