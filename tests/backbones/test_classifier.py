"""Classifiers over a backbone: dropout on the embedding, and other precisions."""

import keras
import numpy as np
import pytest

from pmal_tf.backbones.classifier import (
    build_classifier,
    embedding_and_logits,
    head_weights,
    with_precision,
)
from pmal_tf.backbones.settings import backbone_names
from pmal_tf.methods.pmal.mine_stages import embed
from pmal_tf.runtime.errors import PmalError


@pytest.fixture(scope="module")
def classifier():
    keras.utils.set_random_seed(0)
    return build_classifier("oscri", (8, 8, 3), 3, width=0.15, dropout=0.0)


def test_dropout_on_the_embedding_is_for_training_only(images):
    model = build_classifier(
        *("oscri", (8, 8, 3), 3), width=0.15, dropout=0.0, embedding_dropout=0.5
    )
    network = embedding_and_logits(model)
    trained = network(images, training=True)["embedding"].numpy()
    outputs = network(images, training=False)
    alone = outputs["embedding"].numpy()
    kernel, bias = head_weights(model)
    np.testing.assert_allclose(outputs["logits"], alone @ kernel + bias, atol=1e-5)
    np.testing.assert_array_equal(outputs["logits"], model(images))
    # The embedding is what the head gets: half of it dropped, inference whole.
    assert 0.3 < (trained == 0).mean() < 0.8
    assert (alone == 0).mean() < 0.3


def test_a_classifier_without_a_linear_head_is_an_error():
    image = keras.Input((4,))
    soft = keras.Model(image, keras.layers.Dense(3, activation="softmax")(image))
    with pytest.raises(PmalError, match=r"linear.*Received: last layer"):
        embedding_and_logits(soft)


@pytest.mark.parametrize(
    ("backbone", "policy"),
    [
        *((name, "mixed_bfloat16") for name in backbone_names()),
        *(("oscri", policy) for policy in ("float32", "float64")),
    ],
)
def test_embeddings_and_logits_are_at_least_float32(
    backbone, policy, images, dtype_policy
):
    expected = "float64" if policy == "float64" else "float32"
    dtype_policy(policy)
    model = build_classifier(
        *(backbone, (8, 8, 3), 3), width=0.05, dropout=0.0, embedding_dropout=0.5
    )
    outputs = embedding_and_logits(model)(images)
    assert {value.dtype.name for value in outputs.values()} == {expected}
    assert {weight.dtype for weight in model.weights} == {expected}
    pinned = ("embedding", "embedding_dropout", "logits")
    assert {model.get_layer(name).compute_dtype for name in pinned} == {expected}
    convolution = next(x for x in model.layers if isinstance(x, keras.layers.Conv2D))
    assert convolution.compute_dtype == policy.removeprefix("mixed_")


def test_another_precision_is_that_of_a_model_trained_in_it(
    classifier, images, dtype_policy
):
    switched = with_precision(classifier, "mixed_bfloat16")
    dtype_policy("mixed_bfloat16")
    built = build_classifier("oscri", (8, 8, 3), 3, width=0.15, dropout=0.0)
    built.set_weights(classifier.get_weights())
    for ours, theirs in zip(switched.layers[1:], built.layers[1:], strict=True):
        assert ours.dtype_policy == theirs.dtype_policy
    np.testing.assert_array_equal(
        embed(switched, images).embedding, embed(built, images).embedding
    )


def nested_classifier():
    """Every kind of layer that is not easily copied."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    values = np.random.default_rng(1).normal(2.0, 3.0, (40, 8, 8, 3)).astype(np.float32)
    normalization = layers.Normalization(name="normalization")
    normalization.adapt(values)
    image = keras.Input((8, 8, 3), name="image")
    x = normalization(layers.Rescaling(1 / 255)(image))
    twice = layers.Conv2D(3, 3, padding="same", name="twice")
    x = twice(twice(x)) * 2.0 + 1.0
    inside = keras.Input((8, 8, 3))
    innermost = keras.Sequential(
        [
            layers.Conv2D(3, 1, activation="tanh"),
            layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.0, 2.0, 3.0]),
        ],
        name="innermost",
    )
    frozen = layers.BatchNormalization(trainable=False, name="frozen")
    # Branches of equal shapes, which a wrong order of weights would mix up.
    branches = [
        layers.Conv2D(3, 3, padding="same", use_bias=False)(innermost(inside))
        for _ in range(3)
    ]
    y = layers.Add()([branches[1], branches[0], branches[2]])
    y = layers.SpatialDropout2D(0.1, name="channels")(frozen(y))
    block = keras.Model(inside, layers.ReLU()(y), name="block")
    x = layers.BatchNormalization(name="norm")(block(block(x)))
    x = layers.TimeDistributed(layers.Conv1D(5, 3, name="rows"), name="each_row")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(0.1, name="drop")(x)
    model = keras.Model(image, layers.Dense(4, name="head")(x))
    draw = np.random.default_rng(2)
    for layer in (frozen, model.get_layer("norm")):
        layer.moving_mean.assign(draw.normal(size=3))
        layer.moving_variance.assign(draw.uniform(0.5, 2.0, 3))
    return model


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "float64"])
def test_every_kind_of_layer_is_copied_with_its_state(images, policy):
    model = nested_classifier()
    copy = with_precision(model, policy)
    expected, got = (
        embedding_and_logits(m)(images)["embedding"].numpy() for m in (model, copy)
    )
    share = {"float32": 0.0, "mixed_bfloat16": 0.1, "float64": 1e-5}[policy]
    np.testing.assert_allclose(got, expected, atol=share * np.abs(expected).max())
    assert np.array_equal(got, expected) == (policy == "float32")
    half = policy.removeprefix("mixed_")
    at_least = "float64" if policy == "float64" else "float32"
    block = copy.get_layer("block")
    within = {
        *(copy.get_layer("normalization"), copy.get_layer("twice")),
        *(block.get_layer("frozen"), block.get_layer("innermost").layers[0]),
        *(block.get_layer("channels"), copy.get_layer("each_row").layer),
    }
    assert {layer.compute_dtype for layer in within} == {half}
    after = {copy.get_layer(name).compute_dtype for name in ("pool", "drop", "head")}
    assert after == {at_least}
    trainable = [
        [(v.name, v.shape) for v in m.trainable_variables] for m in (copy, model)
    ]
    assert trainable[0] == trainable[1]
    assert not block.get_layer("frozen").trainable


def test_a_copy_shares_no_variable(images):
    model = nested_classifier()
    copy = with_precision(model, "float32")
    before = model(images).numpy()
    for variable in copy.variables:
        variable.assign(keras.ops.zeros_like(variable))
    np.testing.assert_array_equal(model(images), before)
    assert not {id(v) for v in copy.variables} & {id(v) for v in model.variables}


def test_a_copy_is_saved_and_loaded(images, tmp_path):
    copy = with_precision(nested_classifier(), "mixed_bfloat16")
    copy.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(images), copy(images))


def test_embeddings_on_disk_are_those_in_memory(classifier, images, tmp_path):
    path = tmp_path / "embedding.npy"
    written = embed(classifier, images, path=path)
    in_memory = embed(classifier, images)
    np.testing.assert_array_equal(np.load(path, mmap_mode="r"), in_memory.embedding)
    np.testing.assert_array_equal(written.kernel, in_memory.kernel)
    assert written.bias.shape == (3,)


def test_compiled_embeddings_are_the_same(classifier, images):
    plain, compiled = (
        embed(classifier, images, jit=jit).embedding for jit in (False, True)
    )
    np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)


def test_a_full_disk_is_told_before_it_is_written_to(
    classifier, images, tmp_path, monkeypatch
):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(PmalError, match=r"MiB of embeddings.*No space left.*Make room"):
        embed(classifier, images, path=tmp_path / "embedding.npy")
    assert not list(tmp_path.iterdir())
