import numpy as np
import pytest

from pmal_tf.data.decoding import resize

tf = resize.tf


def random_images(shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


def test_the_same_size_passes_fractions_unchanged():
    images = np.random.default_rng(0).uniform(0, 255, (3, 7, 7, 3)).astype(np.float32)
    resized = resize.resize_images(images, 7)
    assert resized.dtype == np.float32
    np.testing.assert_array_equal(resized.numpy(), images)


def test_the_same_size_keeps_bytes():
    images = random_images((3, 7, 7, 3))
    resized = resize.resize_images(images, 7).numpy()
    assert resized.dtype == np.float32
    np.testing.assert_array_equal(resized, images)


@pytest.mark.parametrize("size", [(28, 28), (8, 8), (33, 33)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_other_sizes_land_on_whole_numbers_as_tensorflow_rounds(size, dtype):
    images = random_images((4, *size, 3)).astype(dtype)
    resized = resize.resize_images(images, 32).numpy()
    bilinear = tf.image.resize(images, (32, 32), antialias=True).numpy()
    np.testing.assert_array_equal(resized, np.clip(np.rint(bilinear), 0, 255))
    assert resized.shape == (4, 32, 32, 3)
    assert (bilinear != np.rint(bilinear)).any()
    np.testing.assert_array_equal(resized, resized.astype(np.uint8))


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ([[0, 100], [100, 200]], 100),
        ([[0, 0], [0, 1]], 0),  # 0.25
        ([[0, 0], [1, 1]], 0),  # 0.5: halves go to the even number
        ([[1, 1], [2, 2]], 2),  # 1.5
        ([[255, 255], [255, 254]], 255),  # 254.75
    ],
)
def test_two_by_two_pixels_shrink_to_their_rounded_mean(pixels, expected):
    images = np.array(pixels, np.uint8).reshape(1, 2, 2, 1)
    assert resize.resize_images(images, 1).numpy().item() == expected


def test_growing_a_single_pixel_repeats_it():
    images = np.array([10.0, 20.0, 250.0], np.float32).reshape(1, 1, 1, 3)
    resized = resize.resize_images(images, 3).numpy()
    np.testing.assert_array_equal(resized, np.broadcast_to(images, (1, 3, 3, 3)))


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((20, 9), (slice(5, 14), slice(None))),  # (20 - 9) // 2 = 5
        ((9, 20), (slice(None), slice(5, 14))),
        ((10, 9), (slice(0, 9), slice(None))),
        ((1, 6), (slice(None), slice(2, 3))),
    ],
)
@pytest.mark.parametrize("target", [4, 9, 12])
def test_the_central_square_is_resized(shape, window, target):
    images = random_images((2, *shape, 3))
    square = images[:, window[0], window[1]]
    np.testing.assert_array_equal(
        resize.resize_images(images, target).numpy(),
        resize.resize_images(square, target).numpy(),
    )


def test_a_long_thin_image_is_cropped_before_it_is_enlarged():
    thin = random_images((1, 1, 2_000_000, 3))
    assert resize.resize_images(thin, 64).shape == (1, 64, 64, 3)


def test_resized_values_outside_the_scale_are_clipped():
    images = np.array([-7.0, 300.0, 128.0], np.float32).reshape(1, 1, 1, 3)
    resized = resize.resize_images(images, 2).numpy()
    assert resized[0, 0, 0].tolist() == [0.0, 255.0, 128.0]


def test_sizes_unknown_until_the_call_give_the_same_pixels():
    signature = [tf.TensorSpec((None, None, None, 3), tf.uint8)]
    compiled = tf.function(
        lambda images: resize.resize_images(images, 8), input_signature=signature
    )
    assert compiled.get_concrete_function().output_shapes == (None, 8, 8, 3)
    for size in ((8, 8), (9, 8), (20, 3)):
        images = random_images((2, *size, 3))
        np.testing.assert_array_equal(
            compiled(images).numpy(), resize.resize_images(images, 8).numpy()
        )
