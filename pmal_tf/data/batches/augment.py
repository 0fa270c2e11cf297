"""Augmenting a whole batch at once, each image by its own hash.

The hashes are those of (seed, epoch, example id); an image's result depends on its hash
alone, and not on the rest of the batch. First comes RandAugment, then shift and mirror.

Cubuk et al. 2020, "RandAugment: Practical automated data augmentation with a reduced
search space": every image goes through a few operations drawn uniformly, with
replacement, all of one magnitude. The operations do what Pillow's do, which the
authors used, to the bit where the arithmetic allows it.

In each layer the images are grouped by operation, so an image pays for its own only.
Every operation takes n images and its parameter for each, [n, H, W, 3] uint8 and [n],
and returns n images of the same shape and type. n may be 0.
"""

from __future__ import annotations

import math

import tensorflow as tf

from pmal_tf.data.hashing import GOLDEN_GAMMA, splitmix64

MAX_MAGNITUDE = 30  # The paper's scale.
_GRAY = 128

# The geometric ones come last: they are one group, a transform with several matrices.
OPERATIONS = tuple(
    "identity auto_contrast equalize solarize posterize color contrast brightness "
    "sharpness rotate shear_x shear_y translate_x translate_y".split()
)
_FIRST_GEOMETRIC = OPERATIONS.index("rotate")


def rand_augment(
    images: tf.Tensor, bits: tf.Tensor, *, operations: int, magnitude: int
) -> tf.Tensor:
    """Sends each image through `operations` of its own, [batch, H, W, 3] uint8.

    `bits` are the [batch] uint64 hashes. With share = magnitude / 30 in [0, 1] and a
    sign of -1 or +1 drawn per image and layer:

    | operations                             | parameter                               |
    |----------------------------------------|-----------------------------------------|
    | identity, auto_contrast, equalize      | none                                    |
    | solarize                               | threshold 255 - 255 share               |
    | posterize                              | 8 - round(4 share) bits                 |
    | color, contrast, brightness, sharpness | factor 1 + sign 0.9 share               |
    | rotate                                 | sign 30 share degrees                   |
    | shear_x, shear_y                       | sign 0.3 share                          |
    | translate_x, translate_y               | sign 150 / 331 share of width or height |

    At magnitude 0 the first row still does its work, and solarize inverts 255.
    """
    augmented = images
    for layer in range(operations):
        operation, sign = draw_operations(bits, layer)
        augmented = _apply_drawn(augmented, operation, sign, magnitude / MAX_MAGNITUDE)
    return tf.ensure_shape(augmented, images.shape)


def draw_operations(bits: tf.Tensor, layer: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Draws each image's operation and sign in one layer, from its [batch] uint64 hash.

    The hash is the state of a SplitMix64 generator and each layer takes its next
    number, so layers are independent of each other, and of crop and flip, which mix
    the hash itself.

    Returns:
        Indices into `OPERATIONS`, [batch] int32, and signs -1 or +1, [batch] float32.
    """
    step = (layer + 1) * GOLDEN_GAMMA % 2**64
    bits = splitmix64(bits + tf.constant(step, tf.uint64))
    operation = _field(bits, 32, 2**32 - 1) % tf.constant(len(OPERATIONS), tf.uint64)
    sign = 2.0 * tf.cast(_field(bits, 0, 1), tf.float32) - 1.0
    return tf.cast(operation, tf.int32), sign


def _apply_drawn(
    images: tf.Tensor, operation: tf.Tensor, sign: tf.Tensor, share: float
) -> tf.Tensor:
    """Applies one layer: to each image the operation drawn for it, in their old order.

    `share` is the magnitude as a share of the largest, in [0, 1].
    """
    group = tf.minimum(operation, _FIRST_GEOMETRIC)
    position = tf.range(tf.size(operation))
    *members, moved = tf.dynamic_partition(position, group, _FIRST_GEOMETRIC + 1)
    results = [
        _apply_one(name, tf.gather(images, chosen), tf.gather(sign, chosen), share)
        for name, chosen in zip(OPERATIONS[:_FIRST_GEOMETRIC], members, strict=True)
    ]
    row = 2 * (tf.gather(operation, moved) - _FIRST_GEOMETRIC)
    row += tf.cast(tf.gather(sign, moved) > 0, tf.int32)
    height, width = tf.shape(images)[1], tf.shape(images)[2]
    matrices = tf.gather(_signed_matrices(share, height, width), row)
    results.append(transform(tf.gather(images, moved), matrices))
    return tf.dynamic_stitch([*members, moved], results)


def _apply_one(
    name: str, images: tf.Tensor, sign: tf.Tensor, share: float
) -> tf.Tensor:
    """Applies one operation, not a geometric one, at the scale of `rand_augment`."""
    if name in _PLAIN:
        return _PLAIN[name](images)
    if name in _BLENDS:
        return _BLENDS[name](images, 1.0 + 0.9 * share * sign)
    if name == "solarize":
        return solarize(images, tf.fill(tf.shape(sign), 255.0 - 255.0 * share))
    return posterize(images, tf.fill(tf.shape(sign), 8 - round(4 * share)))


def _signed_matrices(share: float, height: tf.Tensor, width: tf.Tensor) -> tf.Tensor:
    """The matrices of the geometric operations, [10, 8]: signs -1 and then +1 of each.

    They are so few that the batch need only pick from them. That also keeps its size
    out of the sines: vectorised code may round them unlike the code for the rest.
    """
    sign, one, zero = tf.constant([-1.0, 1.0]), tf.ones(2), tf.zeros(2)
    slope = 0.3 * share * sign
    part = 150 / 331 * share * sign
    right, down = part * tf.cast(width, tf.float32), part * tf.cast(height, tf.float32)
    in_order = [
        rotation_matrices(30.0 * share * sign, height, width),
        # Sheared about the upper left corner, as the authors do.
        affine_matrices([one, slope, zero, zero, one, zero]),
        affine_matrices([one, zero, zero, slope, one, zero]),
        affine_matrices([one, zero, right, zero, one, zero]),
        affine_matrices([one, zero, zero, zero, one, down]),
    ]
    return tf.concat(in_order, axis=0)


def auto_contrast(images: tf.Tensor) -> tf.Tensor:
    """Stretches each channel of each image to 0..255; a constant one stays."""
    lowest = tf.reduce_min(images, [1, 2], keepdims=True)
    highest = tf.reduce_max(images, [1, 2], keepdims=True)
    constant = lowest == highest
    lowest = tf.where(constant, tf.zeros_like(lowest), lowest)
    highest = tf.where(constant, 255 * tf.ones_like(highest), highest)
    # In float64 and in Pillow's order: products a hair below an integer are cut down
    # to the one before, and it should be the same ones.
    scale = 255.0 / tf.cast(highest - lowest, tf.float64)
    offset = -tf.cast(lowest, tf.float64) * scale
    return tf.cast(tf.cast(images, tf.float64) * scale + offset, tf.uint8)


def equalize(images: tf.Tensor) -> tf.Tensor:
    """Flattens the histogram of each channel of each image, as Pillow does.

    With step = (pixels - pixels of the brightest level) // 255, level v becomes
    (step // 2 + pixels darker than v) // step, at most 255; if step is 0, as in a
    constant channel, all stays.
    """
    shape = tf.shape(images)
    pixels = shape[1] * shape[2]
    channels = tf.reshape(tf.transpose(images, [0, 3, 1, 2]), [-1, pixels])
    levels = tf.cast(channels, tf.int32)
    histogram = tf.raw_ops.DenseBincount(
        input=levels, size=256, weights=tf.zeros([0], tf.int32), binary_output=False
    )
    brightest = tf.reduce_max(levels, axis=1, keepdims=True)
    at_brightest = tf.gather(histogram, brightest, axis=1, batch_dims=1)
    step = (pixels - at_brightest) // 255
    darker = tf.cumsum(histogram, axis=1, exclusive=True)
    table = tf.minimum((step // 2 + darker) // tf.maximum(step, 1), 255)
    table = tf.cast(tf.where(step > 0, table, tf.range(256)), tf.uint8)
    flattened = tf.gather(table, levels, axis=1, batch_dims=1)
    by_channel = tf.reshape(flattened, [shape[0], shape[3], shape[1], shape[2]])
    return tf.transpose(by_channel, [0, 2, 3, 1])


def solarize(images: tf.Tensor, threshold: tf.Tensor) -> tf.Tensor:
    """Inverts the values at or above the threshold, [n] float32 in [0, 255]."""
    first_inverted = tf.cast(tf.math.ceil(threshold), tf.uint8)[:, None, None, None]
    return tf.where(images < first_inverted, images, 255 - images)


def posterize(images: tf.Tensor, kept_bits: tf.Tensor) -> tf.Tensor:
    """Clears all but the highest bits of every value, [n] int32 in [1, 8]."""
    mask = tf.cast(256 - tf.bitwise.left_shift(1, 8 - kept_bits), tf.uint8)
    return tf.bitwise.bitwise_and(images, mask[:, None, None, None])


def color(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the distance to the gray image by [n] float32 factors."""
    return _blend(_gray(images), images, factor)


def contrast(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the distance to the mean gray, an integer, by [n] float32 factors."""
    gray = tf.cast(_gray(images), tf.int32)
    pixels = tf.shape(images)[1] * tf.shape(images)[2]
    total = tf.reduce_sum(gray, [1, 2, 3], keepdims=True)
    mean = (2 * total + pixels) // (2 * pixels)
    return _blend(tf.cast(mean, tf.float32), images, factor)


def brightness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales all values by [n] float32 factors."""
    return _blend(tf.constant(0.0), images, factor)


def sharpness(images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Scales the distance to the smoothed image by [n] float32 factors.

    The 3x3 kernel is 5/13 in the centre and 1/13 around it; pixels on the border, which
    lack neighbours, stay.
    """
    values = tf.cast(images, tf.float32)
    padded = tf.pad(values, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smooth = tf.floor((box + 4.0 * values) / 13.0 + 0.5)
    row, column = tf.range(tf.shape(images)[1]), tf.range(tf.shape(images)[2])
    inner_row = (row > 0) & (row < row[-1])
    inner_column = (column > 0) & (column < column[-1])
    inner = inner_row[:, None, None] & inner_column[:, None]
    return _blend(tf.where(inner, smooth, values), images, factor)


def _gray(images: tf.Tensor) -> tf.Tensor:
    """Pillow's luma, an integer. [n, H, W, 3] uint8 -> [n, H, W, 1] float32."""
    # Weights in units of 2^-16. All sums stay below 2^24, so float32 holds them.
    weights = tf.constant([[19595.0], [38470.0], [7471.0]])
    luma = tf.tensordot(tf.cast(images, tf.float32), weights, 1)
    return tf.floor((luma + 2.0**15) / 2.0**16)


def _blend(start: tf.Tensor, images: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Goes from `start` (factor 0) to the images (factor 1) and beyond.

    `start` holds integers as float32, broadcastable to the images. What comes out is
    clipped, and fractions are cut off, as Pillow does.
    """
    values = tf.cast(images, tf.float32)
    mixed = start + factor[:, None, None, None] * (values - start)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


def transform(images: tf.Tensor, matrices: tf.Tensor) -> tf.Tensor:
    """Shows the pixel nearest to where each [8] float32 matrix points, or black."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=matrices,
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )


def affine_matrices(coefficients: list[tf.Tensor]) -> tf.Tensor:
    """Turns Pillow's six numbers, a to f, each [n] float32, into [n, 8] for TensorFlow.

    The point (x, y) of the result shows the point (a x + b y + c, d x + e y + f) of
    the image. To Pillow the first pixel's centre is (1/2, 1/2), to TensorFlow (0, 0).
    """
    a, b, c, d, e, f = coefficients
    zero = tf.zeros_like(a)
    right = c + 0.5 * (a + b - 1.0)
    down = f + 0.5 * (d + e - 1.0)
    return tf.stack([a, b, right, d, e, down, zero, zero], axis=1)


def rotation_matrices(
    degrees: tf.Tensor, height: tf.Tensor, width: tf.Tensor
) -> tf.Tensor:
    """Turns about the centre of the image, counter-clockwise. [n] -> [n, 8] float32."""
    angle = degrees * (math.pi / 180)
    cosine, sine = tf.cos(angle), tf.sin(angle)
    x, y = tf.cast(width, tf.float32) / 2, tf.cast(height, tf.float32) / 2
    c = x - cosine * x + sine * y
    f = y - sine * x - cosine * y
    return affine_matrices([cosine, -sine, c, sine, cosine, f])


_PLAIN = {"identity": tf.identity, "auto_contrast": auto_contrast, "equalize": equalize}
_BLENDS = {
    operation.__name__: operation
    for operation in (color, contrast, brightness, sharpness)
}


def crop_and_flip_parameters(
    bits: tf.Tensor, shift: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws offsets and flips from [batch] uint64 hashes of (seed, epoch, example id).

    Returns:
        Vertical and horizontal offsets in [0, 2 shift], [batch] int32, and whether to
        mirror, [batch] boolean.
    """
    bits = splitmix64(bits)
    choices = tf.constant(2 * shift + 1, tf.uint64)
    vertical = tf.cast(_field(bits, 0, 0xFFFF) % choices, tf.int32)
    horizontal = tf.cast(_field(bits, 16, 0xFFFF) % choices, tf.int32)
    return vertical, horizontal, tf.cast(_field(bits, 32, 1), tf.bool)


def alternating_flips(identity: tf.Tensor, epoch: tf.Tensor) -> tf.Tensor:
    """Tells which images to mirror in an epoch: each in every other one.

    So that in two epochs an image is seen once each way, which random flips do for half
    of the images (K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024).
    Which way comes first is drawn from `identity`, [N] uint64 hashes of (seed, example
    id).

    Returns:
        [N] booleans.
    """
    first = _field(splitmix64(identity), 32, 1)
    parity = tf.bitwise.bitwise_and(tf.cast(epoch, tf.uint64), tf.ones([], tf.uint64))
    return tf.cast(tf.bitwise.bitwise_xor(first, parity), tf.bool)


def _field(bits: tf.Tensor, shift: int, mask: int) -> tf.Tensor:
    """Cuts a field of bits out of uint64 numbers."""
    shifted = tf.bitwise.right_shift(bits, tf.constant(shift, tf.uint64))
    return tf.bitwise.bitwise_and(shifted, tf.constant(mask, tf.uint64))


def crop_and_flip(
    images: tf.Tensor,
    vertical: tf.Tensor,
    horizontal: tf.Tensor,
    flip: tf.Tensor,
    *,
    shift: int,
    fill: str = "zeros",
) -> tf.Tensor:
    """Pads by `shift` pixels, crops to the old size, and mirrors, with one gather.

    [batch, H, W, C] stay so. Parameters are those of `crop_and_flip_parameters`; an
    offset of `shift` moves nothing. The margin is of zeros, or the image mirrored at
    its outermost pixels (`reflect`).
    """
    shape = tf.shape(images)
    batch, height, width = shape[0], shape[1], shape[2]
    margin = [shift, shift]
    mode = "REFLECT" if fill == "reflect" else "CONSTANT"
    padded = tf.pad(images, [[0, 0], margin, margin, [0, 0]], mode)
    rows = vertical[:, None] + tf.range(height)[None, :]
    columns = tf.range(width)[None, :]
    columns = tf.where(flip[:, None], width - 1 - columns, columns)
    columns += horizontal[:, None]
    padded_width = width + 2 * shift
    image_start = tf.range(batch) * (height + 2 * shift) * padded_width
    position = rows[:, :, None] * padded_width + columns[:, None, :]
    position += image_start[:, None, None]
    pixels = tf.reshape(padded, [-1, images.shape[-1]])
    return tf.ensure_shape(tf.gather(pixels, position), images.shape)


def cut_out(images: tf.Tensor, bits: tf.Tensor, side: int) -> tf.Tensor:
    """Paints a square of each image gray, [batch, H, W, C] uint8 (DeVries and Taylor).

    Its centre is drawn from all pixels by the [batch] uint64 hashes, independently of
    `crop_and_flip_parameters`; what lies outside of the image is cut off. An even
    square reaches one pixel further up and left.

    Source: "Improved Regularization of Convolutional Neural Networks with Cutout",
    2017, where the colour is the mean of all images.
    """
    bits = splitmix64(splitmix64(bits))

    def is_inside(shift: int, length: tf.Tensor) -> tf.Tensor:
        drawn = _field(bits, shift, 0xFFFF) % tf.cast(length, tf.uint64)
        first = tf.cast(drawn, tf.int32)[:, None] - side // 2
        place = tf.range(length)[None, :]
        return (place >= first) & (place < first + side)

    rows = is_inside(0, tf.shape(images)[1])[:, :, None, None]
    columns = is_inside(16, tf.shape(images)[2])[:, None, :, None]
    return tf.where(rows & columns, tf.constant(_GRAY, images.dtype), images)
