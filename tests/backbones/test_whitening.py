"""Whitening against NumPy's covariance, and a network that was not adapted."""

import keras
import numpy as np
import pytest

from pmal_tf.backbones.classifier import build_classifier, with_precision
from pmal_tf.backbones.whitening import (
    Whitening,
    adapt_whitening,
    check_adapted,
    whitening_filters,
)
from pmal_tf.methods.loading import load_model
from pmal_tf.runtime.errors import PmalError


@pytest.fixture
def photos(rng):
    """Images whose neighbouring pixels and channels go together."""
    noise = rng.normal(size=(60, 12, 12, 1)) @ np.array([[3.0, 2.0, 1.0]])
    waves = np.cumsum(np.cumsum(noise, axis=1), axis=2)
    detail = rng.normal(scale=5.0, size=waves.shape)
    return np.clip(120 + 3 * waves + detail, 0, 255).astype(np.uint8)


def whitened(images, size=2):
    layer = Whitening(size)
    layer.build((None, None, None, images.shape[-1]))
    layer.adapt(images)
    return layer, layer(images).numpy()


def test_patches_come_out_uncorrelated_with_mean_0_and_their_negatives(photos):
    _, outputs = whitened(photos)
    half = outputs.shape[-1] // 2
    assert outputs.shape == (60, 11, 11, 24)
    numbers = outputs[..., :half].reshape(-1, half).astype(np.float64)
    np.testing.assert_allclose(outputs[..., half:], -outputs[..., :half], atol=1e-3)
    # Off the mean by what the outermost pixels weigh less in patches.
    assert np.abs(numbers[:, 0].mean()) < 0.05
    covariance = np.cov(numbers.T)
    off_diagonal = covariance - np.diag(np.diag(covariance))
    assert np.abs(off_diagonal).max() < 0.02
    # Eigenvalues of far more than 5e-4 are brought to 1.
    assert np.diag(covariance)[0] == pytest.approx(1.0, abs=0.01)
    assert np.diag(covariance).min() > 0.5


def test_filters_by_hand():
    # Pixels -1 and +1 in units of their deviation, as patches of one: C = 1.
    images = np.array([[[[0.0], [2.0]]]])
    kernel, offset = whitening_filters(images, 1)
    length = 1 / np.sqrt(1 + 5e-4)
    np.testing.assert_allclose(kernel.ravel(), [length, -length])
    np.testing.assert_allclose(offset, [-length, length])


def test_the_layer_is_the_filters_on_every_patch(photos):
    layer, outputs = whitened(photos)
    layer.bias.assign(np.arange(24.0))
    kernel, offset = whitening_filters(photos, 2)
    patch = photos[3, 4:6, 7:9].astype(np.float64)
    expected = np.einsum("ijc,ijcf->f", patch, kernel) + offset
    np.testing.assert_allclose(outputs[3, 4, 7], expected, rtol=1e-4, atol=1e-3)
    with_bias = layer(photos)[3, 4, 7]
    np.testing.assert_allclose(with_bias, expected + np.arange(24), atol=2e-3)
    assert [weight.name for weight in layer.trainable_weights] == ["bias"]


def test_gray_images_and_a_channel_of_one_value_give_finite_numbers(photos):
    gray = np.repeat(photos[..., :1], 3, axis=3)
    flat = photos.copy()
    flat[..., 2] = 7
    for images in (gray, flat):
        _, outputs = whitened(images)
        assert np.isfinite(outputs).all()
        assert np.abs(outputs).max() < 50


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (np.zeros((5, 9, 9, 3), np.uint8), "5 images of one colour"),
        (np.arange(12.0).reshape(1, 2, 2, 3), "12 patches.*Received: 1, in 1 images"),
        (np.ones((4, 1, 9, 3)), "Received: 0, in 4 images of 1 x 9 pixels"),
    ],
)
def test_images_that_cannot_be_whitened_are_told(images, sentence):
    with pytest.raises(PmalError, match=sentence):
        whitening_filters(images, 2)


@pytest.fixture
def network():
    keras.utils.set_random_seed(0)
    return build_classifier("airbench", (12, 12, 3), 3, width=0.1, dropout=0.0)


def test_a_network_is_adapted_once_saved_and_copied_with_its_filters(
    network, photos, tmp_path
):
    with pytest.raises(PmalError, match="Received: airbench_classifier, whose layer"):
        check_adapted(network)
    adapt_whitening(network, photos)
    check_adapted(network)
    kernel = network.get_layer("whitening").kernel.numpy()
    adapt_whitening(network, photos[::-1] // 2)
    np.testing.assert_array_equal(network.get_layer("whitening").kernel, kernel)
    network.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    check_adapted(loaded)
    np.testing.assert_array_equal(loaded(photos), network(photos))
    # Filters of small eigenvalues are long: they stay in float32.
    half = with_precision(network, "mixed_bfloat16")
    layer = half.get_layer("whitening")
    assert (layer.compute_dtype, layer.kernel.dtype) == ("bfloat16", "float32")
    np.testing.assert_allclose(half(photos), network(photos), atol=0.1)


def test_evenly_spaced_images_are_looked_at(network, photos, monkeypatch):
    monkeypatch.setattr("pmal_tf.backbones.whitening._MOST_PIXELS", 30 * 144)
    adapt_whitening(network, photos)
    expected, _ = whitening_filters(photos[::2], 2)
    np.testing.assert_allclose(
        network.get_layer("whitening").kernel, expected, rtol=1e-5, atol=1e-7
    )
