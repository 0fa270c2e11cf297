"""Hashes of (seed, epoch, example id): the only randomness of the input pipeline.

Order and augmentation must be pure functions of these three, whatever the number of
threads, shards or restarts. Each example gets a 64-bit number, into which SplitMix64
(Steele et al. 2014, "Fast splittable pseudorandom number generators") mixes the epoch.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf

GOLDEN_GAMMA = 0x9E3779B97F4A7C15


def hash_ids(example_id: np.ndarray, *purpose: str | int) -> np.ndarray:
    """Returns [N] uint64 hashes of N example ids, for one seed and purpose."""
    key = hashlib.blake2b(repr(purpose).encode(), digest_size=16).digest()
    digests = [
        hashlib.blake2b(str(name).encode(), digest_size=8, key=key).digest()
        for name in example_id
    ]
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def splitmix64(value: tf.Tensor) -> tf.Tensor:
    """SplitMix64's output function on uint64, a bijection that mixes all bits."""
    import tensorflow as tf

    def shifted(bits: int) -> tf.Tensor:
        return tf.bitwise.right_shift(value, tf.constant(bits, tf.uint64))

    for bits, multiplier in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        value = tf.bitwise.bitwise_xor(value, shifted(bits))
        value *= tf.constant(multiplier, tf.uint64)
    return tf.bitwise.bitwise_xor(value, shifted(31))
