"""OSCRI as the field notes give it."""

import keras
import numpy as np
import pytest

from pmal_tf.backbones.architectures.oscri import oscri
from pmal_tf.backbones.classifier import (
    build_classifier,
    embedding_and_logits,
    head_weights,
)
from pmal_tf.runtime.errors import PmalError


def trainable_count(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def test_parameter_count_is_that_of_the_field():
    assert trainable_count(oscri((32, 32, 3))) == 999_104


def test_head_adds_a_kernel_and_a_bias():
    classifier = build_classifier("oscri", (32, 32, 3), 6)
    assert trainable_count(classifier) == 999_104 + 128 * 6 + 6


def test_width_multiplies_the_channels():
    model = oscri((32, 32, 3), width=0.25)
    filters = [
        layer.filters
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert filters == [16, 16, 32, 32, 32, 32, 32, 32, 32]
    assert model.output.shape == (None, 32)


@pytest.mark.parametrize(("size", "last_map"), [(8, 1), (28, 4), (32, 4), (64, 8)])
def test_maps_halve_three_times_with_symmetric_padding(size, last_map):
    model = oscri((size, size, 3), width=0.1)
    assert model.get_layer("relu_9").output.shape[1:3] == (last_map, last_map)


def test_any_input_size_passes_when_none_is_fixed(rng):
    model = oscri((None, None, 3), width=0.1)
    for size in (8, 33):
        image = rng.integers(0, 256, size=(2, size, size, 3)).astype(np.uint8)
        assert model(image).shape == (2, 13)


def test_stride_2_pads_every_side():
    # A convolution of ones sees 4 pixels of an image of ones at each padded corner of
    # the first group, and at stride 2 only the top left corner is padded by it.
    model = oscri((4, 4, 3), width=1 / 64)
    model.get_layer("conv_3").set_weights([np.ones((3, 3, 1, 2), np.float32)])
    layers = ["pad_3", "conv_3"]
    x = np.ones((1, 4, 4, 1), np.float32)
    for name in layers:
        x = model.get_layer(name)(x)
    np.testing.assert_array_equal(x[0, :, :, 0], [[4, 6], [6, 9]])


def test_layers_are_set_up_as_in_the_field():
    model = oscri((32, 32, 3))
    norm, relu = model.get_layer("norm_1"), model.get_layer("relu_1")
    assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)
    assert relu.negative_slope == 0.2
    assert not any(layer.use_bias for layer in model.layers if "conv" in layer.name)
    kernels = [w.numpy().ravel() for w in model.weights if "kernel" in w.path]
    assert np.concatenate(kernels).std() == pytest.approx(0.05, rel=0.01)
    gammas = np.concatenate([w.numpy() for w in model.weights if "gamma" in w.path])
    assert gammas.mean() == pytest.approx(1.0, abs=0.005)
    assert gammas.std() == pytest.approx(0.02, rel=0.1)
    dropouts = [
        layer.rate
        for layer in model.layers
        if isinstance(layer, keras.layers.SpatialDropout2D)
    ]
    assert dropouts == [0.2, 0.2, 0.2]


def test_uint8_and_float_images_give_the_same(rng):
    model = oscri((8, 8, 3), width=0.1)
    image = rng.integers(0, 256, size=(2, 8, 8, 3)).astype(np.uint8)
    np.testing.assert_array_equal(model(image), model(image.astype(np.float32)))


def test_embedding_is_the_input_of_the_head(rng):
    classifier = build_classifier("oscri", (8, 8, 3), 4, width=0.1)
    image = rng.integers(0, 256, size=(5, 8, 8, 3)).astype(np.uint8)
    outputs = embedding_and_logits(classifier)(image)
    kernel, bias = head_weights(classifier)
    expected = outputs["embedding"] @ kernel + bias
    np.testing.assert_allclose(outputs["logits"], expected, atol=1e-6)
    np.testing.assert_array_equal(outputs["logits"], classifier(image))


def test_classifier_without_a_linear_head_is_an_error():
    image = keras.Input((4,))
    soft = keras.Model(image, keras.layers.Dense(3, activation="softmax")(image))
    with pytest.raises(PmalError, match=r"linear.*Received: last layer"):
        embedding_and_logits(soft)


def test_unknown_backbone_is_an_error():
    with pytest.raises(PmalError, match=r"oscri.*Received: backbone='vgg'"):
        build_classifier("vgg", (8, 8, 3), 4)
