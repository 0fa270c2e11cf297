"""Shift and mirror a whole batch at once, from per-image parameters."""

from __future__ import annotations

import tensorflow as tf

from pmal_tf.data.hashing import stir_tensor

PADDING = 4  # Pixels a crop may move, as is common for 32-pixel images.


def crop_and_flip_parameters(bits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws each image's offsets and flip from its hash.

    Args:
        bits: [batch] uint64 hashes of (seed, epoch, example id).

    Returns:
        Vertical and horizontal offsets in [0, 2 PADDING], [batch] int32, and whether
        to mirror, [batch] boolean.
    """
    bits = stir_tensor(bits)
    choices = tf.constant(2 * PADDING + 1, tf.uint64)

    def field(shift: int) -> tf.Tensor:
        return tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint64))

    sixteen_bits = tf.constant(0xFFFF, tf.uint64)
    vertical = tf.bitwise.bitwise_and(bits, sixteen_bits) % choices
    horizontal = tf.bitwise.bitwise_and(field(16), sixteen_bits) % choices
    flip = tf.bitwise.bitwise_and(field(32), tf.constant(1, tf.uint64))
    return (
        tf.cast(vertical, tf.int32),
        tf.cast(horizontal, tf.int32),
        tf.cast(flip, tf.bool),
    )


def crop_and_flip(
    images: tf.Tensor, vertical: tf.Tensor, horizontal: tf.Tensor, flip: tf.Tensor
) -> tf.Tensor:
    """Pads with zeros, crops to the old size, and mirrors, with one gather.

    Args:
        images: [batch, H, W, C].
        vertical: [batch] int32 offsets in [0, 2 PADDING]; PADDING moves nothing.
        horizontal: [batch] int32 offsets, likewise.
        flip: [batch] boolean.

    Returns:
        [batch, H, W, C] of the same type.
    """
    shape = tf.shape(images)
    batch, height, width = shape[0], shape[1], shape[2]
    margin = [PADDING, PADDING]
    padded = tf.pad(images, [[0, 0], margin, margin, [0, 0]])
    rows = vertical[:, None] + tf.range(height)[None, :]
    columns = tf.range(width)[None, :]
    columns = tf.where(flip[:, None], width - 1 - columns, columns)
    columns += horizontal[:, None]
    padded_width = width + 2 * PADDING
    image_start = tf.range(batch) * (height + 2 * PADDING) * padded_width
    position = rows[:, :, None] * padded_width + columns[:, None, :]
    position += image_start[:, None, None]
    pixels = tf.reshape(padded, [-1, images.shape[-1]])
    return tf.ensure_shape(tf.gather(pixels, position), images.shape)
