"""Hashes of (seed, epoch, example id): the only randomness of the input pipeline.

Order and augmentation must be pure functions of these three, whatever the number of
threads, shards or restarts. Each example gets a 64-bit number; SplitMix64 (Steele et
al. 2014, "Fast splittable pseudorandom number generators") stirs the epoch in. The
same functions take NumPy arrays and tensors of uint64.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_FIRST_MULTIPLIER = 0xBF58476D1CE4E5B9
_SECOND_MULTIPLIER = 0x94D049BB133111EB


def hash_ids(example_id: np.ndarray, *purpose: str | int) -> np.ndarray:
    """Returns [N] uint64 hashes of N example ids, for one seed and purpose."""
    key = hashlib.blake2b(repr(purpose).encode(), digest_size=16).digest()
    digests = [
        hashlib.blake2b(str(name).encode(), digest_size=8, key=key).digest()
        for name in example_id
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def stir(value: np.ndarray) -> np.ndarray:
    """SplitMix64's output function on uint64 arrays: a bijection that mixes all bits.

    `stir_tensor` is the same on tensors.
    """
    value = (value ^ (value >> np.uint64(30))) * np.uint64(_FIRST_MULTIPLIER)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(_SECOND_MULTIPLIER)
    return value ^ (value >> np.uint64(31))


def stir_tensor(value: Any) -> Any:
    """`stir` on uint64 tensors."""
    import tensorflow as tf

    def shifted(bits: int) -> Any:
        return tf.bitwise.right_shift(value, tf.constant(bits, tf.uint64))

    for bits, multiplier in ((30, _FIRST_MULTIPLIER), (27, _SECOND_MULTIPLIER)):
        value = tf.bitwise.bitwise_xor(value, shifted(bits))
        value *= tf.constant(multiplier, tf.uint64)
    return tf.bitwise.bitwise_xor(value, shifted(31))
