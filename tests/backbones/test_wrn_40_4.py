"""WRN-40-4 as the field notes give it."""

import keras
import numpy as np
import pytest

from pmal_tf.backbones.architectures.wrn_40_4 import wrn_40_4
from pmal_tf.backbones.classifier import build_classifier


@pytest.fixture(scope="module")
def network():
    return wrn_40_4((32, 32, 3))


def trainable_count(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def test_parameter_count_is_that_of_the_field(network):
    assert trainable_count(network) == 8_946_640
    assert network.output.shape == (None, 256)
    with_head = build_classifier("wrn_40_4", (32, 32, 3), 6, dropout=0.0)
    assert trainable_count(with_head) == 8_948_182


def test_maps_halve_in_the_second_convolutions(network):
    first, second = (
        [
            network.get_layer(f"group_{group}_block_0_{place}_conv").output.shape[1]
            for group in range(3)
        ]
        for place in (0, 1)
    )
    assert first == [32, 32, 16]
    assert second == [32, 16, 8]


def test_there_are_37_3x3_convolutions_and_none_has_a_bias(network):
    layers = [x for x in network.layers if isinstance(x, keras.layers.Conv2D)]
    # Together the 40 of the name.
    assert sum(layer.kernel_size == (3, 3) for layer in layers) == 37
    assert sum(layer.kernel_size == (1, 1) for layer in layers) == 3
    assert not any(layer.use_bias for layer in layers)


def test_a_block_without_change_of_shape_is_the_identity_plus_its_branch(rng):
    model = wrn_40_4((8, 8, 3), width=0.1)
    # With the branch's last kernel at zero, a block passes its input on.
    kernel = model.get_layer("group_0_block_3_1_conv").kernel
    kernel.assign(np.zeros(kernel.shape))
    before = model.get_layer("group_0_block_2_add").output
    after = model.get_layer("group_0_block_3_add").output
    both = keras.Model(model.input, [before, after])
    image = rng.integers(0, 256, size=(2, 8, 8, 3)).astype(np.uint8)
    passed, through = both(image)
    np.testing.assert_array_equal(passed, through)


def test_dropout_stands_between_the_convolutions_of_every_block():
    def dropouts(rate):
        model = wrn_40_4((8, 8, 3), width=0.1, dropout=rate)
        return [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)]

    assert dropouts(0.3) == [0.3] * 18
    assert dropouts(0.0) == []


def test_any_size_passes(rng):
    model = build_classifier("wrn_40_4", (None, None, 3), 3, width=0.1, dropout=0.0)
    for size in (8, 33, 64):
        image = rng.integers(0, 256, size=(2, size, size, 3)).astype(np.uint8)
        assert model(image).shape == (2, 3)
    assert model.layers[-1].input.shape == (None, round(256 * 0.1))


def test_width_multiplies_the_channels():
    model = wrn_40_4((8, 8, 3), width=0.25)
    last = [
        f"group_{group}_block_5_{place}_conv" for group in range(3) for place in "01"
    ]
    filters = [model.get_layer(name).filters for name in ("stem_conv", *last)]
    assert filters == [4, 16, 16, 32, 32, 64, 64]
