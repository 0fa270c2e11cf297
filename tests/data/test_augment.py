import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from pmal_tf.data.batches.augment import (
    OPERATIONS,
    affine_matrices,
    alternating_flips,
    auto_contrast,
    brightness,
    color,
    contrast,
    crop_and_flip,
    crop_and_flip_parameters,
    cut_out,
    draw_operations,
    equalize,
    posterize,
    rand_augment,
    rotation_matrices,
    sharpness,
    solarize,
    transform,
)
from pmal_tf.data.hashing import hash_ids, splitmix64

BLENDS = {
    "color": (color, ImageEnhance.Color),
    "contrast": (contrast, ImageEnhance.Contrast),
    "brightness": (brightness, ImageEnhance.Brightness),
    "sharpness": (sharpness, ImageEnhance.Sharpness),
}
SHIFT = 4
SHAPES = [(32, 32), (24, 40), (64, 64), (8, 11), (2, 5), (1, 1)]


def float32(values):
    return np.array(values, np.float32)


def random_images(generator, count, height, width):
    return generator.integers(0, 256, (count, height, width, 3), np.uint8)


def smooth_images(generator, count, height, width):
    """Low waves, of another range and phase in every image and channel."""
    y, x = np.mgrid[:height, :width]
    low, high = np.sort(generator.uniform(0, 255, (2, count, 1, 1, 3)), axis=0)
    kx, ky, phase = generator.uniform(0, 6, (3, count, 1, 1, 3))
    wave = kx * x[:, :, None] / width + ky * y[:, :, None] / height + phase
    return (low + (high - low) * (1 + np.sin(wave)) / 2).astype(np.uint8)


def example_images(generator, height, width):
    """Noise, smooth images, a constant one, and one with a constant channel."""
    images = np.concatenate(
        [
            random_images(generator, 5, height, width),
            smooth_images(generator, 7, height, width),
        ]
    )
    images[0] = 77
    images[1, :, :, 1] = 200
    return images


def one_by_one(images, change, *parameters):
    """Applies `change` from and to Pillow images, with the parameters of each."""
    changed = [
        np.asarray(change(Image.fromarray(image), *(float(p) for p in own)))
        for image, *own in zip(images, *parameters, strict=True)
    ]
    return np.stack(changed)


def assert_off_by_one_at_most(actual, expected):
    """Pillow computes in float32, as do we, and cuts the fraction off.

    On x86 the two are the same. A compiler that fuses multiplication and addition, as
    for ARM, gets products just below an integer where others get the integer: one off
    in under 2 % of all pairs of values.
    """
    difference = actual.astype(int) - expected
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() <= 0.02


# Operations without arithmetic to round, or, in auto_contrast, with Pillow's own
# sequence of float64 operations: exactly Pillow's result.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(auto_contrast, ImageOps.autocontrast), (equalize, ImageOps.equalize)],
)
def test_operations_on_the_histogram_equal_pillow(ours, theirs, shape, rng):
    images = example_images(rng, *shape)
    result = ours(images).numpy()
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, one_by_one(images, theirs))


def test_auto_contrast_equals_pillow_for_every_pair_of_extremes():
    low, high = np.triu_indices(256)
    inside = np.random.default_rng(0).integers(low, high, endpoint=True)
    values = np.stack([low, high, inside], axis=1).astype(np.uint8)
    # One image per pair would be slow in Pillow, so the three channels have one each.
    images = values[: len(values) // 3 * 3].reshape(-1, 3, 3)
    images = np.swapaxes(images, 1, 2)[::8, None]
    np.testing.assert_array_equal(
        auto_contrast(images).numpy(), one_by_one(images, ImageOps.autocontrast)
    )


@pytest.mark.parametrize(
    ("ours", "theirs", "parameter"),
    [
        (
            solarize,
            ImageOps.solarize,
            float32([0, 255, 254.5, 0.5, 1, 128, 60, 61, 200, 90, 33, 127.5]),
        ),
        (
            posterize,
            lambda image, bits: ImageOps.posterize(image, int(bits)),
            np.array([8, 7, 6, 5, 4, 3, 2, 1, 8, 4, 5, 6], np.int32),
        ),
    ],
)
def test_operations_on_levels_equal_pillow(ours, theirs, parameter, rng):
    images = example_images(rng, 32, 24)
    images[:, 0, 0] = 255
    np.testing.assert_array_equal(
        ours(images, parameter).numpy(), one_by_one(images, theirs, parameter)
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", BLENDS)
def test_enhancements_agree_with_pillow_at_each_images_factor(name, shape, rng):
    ours, theirs = BLENDS[name]
    images = example_images(rng, *shape)
    factor = float32([0, 1, 2, 0.1, 1.9, 0.5, 1.5, 0.73, 1.27, 0.1, 1.9, 0.4])
    result = ours(images, factor).numpy()
    assert result.dtype == np.uint8
    assert_off_by_one_at_most(
        result,
        one_by_one(images, lambda image, f: theirs(image).enhance(f), factor),
    )


# Geometric operations are Pillow's too, except where the source point lies on the edge
# between two pixels: there each rounds its own way. Pillow steps in units of 2^-16, so
# over 64 pixels a point may be off by (64 + 64 + 1) / 2^17, just below 0.001.
EDGE = 0.001


def source_points(coefficients, height, width):
    a, b, c, d, e, f = coefficients
    y, x = np.mgrid[:height, :width] + 0.5
    return np.stack([a * x + b * y + c, d * x + e * y + f])


def on_an_edge(coefficients, height, width):
    """[H, W]: where two ways of rounding may pick different pixels."""
    points = source_points(coefficients, height, width)
    return (np.abs(points - np.round(points)) < EDGE).any(axis=0)


def rotation_coefficients(degrees, height, width):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.array([width, height]) / 2
    (a, b), (d, e) = turn
    c, f = centre - turn @ centre
    return a, b, c, d, e, f


def pillow_transform(image, coefficients):
    size = (image.shape[1], image.shape[0])
    affine = Image.Transform.AFFINE
    moved = Image.fromarray(image).transform(size, affine, coefficients)
    return np.asarray(moved)


def assert_same_off_the_edges(actual, expected, coefficients, largest_share):
    edge = on_an_edge(coefficients, *actual.shape[:2])
    assert edge.mean() <= largest_share
    np.testing.assert_array_equal(actual[~edge], expected[~edge])


@pytest.mark.parametrize("shape", [(32, 32), (24, 40), (64, 64), (17, 11)])
def test_rotation_agrees_with_pillow(shape, rng):
    images = example_images(rng, *shape)
    degrees = np.linspace(-30, 30, len(images)).astype(np.float32)
    degrees[:2] = 100, -170
    result = transform(images, rotation_matrices(degrees, *shape)).numpy()
    assert result.dtype == np.uint8
    expected = one_by_one(images, Image.Image.rotate, degrees)
    for actual, wanted, angle in zip(result, expected, degrees, strict=True):
        coefficients = rotation_coefficients(angle, *shape)
        # Of odd sides, 30 degrees puts most on an edge: the sine is 1/2.
        assert_same_off_the_edges(actual, wanted, coefficients, 0.08)


@pytest.mark.parametrize("shape", [(32, 32), (24, 40), (64, 64), (17, 11)])
def test_any_affine_map_agrees_with_pillow(shape, rng):
    images = example_images(rng, *shape)
    maps = rng.normal(size=(6, len(images))) * 0.3
    maps[[0, 4]] += 1
    maps[[2, 5]] *= 10
    maps = maps.astype(np.float32)
    result = transform(images, affine_matrices(list(maps))).numpy()
    for actual, image, own in zip(result, images, maps.T, strict=True):
        assert_same_off_the_edges(actual, pillow_transform(image, own), own, 0.06)


# The parameters at each magnitude, written down again from the paper's ranges.


def expected_operation(image, name, sign, magnitude):
    """Pillow's result, and the six numbers of a geometric operation or None."""
    height, width, _ = image.shape
    picture = Image.fromarray(image)
    factor = np.float32(1 + sign * 0.9 * magnitude / 30)
    slope, part = sign * 0.3 * magnitude / 30, sign * 150 / 331 * magnitude / 30
    coefficients = {
        "rotate": rotation_coefficients(sign * magnitude, height, width),
        "shear_x": (1, slope, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, slope, 1, 0),
        "translate_x": (1, 0, part * width, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, part * height),
    }.get(name)
    if coefficients is not None:
        return pillow_transform(image, coefficients), coefficients
    if name in BLENDS:
        result = BLENDS[name][1](picture).enhance(float(factor))
    else:
        result = {
            "identity": lambda: picture,
            "auto_contrast": lambda: ImageOps.autocontrast(picture),
            "equalize": lambda: ImageOps.equalize(picture),
            "solarize": lambda: ImageOps.solarize(picture, 255 - 8.5 * magnitude),
            "posterize": lambda: ImageOps.posterize(
                picture, 8 - int(4 * magnitude / 30 + 0.5)
            ),
        }[name]()
    return np.asarray(result), None


def assert_agrees(actual, image, name, sign, magnitude):
    expected, coefficients = expected_operation(image, name, sign, magnitude)
    if name in BLENDS:
        assert_off_by_one_at_most(actual, expected)
    elif coefficients is None:
        np.testing.assert_array_equal(actual, expected)
    else:
        # At some magnitudes every few rows lie on an edge.
        assert_same_off_the_edges(actual, expected, coefficients, 0.25)


def hashes(count, seed=0):
    return np.random.default_rng(seed).integers(0, 2**64, count, np.uint64)


def hashes_of_every_draw(layer):
    """[56] hashes that draw every operation with either sign, twice, mixed."""
    bits = hashes(2000)
    operation, sign = (values.numpy() for values in draw_operations(bits, layer))
    chosen = [
        np.flatnonzero((operation == index) & (sign == wanted))[:2]
        for index in range(len(OPERATIONS))
        for wanted in (-1, 1)
    ]
    chosen = np.random.default_rng(0).permutation(np.concatenate(chosen))
    assert len(chosen) == 56
    return bits[chosen]


@pytest.mark.parametrize("magnitude", [0, 1, 4, 9, 17, 30])
def test_every_image_goes_through_what_was_drawn_for_it(magnitude, rng):
    bits = hashes_of_every_draw(layer=0)
    images = np.concatenate(
        [random_images(rng, 28, 32, 24), smooth_images(rng, 28, 32, 24)]
    )
    result = rand_augment(images, bits, operations=1, magnitude=magnitude).numpy()
    assert result.dtype == np.uint8
    operation, sign = draw_operations(bits, 0)
    for row, image in enumerate(images):
        name = OPERATIONS[operation[row]]
        assert_agrees(result[row], image, name, float(sign[row]), magnitude)


def test_a_second_operation_goes_on_from_the_first(rng):
    bits = hashes_of_every_draw(layer=1)
    images = random_images(rng, len(bits), 24, 32)
    first = rand_augment(images, bits, operations=1, magnitude=12).numpy()
    both = rand_augment(images, bits, operations=2, magnitude=12).numpy()
    operation, sign = draw_operations(bits, 1)
    for row, image in enumerate(first):
        name = OPERATIONS[operation[row]]
        assert_agrees(both[row], image, name, float(sign[row]), 12)


def test_the_largest_translation_is_150_of_331_pixels(rng):
    bits = hashes(2000)
    operation, sign = (values.numpy() for values in draw_operations(bits, 0))
    for name, axis, pixels in [("translate_x", 1, 300), ("translate_y", 0, 150)]:
        drawn = operation == OPERATIONS.index(name)
        chosen = [np.flatnonzero(drawn & (sign == wanted))[0] for wanted in (1, -1)]
        image = rng.integers(1, 256, (331, 662, 3), np.uint8)
        forth, back = rand_augment(
            np.stack([image, image]), bits[chosen], operations=1, magnitude=30
        ).numpy()
        image, forth, back = (
            np.moveaxis(values, axis, 0) for values in (image, forth, back)
        )
        np.testing.assert_array_equal(forth[:-pixels], image[pixels:])
        np.testing.assert_array_equal(back[pixels:], image[:-pixels])
        assert not forth[-pixels:].any()
        assert not back[:pixels].any()


def test_magnitude_0_leaves_all_but_the_histogram_operations_unchanged(rng):
    bits = hashes_of_every_draw(layer=0)
    operation, _ = draw_operations(bits, 0)
    images = random_images(rng, len(bits), 16, 20) // 2
    result = rand_augment(images, bits, operations=1, magnitude=0).numpy()
    changed = np.unique(operation.numpy()[(result != images).any((1, 2, 3))])
    assert {OPERATIONS[index] for index in changed} == {"auto_contrast", "equalize"}


# An image's result is its own.


@pytest.fixture
def batch(rng):
    return smooth_images(rng, 90, 32, 32), hashes(90)


def augment(images, bits):
    return rand_augment(images, bits, operations=3, magnitude=21).numpy()


def test_the_result_does_not_depend_on_the_rest_of_the_batch(batch, rng):
    images, bits = batch
    together = augment(images, bits)
    for rows in (
        rng.permutation(len(bits)),
        range(7, 18),
        *([row] for row in range(9)),
    ):
        rows = list(rows)
        np.testing.assert_array_equal(augment(images[rows], bits[rows]), together[rows])


@pytest.mark.parametrize(
    "shape", [(None, 32, 32, 3), (90, 32, 32, 3), (None, None, None, 3)]
)
def test_graphs_with_and_without_static_shapes_compute_the_same(batch, shape):
    images, bits = batch

    @tf.function(
        input_signature=[
            tf.TensorSpec(shape, tf.uint8),
            tf.TensorSpec(shape[:1], tf.uint64),
        ]
    )
    def compiled(images, bits):
        result = rand_augment(images, bits, operations=3, magnitude=21)
        assert result.shape.as_list() == list(shape)
        return result

    np.testing.assert_array_equal(compiled(images, bits), augment(images, bits))


def test_an_empty_batch_stays_empty():
    images = np.zeros([0, 32, 32, 3], np.uint8)
    assert augment(images, hashes(0)).shape == images.shape


# The draws.


def test_draws_are_the_published_numbers_of_splitmix64():
    # The first three outputs for state 0: 0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4 and
    # 0x06C45D188009454F. The upper half mod 14 is the operation, an odd number is +1.
    drawn = [draw_operations(np.zeros(1, np.uint64), layer) for layer in range(3)]
    wanted = [(0xE220A839 % 14, 1), (0x6E789E6A % 14, -1), (0x06C45D18 % 14, 1)]
    assert [(int(index[0]), float(sign[0])) for index, sign in drawn] == wanted
    operation, sign = drawn[0]
    assert (operation.dtype, sign.dtype) == (tf.int32, tf.float32)


def chi_square(cells, count):
    counts = np.bincount(cells, minlength=count)
    assert counts.size == count
    expected = counts.sum() / count
    return ((counts - expected) ** 2 / expected).sum()


def cells_of(bits, layer):
    operation, sign = (values.numpy() for values in draw_operations(bits, layer))
    return 2 * operation + (sign > 0)


@pytest.mark.parametrize("layers", [(0, 1), (1, 2), (0, 2)])
def test_layers_are_drawn_independently(layers):
    one, other = (cells_of(hashes(40_000), layer) for layer in layers)
    # The 0.999 quantile of chi-square with 783 degrees of freedom.
    assert chi_square(28 * one + other, 784) < 911.0


@pytest.mark.parametrize("layer", [0, 1])
def test_draws_are_independent_of_crop_and_flip(layer):
    bits = hashes(40_000)
    vertical, horizontal, flip = (
        values.numpy().astype(int) for values in crop_and_flip_parameters(bits, SHIFT)
    )
    drawn, choices = cells_of(bits, layer), 2 * SHIFT + 1
    # The 0.999 quantiles of chi-square with 503 and 251 degrees of freedom.
    assert chi_square((2 * vertical + flip) * 28 + drawn, 18 * 28) < 606.7
    assert chi_square(horizontal * 28 + drawn, choices * 28) < 325.9


# Worked by hand.


def gray_image(rows):
    """[1, H, W, 3] from the rows of its three equal channels."""
    return np.repeat(np.array(rows, np.uint8)[None, :, :, None], 3, axis=3)


def rows_of(images):
    images = images.numpy()
    assert (images == images[..., :1]).all()
    return images[0, :, :, 0].tolist()


def test_auto_contrast_by_hand():
    # Channel 0 grows by 255 / 51 = 5, channel 1 is constant, channel 2 is full.
    image = np.array([[10, 9, 0], [20, 9, 1], [30, 9, 254], [61, 9, 255]], np.uint8)
    stretched = auto_contrast(image.reshape(1, 2, 2, 3)).numpy().reshape(4, 3)
    assert stretched[:, 0].tolist() == [0, 50, 100, 255]
    np.testing.assert_array_equal(stretched[:, 1:], image[:, 1:])


@pytest.mark.parametrize(
    ("counts", "table"),
    [
        # Step (540 - 30) // 255 = 2, half of it 1: 1 // 2, 21 // 2, 511 // 2.
        ({1: 20, 2: 490, 200: 30}, {1: 0, 2: 10, 200: 255}),
        # Step 310 // 255 = 1, half of it 0: 0, 100, and 310, which is cut to 255.
        ({5: 100, 9: 210, 50: 40}, {5: 0, 9: 100, 50: 255}),
        # Fewer than 255 pixels below the brightest level, or one level: all stays.
        ({5: 254, 9: 1000}, {5: 5, 9: 9}),
        ({30: 1000}, {30: 30}),
    ],
)
def test_equalize_by_hand(counts, table):
    values = np.repeat(list(counts), list(counts.values()))
    wanted = [table[value] for value in values]
    assert rows_of(equalize(gray_image([values]))) == [wanted]


def test_color_by_hand():
    # The gray of red is (255 * 19595 + 2^15) >> 16 = 76.
    red = np.array([255, 0, 0], np.uint8).reshape(1, 1, 1, 3)
    for factor, wanted in [(0, [76, 76, 76]), (0.5, [165, 38, 38]), (1, [255, 0, 0])]:
        assert color(red, float32([factor])).numpy().ravel().tolist() == wanted


SQUARE = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
# Smoothed, the centre is 130 * 5 / 13 = 50, and the corner adds 26 / 13 = 2.
POINT = [[0, 0, 0], [0, 130, 0], [0, 0, 26]]


def turned(image, degrees):
    return transform(image, rotation_matrices(degrees, 3, 3))


def moved(image, slope, pixels):
    """A row looks further right than the one above it, and all look to the right."""
    one, zero = float32([1]), float32([0])
    numbers = [one, one * slope, one * pixels, zero, one, zero]
    return transform(image, affine_matrices(numbers))


@pytest.mark.parametrize(
    ("operation", "rows", "parameter", "wanted"),
    [
        (posterize, [[255, 129], [130, 7]], 4, [[240, 128], [128, 0]]),
        (posterize, [[255, 129], [130, 7]], 7, [[254, 128], [130, 6]]),
        (solarize, [[0, 127], [128, 255]], 128.0, [[0, 127], [127, 0]]),
        # The mean is 25.25, rounded to 25.
        (contrast, [[10, 20], [30, 41]], 0.5, [[17, 22], [27, 33]]),
        (contrast, [[10, 20], [30, 41]], 2.0, [[0, 15], [35, 57]]),
        (brightness, [[0, 101], [170, 200]], 0.5, [[0, 50], [85, 100]]),
        (brightness, [[0, 101], [170, 200]], 1.5, [[0, 151], [255, 255]]),
        (sharpness, POINT, 0.0, [[0, 0, 0], [0, 52, 0], [0, 0, 26]]),
        (sharpness, POINT, 2.0, [[0, 0, 0], [0, 208, 0], [0, 0, 26]]),
        # Counter-clockwise.
        (turned, SQUARE, 90.0, [[3, 6, 9], [2, 5, 8], [1, 4, 7]]),
        # The centres of the rows look 0.4, 1.2 and 2 pixels to the right.
        (lambda i, by: moved(i, by, 0), SQUARE, 0.8, [[1, 2, 3], [5, 6, 0], [9, 0, 0]]),
        (lambda i, by: moved(i, 0, by), SQUARE, 1.0, [[2, 3, 0], [5, 6, 0], [8, 9, 0]]),
    ],
)
def test_operations_by_hand(operation, rows, parameter, wanted):
    given = np.array([parameter])
    given = given.astype(np.int32 if operation is posterize else np.float32)
    assert rows_of(operation(gray_image(rows), given)) == wanted


# Shift and mirror.

CHOICES = 2 * SHIFT + 1


def crop_and_flip_slowly(images, vertical, horizontal, flip, mode):
    _, height, width, _ = images.shape
    result = []
    for image, top, left, mirror in zip(
        images, vertical, horizontal, flip, strict=True
    ):
        padded = np.pad(image, [(SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)], mode)
        crop = padded[top : top + height, left : left + width]
        result.append(crop[:, ::-1] if mirror else crop)
    return np.stack(result)


@pytest.mark.parametrize("shape", [(40, 32, 32, 3), (25, 8, 11, 3), (1, 5, 6, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("fill", ["zeros", "reflect"])
def test_crop_and_flip_equals_a_loop_over_images(shape, dtype, fill):
    generator = np.random.default_rng(0)
    images = generator.integers(1, 256, shape).astype(dtype)
    vertical, horizontal = generator.integers(0, CHOICES, (2, shape[0]), np.int32)
    flip = generator.integers(0, 2, shape[0]).astype(bool)
    parameters = (vertical, horizontal, flip)
    moved = crop_and_flip(images, *parameters, shift=SHIFT, fill=fill).numpy()
    assert moved.dtype == dtype
    mode = "constant" if fill == "zeros" else "reflect"
    np.testing.assert_array_equal(
        moved, crop_and_flip_slowly(images, *parameters, mode)
    )


def move_one(image, vertical, horizontal, flip, shift, fill):
    image = np.array(image, np.uint8)[None, :, :, None]
    parameters = [np.array([value]) for value in (vertical, horizontal, flip)]
    parameters[:2] = [value.astype(np.int32) for value in parameters[:2]]
    moved = crop_and_flip(image, *parameters, shift=shift, fill=fill)
    return moved.numpy()[0, :, :, 0].tolist()


@pytest.mark.parametrize(
    ("down", "right", "flip", "fill", "wanted"),
    [
        (0, 0, False, "zeros", [[1, 2], [3, 4]]),
        (1, 0, False, "zeros", [[3, 4], [0, 0]]),
        (0, 1, False, "zeros", [[2, 0], [4, 0]]),
        (0, 1, True, "zeros", [[0, 2], [0, 4]]),  # Cropped first and mirrored then.
        (1, 0, False, "reflect", [[3, 4], [1, 2]]),  # The edge itself is not doubled.
        (0, -1, True, "reflect", [[1, 2], [3, 4]]),
    ],
)
def test_crop_and_flip_by_hand(down, right, flip, fill, wanted):
    moved = move_one([[1, 2], [3, 4]], 1 + down, 1 + right, flip, 1, fill)
    assert moved == wanted


def test_alternating_flips_show_every_image_once_each_way_in_two_epochs():
    identity = hash_ids(np.array([f"train_{n}" for n in range(4000)]), "order", 0)
    flips = [alternating_flips(identity, tf.constant(n)).numpy() for n in range(4)]
    np.testing.assert_array_equal(flips[0], ~flips[1])
    np.testing.assert_array_equal(flips[0], flips[2])
    np.testing.assert_array_equal(flips[1], flips[3])
    # Half of them first, within four standard deviations.
    assert abs(flips[0].mean() - 0.5) < 4 * 0.5 / np.sqrt(4000)


def test_cutout_paints_one_square_gray_wherever_it_falls():
    images = tf.zeros((3000, 6, 8, 3), tf.uint8)
    bits = hash_ids(np.array([f"train_{n}" for n in range(3000)]), "order", 0)
    gray = cut_out(images, bits, 3).numpy()
    assert set(np.unique(gray)) == {0, 128}
    hit = gray[..., 0] == 128
    np.testing.assert_array_equal(hit, gray[..., 2] == 128)
    corners = set()
    for image in hit:
        rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
        assert image[np.ix_(rows, columns)].all()
        assert image.sum() == len(rows) * len(columns)
        corners.add((rows[0], rows[-1], columns[0], columns[-1]))
        # Cut off at the edge, whole within.
        assert len(rows) == 3 or rows[0] == 0 or rows[-1] == 5
    # Every pixel may be the centre.
    assert len(corners) == 6 * 8


def test_cutout_by_hand():
    bits = tf.constant([7], tf.uint64)
    mixed = splitmix64(splitmix64(bits)).numpy()[0]
    row, column = int(mixed & 0xFFFF) % 4, int(mixed >> 16 & 0xFFFF) % 5
    expected = np.full((4, 5), 9)
    expected[max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1] = 128
    painted = cut_out(tf.fill((1, 4, 5, 1), tf.constant(9, tf.uint8)), bits, 2)
    np.testing.assert_array_equal(painted[0, :, :, 0], expected)


def drawn_parameters(count=9000):
    names = np.array([f"train_{n}" for n in range(count)])
    bits = hash_ids(names, "order", 0)
    return [values.numpy() for values in crop_and_flip_parameters(bits, SHIFT)]


def test_every_offset_is_drawn_about_equally_often():
    vertical, horizontal, _ = drawn_parameters()
    for offset in (vertical, horizontal):
        assert offset.dtype == np.int32
        assert set(offset.tolist()) == set(range(CHOICES))
        # The 0.999 quantile of chi-square with 8 degrees of freedom.
        assert chi_square(offset, CHOICES) < 26.1


def test_offsets_and_flip_are_drawn_independently():
    vertical, horizontal, flip = drawn_parameters()
    cell = (vertical * CHOICES + horizontal) * 2 + flip
    # The 0.999 quantile of chi-square with 161 degrees of freedom.
    assert chi_square(cell, 2 * CHOICES**2) < 221.0
    assert flip.dtype == bool


def test_parameters_belong_to_the_hash_and_not_to_its_position():
    bits = np.random.default_rng(0).integers(0, 2**64, 100, dtype=np.uint64)
    forward = crop_and_flip_parameters(bits, SHIFT)
    backward = crop_and_flip_parameters(bits[::-1], SHIFT)
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy()[::-1])
