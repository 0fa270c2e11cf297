"""Shift and mirror a whole batch at once, from per-image parameters."""

from __future__ import annotations

import tensorflow as tf

from pmal_tf.data.hashing import splitmix64

PADDING = 4  # Pixels a crop may move, as is common for 32-pixel images.


def crop_and_flip_parameters(bits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws offsets and flips from [batch] uint64 hashes of (seed, epoch, example id).

    Returns:
        Vertical and horizontal offsets in [0, 2 PADDING], [batch] int32, and whether
        to mirror, [batch] boolean.
    """
    bits = splitmix64(bits)

    def field(shift: int, mask: int) -> tf.Tensor:
        shifted = tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint64))
        return tf.bitwise.bitwise_and(shifted, tf.constant(mask, tf.uint64))

    choices = tf.constant(2 * PADDING + 1, tf.uint64)
    vertical = tf.cast(field(0, 0xFFFF) % choices, tf.int32)
    horizontal = tf.cast(field(16, 0xFFFF) % choices, tf.int32)
    return vertical, horizontal, tf.cast(field(32, 1), tf.bool)


def crop_and_flip(
    images: tf.Tensor, vertical: tf.Tensor, horizontal: tf.Tensor, flip: tf.Tensor
) -> tf.Tensor:
    """Pads with zeros, crops to the old size, and mirrors, with one gather.

    [batch, H, W, C] stay so. Parameters are those of `crop_and_flip_parameters`; an
    offset of PADDING moves nothing.
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
