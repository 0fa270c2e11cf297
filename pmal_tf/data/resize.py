"""The one resizing function, so that training and serving see equal pixels."""

from __future__ import annotations

import tensorflow as tf


def resize_images(images: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Resizes to a fixed size, onto whole numbers, as training stores them.

    Images that have the size already pass unchanged, fractions included.

    Args:
        images: [batch, h, w, c], on the 0-255 scale.
        height: The height to reach.
        width: The width to reach.

    Returns:
        [batch, height, width, c] float32.
    """
    images = tf.cast(images, tf.float32)
    shape = tf.shape(images)

    def resized() -> tf.Tensor:
        bilinear = tf.image.resize(images, (height, width), antialias=True)
        return tf.clip_by_value(tf.round(bilinear), 0.0, 255.0)

    has_size = (shape[1] == height) & (shape[2] == width)
    result = tf.cond(has_size, lambda: images, resized)
    return tf.ensure_shape(result, (None, height, width, images.shape[-1]))
