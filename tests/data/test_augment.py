import numpy as np
import pytest

from pmal_tf.data.batches.augment import (
    PADDING,
    crop_and_flip,
    crop_and_flip_parameters,
)
from pmal_tf.data.hashing import hash_ids

CHOICES = 2 * PADDING + 1


def crop_and_flip_slowly(images, vertical, horizontal, flip):
    _, height, width, _ = images.shape
    result = []
    for image, top, left, mirror in zip(
        images, vertical, horizontal, flip, strict=True
    ):
        padded = np.pad(image, [(PADDING, PADDING), (PADDING, PADDING), (0, 0)])
        crop = padded[top : top + height, left : left + width]
        result.append(crop[:, ::-1] if mirror else crop)
    return np.stack(result)


@pytest.mark.parametrize("shape", [(40, 32, 32, 3), (25, 8, 11, 3), (1, 3, 2, 1)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_crop_and_flip_equals_a_loop_over_images(shape, dtype):
    generator = np.random.default_rng(0)
    images = generator.integers(1, 256, shape).astype(dtype)
    vertical, horizontal = generator.integers(0, CHOICES, (2, shape[0]), np.int32)
    flip = generator.integers(0, 2, shape[0]).astype(bool)
    moved = crop_and_flip(images, vertical, horizontal, flip).numpy()
    assert moved.dtype == dtype
    np.testing.assert_array_equal(
        moved, crop_and_flip_slowly(images, vertical, horizontal, flip)
    )


def move_one(image, vertical, horizontal, flip):
    image = np.array(image, np.uint8)[None, :, :, None]
    parameters = [np.array([value]) for value in (vertical, horizontal, flip)]
    parameters[:2] = [value.astype(np.int32) for value in parameters[:2]]
    return crop_and_flip(image, *parameters).numpy()[0, :, :, 0].tolist()


@pytest.mark.parametrize(
    ("down", "right", "flip", "wanted"),
    [
        (0, 0, False, [[1, 2], [3, 4]]),
        (1, 0, False, [[3, 4], [0, 0]]),
        (0, 1, False, [[2, 0], [4, 0]]),
        (0, 1, True, [[0, 2], [0, 4]]),  # Cropped first and mirrored then.
    ],
)
def test_crop_and_flip_by_hand(down, right, flip, wanted):
    moved = move_one([[1, 2], [3, 4]], PADDING + down, PADDING + right, flip)
    assert moved == wanted


def drawn_parameters(count=9000):
    names = np.array([f"train_{n}" for n in range(count)])
    bits = hash_ids(names, "order", 0)
    return [values.numpy() for values in crop_and_flip_parameters(bits)]


def chi_square(counts):
    expected = counts.sum() / counts.size
    return ((counts - expected) ** 2 / expected).sum()


def test_every_offset_is_drawn_about_equally_often():
    vertical, horizontal, _ = drawn_parameters()
    for offset in (vertical, horizontal):
        assert offset.dtype == np.int32
        assert set(offset.tolist()) == set(range(CHOICES))
        # The 0.999 quantile of chi-square with 8 degrees of freedom.
        assert chi_square(np.bincount(offset)) < 26.1


def test_offsets_and_flip_are_drawn_independently():
    vertical, horizontal, flip = drawn_parameters()
    cell = (vertical * CHOICES + horizontal) * 2 + flip
    counts = np.bincount(cell, minlength=CHOICES * CHOICES * 2)
    assert counts.size == 162
    # The 0.999 quantile of chi-square with 161 degrees of freedom.
    assert chi_square(counts) < 221.0
    assert flip.dtype == bool


def test_parameters_belong_to_the_hash_and_not_to_its_position():
    bits = np.random.default_rng(0).integers(0, 2**64, 100, dtype=np.uint64)
    forward = crop_and_flip_parameters(bits)
    backward = crop_and_flip_parameters(bits[::-1])
    for one, other in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy()[::-1])
