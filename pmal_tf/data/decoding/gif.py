"""The first frame of a GIF, cut out before anything is decoded.

TensorFlow unpacks every frame of a GIF to return the first, and frames may be larger
than the GIF says it is; so a small file could take any amount of memory. The blocks of
the format (GIF89a specification, 1990) are followed here in TensorFlow operations.
"""

from __future__ import annotations

import tensorflow as tf

_HEADER_BYTES = 13
_EXTENSION, _IMAGE = 0x21, 0x2C
_IMAGE_HEADER_BYTES = 10
_TRAILER = b";"


# Compiled, or each step of the loops would be a call from Python where it runs eagerly.
@tf.function(input_signature=[tf.TensorSpec((), tf.string)])
def first_frame(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Cuts the bytes of a GIF, a scalar string, off after its first frame.

    Returns:
        The bytes of a GIF of one frame, and the height and width of what decoding it
        takes, int64 scalars: of the frame or of the whole, whichever is larger.

    Raises:
        tf.errors.InvalidArgumentError: If the blocks lead past the end of the file.
    """
    data = tf.cast(tf.io.decode_raw(contents, tf.uint8), tf.int32)
    length = tf.size(data)

    def byte(position: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies(_inside(position, length)):
            return data[tf.minimum(position, length - 1)]

    def number(position: tf.Tensor) -> tf.Tensor:
        return byte(position) + 256 * byte(position + 1)

    def after_table(position: tf.Tensor, flags: tf.Tensor) -> tf.Tensor:
        """Skips a colour table, of 3 * 2 ** (n + 1) bytes, where the flags have one."""
        size = 3 * tf.bitwise.left_shift(2, tf.bitwise.bitwise_and(flags, 7))
        return tf.where(flags >= 128, position + size, position)

    def after_blocks(position: tf.Tensor) -> tf.Tensor:
        """Skips data blocks, each led by its length; a length of 0 ends them."""
        (end,) = tf.while_loop(
            lambda at: byte(at) > 0, lambda at: (at + 1 + byte(at),), (position,)
        )
        return end + 1

    start = after_table(tf.constant(_HEADER_BYTES), byte(tf.constant(10)))
    # An extension is two bytes and data blocks.
    (image,) = tf.while_loop(
        lambda at: byte(at) == _EXTENSION, lambda at: (after_blocks(at + 2),), (start,)
    )
    is_image = tf.debugging.assert_equal(byte(image), _IMAGE, "a GIF without a frame")
    with tf.control_dependencies([] if is_image is None else [is_image]):
        pixels = after_table(image + _IMAGE_HEADER_BYTES, byte(image + 9))
    end = after_blocks(pixels + 1)  # After the size of the first code.
    width = tf.maximum(number(tf.constant(6)), number(image + 1) + number(image + 5))
    height = tf.maximum(number(tf.constant(8)), number(image + 3) + number(image + 7))
    kept = tf.strings.join([tf.strings.substr(contents, 0, end), _TRAILER])
    return kept, tf.cast(height, tf.int64), tf.cast(width, tf.int64)


def _inside(position: tf.Tensor, length: tf.Tensor) -> list[tf.Operation]:
    """Checks a position; eagerly the check is no operation, but raises at once."""
    check = tf.debugging.assert_less(position, length, "a GIF that is cut off")
    return [] if check is None else [check]
