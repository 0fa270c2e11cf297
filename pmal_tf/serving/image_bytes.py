"""Decoding a batch of image files, of which some may be anything at all."""

from __future__ import annotations

import tensorflow as tf

from pmal_tf.data.decoding.decode import MAX_PIXELS, declared_size, decode_image
from pmal_tf.serving.image_files import MAX_BYTES

# What is wrong with an image, by position.
ERRORS = (
    "",
    "the image is empty: no bytes",
    "not a JPEG, PNG, GIF or BMP file",
    f"the image declares more than {MAX_PIXELS:,} pixels",
    f"the file has more than {MAX_BYTES:,} bytes",
    "the image is damaged, cut off, or of a kind that TensorFlow does not read",
)
_SOUND, _EMPTY, _NO_IMAGE, _LARGE, _LONG, _DAMAGED = range(len(ERRORS))


def decode_images(contents: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decodes image files as in training, and says of each what is wrong with it.

    A graph cannot catch the error of an operation, but a `tf.data` pipeline can leave
    out the elements that raise one. Images are decoded one after the other: each may
    take 0.8 GB before it is resized.

    Returns [batch, size, size, 3] uint8, zeros where one of the [batch] files cannot be
    read, and [batch] strings that say why, empty where it can.
    """
    count = tf.shape(contents, out_type=tf.int64)[0]

    def decode(index: tf.Tensor, file: tf.Tensor) -> tuple:
        code = _code(file)
        pixels = tf.cond(
            tf.equal(code, _SOUND),
            lambda: decode_image(file, size),
            lambda: tf.zeros([size, size, 3], tf.uint8),
        )
        return index, code, pixels

    # Position `count` is of nobody: a batch of no elements could not be taken out.
    nobody = tf.data.Dataset.from_tensors(
        (count, tf.constant(_SOUND), tf.zeros([size, size, 3], tf.uint8))
    )
    files = tf.data.Dataset.from_tensor_slices((tf.range(count), contents))
    readable = files.map(decode).ignore_errors().concatenate(nobody)
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    index, code, pixels = (
        readable.batch(count + 1).with_options(options).get_single_element()
    )
    place = index[:, None]
    codes = tf.tensor_scatter_nd_update(
        tf.fill([count + 1], tf.constant(_DAMAGED)), place, code
    )
    images = tf.scatter_nd(place, pixels, [count + 1, size, size, 3])
    return images[:count], tf.gather(tf.constant(ERRORS), codes[:count])


def _code(file: tf.Tensor) -> tf.Tensor:
    """Returns what is wrong with a file before it is decoded, a position in `ERRORS`.

    Raises an InvalidArgumentError if its header is cut off or damaged.
    """
    length = tf.strings.length(file)

    def of_header() -> tf.Tensor:
        height, width = declared_size(file)
        # Sides are below 2^32; a product of two could pass int64's largest number.
        pixels = tf.cast(height, tf.float64) * tf.cast(width, tf.float64)
        return tf.case(
            [
                ((height == 0) & (width == 0), lambda: tf.constant(_NO_IMAGE)),
                ((height < 1) | (width < 1), lambda: tf.constant(_DAMAGED)),
                (pixels > MAX_PIXELS, lambda: tf.constant(_LARGE)),
            ],
            default=lambda: tf.constant(_SOUND),
        )

    return tf.case(
        [
            (length == 0, lambda: tf.constant(_EMPTY)),
            (length > MAX_BYTES, lambda: tf.constant(_LONG)),
        ],
        default=of_header,
    )
