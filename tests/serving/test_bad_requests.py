"""What a server must survive, and must not take for a class."""

import io

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny_export import CLASSES, answers_of, serve, serve_bytes

from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.data.decoding.decode import decode_image
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.serving.image_bytes import ERRORS

SIGNATURES = ("serving_default", "serving_images_threshold", "embed")


def encode(pixels, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def photo(rng):
    return encode(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8))


def more(signature, count):
    if signature != "serving_images_threshold":
        return {}
    return {"threshold": tf.fill([count], 2.0)}


def assert_unreadable(answers, row):
    assert answers["class_id"][row] == -1
    assert answers["class_name"][row] == b"unknown"
    assert answers["is_unknown"][row]
    assert answers["unknown_score"][row] == 2.0
    assert (answers["distance"][row] == 2.0).all()
    np.testing.assert_allclose(answers["probabilities"][row], 1 / len(CLASSES))
    assert answers["nearest_prototype"][row] == b""


def assert_finite(answers):
    for value in answers.values():
        assert value.dtype.kind not in "f" or np.isfinite(value).all()


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("side", [8, 13, 0])
def test_no_images_get_no_answers(loaded, signature, side):
    images = np.zeros((0, side, side, 3))
    if side == 0:
        with pytest.raises(tf.errors.InvalidArgumentError, match="at least one pixel"):
            serve(loaded, images, signature, **more(signature, 0))
        return
    for value in serve(loaded, images, signature, **more(signature, 0)).values():
        assert value.shape[0] == 0
    assert all(len(value) == 0 for value in serve_bytes(loaded, []).values())


@pytest.mark.parametrize("signature", SIGNATURES)
@pytest.mark.parametrize("shape", [(8, 8, 3), (2, 8, 8, 4), (2, 8, 8, 1), (5,), ()])
def test_images_of_other_shapes_are_refused(loaded, signature, shape):
    # As a server feeds them, past the checks of Python.
    function = loaded.signatures[signature]
    count = shape[0] if shape else 1
    feeds = {"images": tf.zeros(shape), **more(signature, count)}
    inputs = [
        feeds[i.name.split(":")[0].removeprefix(f"{signature}_")]
        for i in function.inputs[: len(feeds)]
    ]
    with pytest.raises(
        (tf.errors.InvalidArgumentError, TypeError, ValueError)
    ) as error:
        function._call_flat(inputs, function.captured_inputs)
    if isinstance(error.value, tf.errors.InvalidArgumentError):
        assert "[batch, height, width, 3]" in str(error.value)


@pytest.mark.parametrize("pixel", [np.nan, np.inf, -np.inf])
def test_an_image_with_pixels_that_are_no_numbers_is_unknown(loaded, images, pixel):
    spoilt = images.copy()
    spoilt[4, 3, 2, 1] = pixel
    answers, sound = serve(loaded, spoilt), serve(loaded, images)
    assert_finite(answers)
    assert_unreadable(answers, 4)
    others = np.arange(len(images)) != 4
    np.testing.assert_allclose(
        answers["distance"][others], sound["distance"][others], atol=1e-6
    )
    assert (serve(loaded, spoilt, "embed")["embedding"][4] == 0).all()


@pytest.mark.parametrize("value", [1e38, -1e38])
def test_huge_pixels_count_as_the_limits_of_the_scale(loaded, value):
    answers = serve(loaded, np.full((1, 8, 8, 3), value))
    assert_finite(answers)
    limit = serve(loaded, np.full((1, 8, 8, 3), 255.0 if value > 0 else 0.0))
    np.testing.assert_array_equal(answers["distance"], limit["distance"])


@pytest.mark.parametrize("value", [-0.1, 2.1, np.nan, np.inf])
def test_thresholds_outside_of_their_range_are_refused(loaded, images, value):
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="must lie between 0 and 2 for the rule dr"
    ):
        serve(
            *(loaded, images[:2], "serving_images_threshold"),
            threshold=tf.constant([0.5, value]),
        )


def test_every_image_needs_its_threshold(loaded, images):
    with pytest.raises(tf.errors.InvalidArgumentError, match="one number per image"):
        serve(
            *(loaded, images[:3], "serving_images_threshold"),
            threshold=tf.constant([0.5, 0.5]),
        )


def test_long_requests_get_the_answers_of_short_ones(loaded, images):
    # 600 images pass in three parts.
    several = np.resize(images, (600, 8, 8, 3))
    answers, expected = serve(loaded, several), serve(loaded, images)
    for name, value in expected.items():
        repeated = np.resize(value, (600, *value.shape[1:]))
        if value.dtype.kind == "f":
            np.testing.assert_allclose(answers[name], repeated, atol=1e-6)
        else:
            np.testing.assert_array_equal(answers[name], repeated)


def test_files_get_the_answers_of_their_pixels(loaded, photo):
    answers = serve_bytes(loaded, [photo, photo])
    pixels = decode_image(tf.constant(photo), 8)[None]
    expected = serve(loaded, tf.cast(pixels, tf.float32))
    assert answers.pop("error").tolist() == [b"", b""]
    for name, value in expected.items():
        for row in (0, 1):
            if value.dtype.kind == "f":
                np.testing.assert_allclose(answers[name][row], value[0], atol=1e-6)
            else:
                assert answers[name][row] == value[0]


def huge_png(width, height):
    """A PNG whose header declares a size, with a right checksum."""
    import struct
    import zlib

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + bytes(64)
    )


def test_one_bad_file_does_not_fail_the_others(loaded, photo):
    files = [photo, b"", b"hello", photo[:200], huge_png(30_000, 30_000), photo]
    files += [huge_png(2**31 - 1, 2**31 - 1), huge_png(0, 5), b"\xff\xd8\xff"]
    answers = serve_bytes(loaded, files)
    assert_finite(answers)
    found = [error.decode() for error in answers["error"]]
    damaged, large = ERRORS[5], ERRORS[3]
    expected = ["", ERRORS[1], ERRORS[2], damaged, large, "", large, damaged, damaged]
    assert found == expected
    for row, error in enumerate(found):
        if error:
            assert_unreadable(answers, row)
    np.testing.assert_allclose(
        answers["distance"][[0, 5]],
        np.repeat(serve_bytes(loaded, [photo])["distance"], 2, axis=0),
        atol=1e-6,
    )


@pytest.mark.parametrize("files", [b"a", [[b"a"], [b"b"]]])
def test_files_that_are_no_list_are_refused(loaded, files):
    function = loaded.signatures["serving_bytes"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="a list of files"):
        function._call_flat([tf.constant(files)], function.captured_inputs)


def test_a_request_of_nothing_but_bad_files(loaded):
    answers = serve_bytes(loaded, [b"", b"GIF89a"])
    assert_unreadable(answers, 0)
    assert_unreadable(answers, 1)


def test_embeddings_whose_squares_are_not_finite_are_unknown(prototypes):
    image = keras.Input((8, 8, 3))
    z = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1e20)(image))
    classifier = keras.Model(
        image, keras.layers.Dense(3, kernel_initializer="zeros")(z)
    )
    model = PMALModel(embedding_and_logits(classifier), 2)
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    answers = answers_of(model, prototypes, np.full((2, 8, 8, 3), 100.0), 2.0)
    assert_finite(answers)
    assert_unreadable(answers, 0)
