"""The backbones as the papers, their code and the field notes give them."""

import importlib
import inspect
from dataclasses import dataclass

import keras
import numpy as np
import pytest

from pmal_tf.backbones import architectures
from pmal_tf.backbones.classifier import build_classifier
from pmal_tf.backbones.settings import NetworkSettings, backbone_names, dropout_of
from pmal_tf.runtime.errors import PmalError


@dataclass(frozen=True)
class Published:
    """A network at width 1."""

    size: int
    parameters: int
    embedding: int
    convolutions: dict
    maps: dict


NETWORKS = {
    "oscri": Published(
        size=32,
        parameters=999_104,
        embedding=128,
        convolutions={3: 9},
        # The last convolution of each group halves the map.
        maps={"relu_2": 32, "relu_3": 16, "relu_6": 8, "relu_8": 8, "relu_9": 4},
    ),
    "wrn_40_4": Published(
        size=32,
        parameters=8_946_640,
        embedding=256,
        convolutions={3: 37, 1: 3},  # Together, the 40 of its name.
        # The second convolution of a block halves.
        maps={
            "group_0_block_0_1_conv": 32,
            "group_1_block_0_0_conv": 32,
            "group_1_block_0_1_conv": 16,
            "group_2_block_0_0_conv": 16,
            "group_2_block_0_1_conv": 8,
        },
    ),
    "airbench": Published(
        size=32,
        # Convolutions, an offset after each, and the first layer's bias.
        parameters=9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
        + 2 * (64 + 256 + 256)
        + 24,
        embedding=256,
        convolutions={3: 6},
        maps={
            "whitening": 31,
            "block_0_0_pool": 15,
            "block_1_0_pool": 7,
            "block_2_0_pool": 3,
        },
    ),
    "resnet50": Published(
        size=224,
        parameters=23_508_032,
        embedding=2048,
        convolutions={7: 1, 3: 16, 1: 36},
        # The 3x3 convolution of a block halves, not the 1x1 before it.
        maps={
            "stem_conv": 112,
            "stem_pool": 56,
            "group_0_block_0_1_conv": 56,
            "group_1_block_0_0_conv": 56,
            "group_1_block_0_1_conv": 28,
            "group_2_block_0_1_conv": 14,
            "group_3_block_0_1_conv": 7,
        },
    ),
}


def build(name, shape, **options):
    module = importlib.import_module(f"pmal_tf.backbones.architectures.{name}")
    return getattr(module, name)(shape, **options)


@pytest.fixture(scope="module", params=NETWORKS)
def published(request):
    numbers = NETWORKS[request.param]
    return build(request.param, (numbers.size, numbers.size, 3), dropout=0.0), numbers


def convolutions(model):
    return [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]


def trainable_count(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def test_every_backbone_is_known():
    assert set(backbone_names()) == set(NETWORKS)


def test_the_network_is_the_published_one(published):
    network, numbers = published
    assert trainable_count(network) == numbers.parameters
    assert network.output.shape == (None, numbers.embedding)
    sizes = [layer.kernel_size for layer in convolutions(network)]
    assert {side: sizes.count((side, side)) for side, _ in sizes} == (
        numbers.convolutions
    )
    assert not any(layer.use_bias for layer in convolutions(network))
    maps = {name: network.get_layer(name).output.shape[1] for name in numbers.maps}
    assert maps == numbers.maps


def test_width_multiplies_the_channels(published):
    network, _ = published
    narrow = build(network.name, (32, 32, 3), width=0.25, dropout=0.0)
    assert len(convolutions(narrow)) == len(convolutions(network))
    for thin, full in zip(convolutions(narrow), convolutions(network), strict=True):
        assert thin.filters == full.filters / 4
    assert narrow.output.shape[1] == network.output.shape[1] / 4


@pytest.mark.parametrize("name", NETWORKS)
def test_any_size_and_number_type_passes(name, rng):
    model = build_classifier(name, (None, None, 3), 3, width=0.05)
    for size in (9, 33):
        image = rng.integers(0, 256, size=(2, size, size, 3)).astype(np.uint8)
        assert model(image).shape == (2, 3)
        np.testing.assert_array_equal(model(image), model(image.astype(np.float32)))


def test_unknown_backbone_is_an_error():
    with pytest.raises(PmalError, match=r"oscri.*Received: backbone='vgg'"):
        build_classifier("vgg", (8, 8, 3), 4)


def test_head_adds_a_kernel_and_a_bias():
    classifier = build_classifier("oscri", (32, 32, 3), 6)
    assert trainable_count(classifier) == 999_104 + 128 * 6 + 6


def test_stride_2_pads_every_side():
    # A convolution of ones sees 4 pixels of an image of ones at each padded corner of
    # the first group, and at stride 2 only the top left corner is padded by it.
    model = build("oscri", (4, 4, 3), width=1 / 64)
    model.get_layer("conv_3").set_weights([np.ones((3, 3, 1, 2), np.float32)])
    x = model.get_layer("pad_3")(np.ones((1, 4, 4, 1), np.float32))
    x = model.get_layer("conv_3")(x)
    np.testing.assert_array_equal(x[0, :, :, 0], [[4, 6], [6, 9]])


def test_layers_of_oscri_are_set_up_as_in_the_field():
    model = build("oscri", (32, 32, 3))
    norm, relu = model.get_layer("norm_1"), model.get_layer("relu_1")
    assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)
    assert relu.negative_slope == 0.2
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


def test_a_wide_block_without_change_of_shape_is_the_identity_plus_its_branch(rng):
    model = build("wrn_40_4", (8, 8, 3), width=0.1)
    # With the branch's last kernel at zero, a block passes its input on.
    kernel = model.get_layer("group_0_block_3_1_conv").kernel
    kernel.assign(np.zeros(kernel.shape))
    before = model.get_layer("group_0_block_2_add").output
    after = model.get_layer("group_0_block_3_add").output
    both = keras.Model(model.input, [before, after])
    image = rng.integers(0, 256, size=(2, 8, 8, 3)).astype(np.uint8)
    passed, through = both(image)
    np.testing.assert_array_equal(passed, through)


@pytest.mark.parametrize("rate", [0.3, 0.0])
def test_dropout_stands_between_the_convolutions_of_every_wide_block(rate):
    model = build("wrn_40_4", (8, 8, 3), width=0.1, dropout=rate)
    found = [x.rate for x in model.layers if isinstance(x, keras.layers.Dropout)]
    assert found == ([0.3] * 18 if rate else [])


@pytest.mark.parametrize("name", NETWORKS)
def test_the_dropout_that_is_read_without_loading_is_what_the_function_has(name):
    module = importlib.import_module(f"pmal_tf.backbones.architectures.{name}")
    parameters = inspect.signature(getattr(module, name)).parameters
    assert dropout_of(name) == parameters["dropout"].default


@pytest.mark.parametrize(
    ("name", "given", "rate"),
    [
        *(("oscri", -1, 0.2), ("wrn_40_4", -1, 0.0), ("resnet50", -1, 0.0)),
        *(("oscri", 0, 0), ("oscri", 0.3, 0.3), ("wrn_40_4", 0.2, 0.2)),
    ],
)
def test_dropout_is_the_backbones_own_unless_it_is_given(name, given, rate):
    assert NetworkSettings(backbone=name, dropout=given).dropout == rate


def test_a_share_of_dropout_cannot_be_negative():
    with pytest.raises(PmalError, match=r"`dropout` must.*or -1.*dropout=-0\.5"):
        NetworkSettings(dropout=-0.5)


@pytest.mark.parametrize(
    "source",
    [
        "def other(input_shape, *, width=1.0, dropout=0.1): ...",
        "def mine(input_shape, *, width=1.0): ...",
        "def mine(input_shape, *, width=1.0, dropout): ...",
        "def mine(input_shape, *, width=1.0, dropout=_RATE): ...",
    ],
)
def test_a_backbone_that_declares_no_dropout_is_told(source, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(source)
    monkeypatch.setattr(architectures, "__path__", [str(tmp_path)])
    with pytest.raises(PmalError, match=r"keyword `dropout`.*Received: .*mine\.py"):
        dropout_of("mine")


def test_resnet_refuses_dropout():
    with pytest.raises(PmalError, match=r"--dropout=0"):
        build("resnet50", (32, 32, 3), dropout=0.2)
