"""The one decoding function, in TensorFlow operations alone.

Folders of images, TinyImageNet, ImageNet and the bytes sent to a server all pass
through it, so training and serving see equal pixels. Orientation tags (EXIF) are
ignored everywhere.
"""

from __future__ import annotations

import tensorflow as tf

from pmal_tf.data.decoding.gif import first_frame
from pmal_tf.data.decoding.resize import resize_images

# An image of 8192 x 8192 pixels takes 0.8 GB while it is resized.
MAX_PIXELS = 2**26

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
_HEADER_BYTES = 64


def declared_size(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads an image's size from its header, without decoding it.

    Returns:
        Height and width in pixels, int64 scalars; both 0 where the bytes, a scalar
        string, are not those of a JPEG, PNG, GIF or BMP file.

    Raises:
        tf.errors.InvalidArgumentError: If the header is cut off or damaged.
    """
    _, height, width = _first_image(contents)
    return height, width


def decode_image(contents: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes a JPEG, PNG, GIF (its first frame) or BMP file to a square RGB image.

    Grey images are repeated over the channels, transparency is dropped (where a GIF is
    transparent it is black), 16 bits become 8, palettes are looked up.

    Args:
        contents: Scalar string, the bytes of a file.
        size: Side of the [size, size, 3] uint8 image to make of the central square.

    Raises:
        tf.errors.InvalidArgumentError: If the bytes are not a sound image of at most
            `MAX_PIXELS` pixels.
    """
    contents, height, width = _first_image(contents)
    checks = [
        tf.debugging.assert_positive(
            height * width, "not a JPEG, PNG, GIF or BMP file"
        ),
        tf.debugging.assert_less_equal(
            height * width, tf.constant(MAX_PIXELS, tf.int64), "too many pixels"
        ),
    ]
    # Eagerly the checks are None: they have raised already.
    with tf.control_dependencies([check for check in checks if check is not None]):
        pixels = tf.cond(
            _is_palette_bmp(contents),
            lambda: _decode_palette_bmp(contents),
            lambda: _decode(contents),
        )
    return tf.cast(resize_images(pixels[None], size)[0], tf.uint8)


def _first_image(contents: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the bytes to decode, of a GIF its first frame, and height and width."""
    header = _header(contents)

    def number(start: int, *, big_endian: bool) -> tf.Tensor:
        exponents = (3, 2, 1, 0) if big_endian else (0, 1, 2, 3)
        return tf.reduce_sum(header[start : start + 4] * [256**e for e in exponents])

    def signed(start: int) -> tf.Tensor:
        # A BMP stored from top to bottom declares a negative height.
        value = number(start, big_endian=False)
        return tf.where(value >= 2**31, 2**32 - value, value)

    def of_jpeg() -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        shape = tf.cast(tf.image.extract_jpeg_shape(contents), tf.int64)
        return contents, shape[0], shape[1]

    nothing = tf.constant(0, tf.int64)
    branches = [  # In the order of `_SIGNATURES`, and then of other files.
        of_jpeg,
        lambda: (contents, number(20, big_endian=True), number(16, big_endian=True)),
        lambda: first_frame(contents),
        lambda: (contents, signed(22), signed(18)),
        lambda: (contents, nothing, nothing),
    ]
    return tf.switch_case(_kind(contents), branches)


def _header(contents: tf.Tensor) -> tf.Tensor:
    """Returns the first bytes as [64] int64, filled up with zeros."""
    start = tf.strings.substr(contents, 0, _HEADER_BYTES)
    filled = tf.strings.substr(
        tf.strings.join([start, tf.constant(bytes(_HEADER_BYTES))]), 0, _HEADER_BYTES
    )
    return tf.cast(tf.io.decode_raw(filled, tf.uint8), tf.int64)


def _kind(contents: tf.Tensor) -> tf.Tensor:
    """Returns the position of the file's signature, or their number for none."""
    matches = [
        tf.strings.substr(contents, 0, len(signature)) == signature
        for signature in _SIGNATURES
    ]
    return tf.cast(tf.argmax(tf.stack([*matches, tf.constant(True)])), tf.int32)


def _decode(contents: tf.Tensor) -> tf.Tensor:
    """Decodes to [h, w, 3] uint8; of several frames the first."""
    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def _is_palette_bmp(contents: tf.Tensor) -> tf.Tensor:
    """Tells whether the file is a BMP of 8 bits per pixel."""
    is_bmp = _kind(contents) == _SIGNATURES.index(b"BM")
    return is_bmp & (_header(contents)[28] == 8)


def _decode_palette_bmp(contents: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP of 8 bits per pixel, whose palette TensorFlow does not look up."""
    # Asked for three channels, it repeats the position in the palette.
    index = _decode(contents)[..., 0]
    header = _header(contents)
    # The palette follows the file header of 14 bytes and the one that tells its length.
    start = tf.cast(14 + header[14] + 256 * header[15], tf.int32)
    used = header[46] + 256 * header[47]
    entries = tf.cast(tf.where(used == 0, tf.constant(256, tf.int64), used), tf.int32)
    raw = tf.io.decode_raw(tf.strings.substr(contents, start, 4 * entries), tf.uint8)
    blue_green_red = tf.reshape(raw, [-1, 4])[:, :3]
    return tf.gather(blue_green_red[:, ::-1], tf.cast(index, tf.int32))
