"""The one resizing function, so that training and serving see equal pixels."""

from __future__ import annotations

import tensorflow as tf


def resize_images(images: tf.Tensor, size: int) -> tf.Tensor:
    """Crops the central square, resizes it, and rounds onto whole numbers.

    Resizing the short side and cropping then would show the same part of the image;
    cropping first never enlarges a long, thin image to more than it keeps. Images that
    have the size already pass unchanged, fractions included.

    [batch, h, w, c] on the 0-255 scale become [batch, size, size, c] float32.
    """
    shape = tf.shape(images)
    height, width = shape[1], shape[2]

    def resized() -> tf.Tensor:
        side = tf.minimum(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = images[:, top : top + side, left : left + side]
        bilinear = tf.image.resize(square, (size, size), antialias=True)
        return tf.clip_by_value(tf.round(bilinear), 0.0, 255.0)

    has_size = (height == size) & (width == size)
    result = tf.cond(has_size, lambda: tf.cast(images, tf.float32), resized)
    return tf.ensure_shape(result, (None, size, size, images.shape[-1]))
