"""ResNet-50 v1.5 as torchvision and the field notes give it."""

import keras
import numpy as np
import pytest

from pmal_tf.backbones.architectures.resnet50 import resnet50
from pmal_tf.backbones.classifier import build_classifier
from pmal_tf.runtime.errors import PmalError


@pytest.fixture(scope="module")
def network():
    return resnet50((224, 224, 3))


def trainable_count(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def test_parameter_count_is_that_of_the_field(network):
    assert trainable_count(network) == 23_508_032
    assert network.output.shape == (None, 2048)


def test_maps_halve_in_the_3x3_convolutions(network):
    sizes = {
        name: network.get_layer(name).output.shape[1]
        for name in ("stem_conv", "stem_pool", "group_1_block_0_0_conv")
    }
    assert sizes == {"stem_conv": 112, "stem_pool": 56, "group_1_block_0_0_conv": 56}
    last = [network.get_layer(f"group_{g}_block_0_1_conv").output for g in range(4)]
    assert [output.shape[1] for output in last] == [56, 28, 14, 7]


def test_there_are_53_convolutions_and_none_has_a_bias(network):
    layers = [x for x in network.layers if isinstance(x, keras.layers.Conv2D)]
    assert len(layers) == 53
    assert not any(layer.use_bias for layer in layers)


def test_width_multiplies_the_channels_and_any_size_passes(rng):
    model = build_classifier("resnet50", (None, None, 3), 3, width=0.05, dropout=0.0)
    for size in (33, 64):
        image = rng.integers(0, 256, size=(2, size, size, 3)).astype(np.uint8)
        assert model(image).shape == (2, 3)
    assert model.layers[-1].input.shape == (None, 4 * round(512 * 0.05))


def test_width_multiplies_every_convolution():
    model = resnet50((32, 32, 3), width=0.125)
    parts = [f"group_{group}_block_0_{part}_conv" for group in (0, 3) for part in "012"]
    filters = [model.get_layer(name).filters for name in ("stem_conv", *parts)]
    assert filters == [8, 8, 8, 32, 64, 64, 256]


def test_dropout_is_refused():
    with pytest.raises(PmalError, match=r"--dropout=0"):
        resnet50((32, 32, 3), dropout=0.2)
