"""Random resized crops, with which networks for ImageNet are trained.

Szegedy et al. 2015, "Going deeper with convolutions", Section 6: a network sees a part
of the image, of 8 to 100 % of its area and an aspect ratio of 3/4 to 4/3, resized to
its input. Here the part is of an image that already has the input's size, and goes back
to it. Images of ImageNet are so stored, decoded once as central squares of 224 pixels:
what the squares leave out is never seen, and the smallest part, 63 pixels wide, has
less detail than in the file.

As all augmentation here, an image's part depends on its own hash of (seed, epoch,
example id) alone.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from pmal_tf.data.batches.augment import affine_matrices
from pmal_tf.data.hashing import GOLDEN_GAMMA, splitmix64

LEAST_AREA = 0.08
MOST_RATIO = 4 / 3
_FIELD = 2**16


def _ratio_quantiles(count: int) -> np.ndarray:
    """Returns ratios of the long to the short side, [count] float32, ascending.

    A box of area a and ratio e^l, in units of the image's sides, is sqrt(a e^|l|) long,
    and fits if a <= e^-|l|. Drawing a from [0.08, 1] and l from [-L, L], L = ln 4/3,
    evenly and again until the box fits, as others do, is to draw evenly from the pairs
    that fit. Of these, x = |l| has a density in proportion to e^-x - 0.08, and so the
    distribution function

        F(x) = (1 - e^-x - 0.08 x) / (1 - e^-L - 0.08 L)   for x in [0, L];

    given x, a is even in [0.08, e^-x]. F is inverted in a table. So there is no other
    try, and no exponential in the batch, which vectorised code may round unlike the
    code for the rest.
    """
    x = np.linspace(0.0, np.log(MOST_RATIO), 2**16)
    mass = 1.0 - np.exp(-x) - LEAST_AREA * x
    quantile = np.interp((np.arange(count) + 0.5) / count, mass / mass[-1], x)
    return np.exp(quantile).astype(np.float32)


def random_boxes(bits: tf.Tensor) -> tf.Tensor:
    """Draws the part of each image from [batch] uint64 hashes of (seed, epoch, id).

    Where the part lies is drawn evenly. The hash is the state of a SplitMix64
    generator, whose numbers are independent: this takes the one before the state's own,
    which shifts and mirrors; RandAugment takes those after it.

    Returns:
        Top, left, height and width as shares of the image's, [batch, 4] float32.
    """
    bits = splitmix64(bits + tf.constant(2**64 - GOLDEN_GAMMA, tf.uint64))
    shifts = tf.constant([0, 16, 32, 48], tf.uint64)
    fields = tf.cast(tf.bitwise.right_shift(bits[:, None], shifts), tf.uint16)
    fields = tf.cast(fields, tf.int32)
    ratio = tf.gather(_ratio_quantiles(_FIELD // 2), fields[:, 0] // 2)
    is_wide = fields[:, 0] % 2 == 1
    down, right, size = tf.unstack(
        (tf.cast(fields[:, 1:], tf.float32) + 0.5) / _FIELD, axis=1
    )
    area = LEAST_AREA + size * (1.0 / ratio - LEAST_AREA)
    long, short = tf.sqrt(area * ratio), tf.sqrt(area / ratio)
    height, width = tf.where(is_wide, short, long), tf.where(is_wide, long, short)
    return tf.stack([down * (1 - height), right * (1 - width), height, width], axis=1)


def crop_and_resize(images: tf.Tensor, boxes: tf.Tensor, flip: tf.Tensor) -> tf.Tensor:
    """Shows a part of each image at the image's size, and mirrors it where asked to.

    Pixels of the result are interpolated linearly between the four around their place,
    at the part's border those beyond it, at the image's border repeated ones. Parts are
    not larger than the image, so there is nothing to smooth first.

    Args:
        images: [batch, H, W, C]; of integers, the result is rounded to them.
        boxes: [batch, 4] float32, as `random_boxes` gives them.
        flip: [batch] boolean.
    """
    top, left, tall, wide = tf.unstack(boxes, axis=1)
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    down = top * tf.cast(height, tf.float32)
    right = tf.where(flip, left + wide, left) * tf.cast(width, tf.float32)
    across, zero = tf.where(flip, -wide, wide), tf.zeros_like(top)
    result = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32),
        transforms=affine_matrices([across, zero, right, zero, tall, down]),
        output_shape=[height, width],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )
    if images.dtype.is_integer:
        result = tf.round(result)
    return tf.ensure_shape(tf.cast(result, images.dtype), images.shape)
