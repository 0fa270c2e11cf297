"""The one decoding and the one resizing function, in TensorFlow operations alone.

Folders of images, TinyImageNet, ImageNet and the bytes sent to a server all pass
through them, so training and serving see equal pixels. Orientation tags (EXIF) are
ignored everywhere.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

# An image of 8192 x 8192 pixels takes 0.8 GB while it is resized.
MAX_PIXELS = 2**26

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM")
_HEADER_BYTES = 64
# Of the GIF format.
_EXTENSION, _IMAGE, _TRAILER = 0x21, 0x2C, b";"


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
    count, most = height * width, tf.constant(MAX_PIXELS, tf.int64)
    with _after(
        tf.debugging.assert_positive(count, "not a JPEG, PNG, GIF or BMP file"),
        tf.debugging.assert_less_equal(count, most, "too many pixels"),
    ):
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
        lambda: _first_frame_of_gif(contents),
        lambda: (contents, signed(22), signed(18)),
        lambda: (contents, nothing, nothing),
    ]
    return tf.switch_case(_kind(contents), branches)


def _after(*checks: tf.Operation | None) -> Any:
    """Has checks come first; eagerly they are None, since they have raised already."""
    return tf.control_dependencies([check for check in checks if check is not None])


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
    """Decodes to [h, w, 3] uint8."""
    return tf.io.decode_image(contents, channels=3, expand_animations=False)


def _is_palette_bmp(contents: tf.Tensor) -> tf.Tensor:
    """Returns whether the file is a BMP of 8 bits per pixel."""
    is_bmp = _kind(contents) == _SIGNATURES.index(b"BM")
    return is_bmp & (_header(contents)[28] == 8)


def _decode_palette_bmp(contents: tf.Tensor) -> tf.Tensor:
    """Decodes a BMP of 8 bits per pixel, whose palette TensorFlow does not look up."""
    # Asked for three channels, it repeats the position in the palette.
    index = _decode(contents)[..., 0]
    header = _header(contents)
    # The palette follows the file header of 14 bytes and one that states its length.
    start = tf.cast(14 + header[14] + 256 * header[15], tf.int32)
    used = header[46] + 256 * header[47]
    entries = tf.cast(tf.where(used == 0, tf.constant(256, tf.int64), used), tf.int32)
    raw = tf.io.decode_raw(tf.strings.substr(contents, start, 4 * entries), tf.uint8)
    blue_green_red = tf.reshape(raw, [-1, 4])[:, :3]
    return tf.gather(blue_green_red[:, ::-1], tf.cast(index, tf.int32))


# Compiled, or each step of the loops would be a call from Python where it runs eagerly.
@tf.function(input_signature=[tf.TensorSpec((), tf.string)])
def _first_frame_of_gif(
    contents: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the bytes of a GIF cut off after its first frame, and height and width.

    TensorFlow unpacks every frame to return the first, and frames may be larger than
    the GIF says it is; so a small file could take any amount of memory. The size is
    that of the frame or of the whole, whichever is larger. The blocks of the format
    (GIF89a specification, 1990) are followed; they may not lead past the end.
    """
    data = tf.cast(tf.io.decode_raw(contents, tf.uint8), tf.int32)
    length = tf.size(data)

    def byte(position: tf.Tensor) -> tf.Tensor:
        with _after(tf.debugging.assert_less(position, length, "a GIF is cut off")):
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

    start = after_table(tf.constant(13), byte(tf.constant(10)))
    # An extension is two bytes and data blocks.
    (image,) = tf.while_loop(
        lambda at: byte(at) == _EXTENSION, lambda at: (after_blocks(at + 2),), (start,)
    )
    with _after(
        tf.debugging.assert_equal(byte(image), _IMAGE, "a GIF without a frame")
    ):
        pixels = after_table(image + 10, byte(image + 9))
    end = after_blocks(pixels + 1)  # After the size of the first code.
    width = tf.maximum(number(tf.constant(6)), number(image + 1) + number(image + 5))
    height = tf.maximum(number(tf.constant(8)), number(image + 3) + number(image + 7))
    kept = tf.strings.join([tf.strings.substr(contents, 0, end), _TRAILER])
    return kept, tf.cast(height, tf.int64), tf.cast(width, tf.int64)


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
