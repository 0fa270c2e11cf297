"""Classifiers that start from another model: what they take over, what is refused."""

import keras
import numpy as np
import pytest

from pmal_tf.backbones.build import check_initial_model, classifier_from
from pmal_tf.backbones.classifier import (
    build_classifier,
    embedding_and_logits,
    linear_head,
)
from pmal_tf.runtime.errors import PmalError

layers = keras.layers


def trunk_layers():
    return [
        layers.Rescaling(1 / 255),
        layers.Conv2D(6, 3, padding="same", activation="relu"),
        layers.BatchNormalization(name="norm"),
        layers.GlobalAveragePooling2D(),
    ]


def draw_statistics(model):
    """Gives the BatchNorm statistics as training would leave."""
    norm = model.get_layer("norm")
    norm.moving_mean.assign(np.linspace(-0.2, 0.3, 6))
    norm.moving_variance.assign(np.linspace(0.5, 1.5, 6))


def functional(size=8, head=None):
    image = keras.Input((size, size, 3))
    x = image
    for layer in trunk_layers():
        x = layer(x)
    model = keras.Model(image, (head or layers.Dense(4))(x), name="functional")
    draw_statistics(model)
    return model


def sequential():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), *trunk_layers(), layers.Dropout(0.5), layers.Dense(4)]
    )
    draw_statistics(model)
    return model


def nested():
    inner = functional(None, head=layers.Dense(7))
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.Dense(4)(layers.Activation("tanh")(inner(image))))


MODELS = {"functional": functional, "sequential": sequential, "nested": nested}


def before_the_head(model, images):
    return keras.Model(model.inputs[0], model.layers[-1].input)(images).numpy()


@pytest.fixture(params=MODELS)
def model(request):
    keras.utils.set_random_seed(1)
    return MODELS[request.param]()


def test_embeddings_are_what_the_old_head_got(model, images):
    classifier = classifier_from(model, (8, 8, 3), 3)
    outputs = embedding_and_logits(classifier)(images)
    expected = before_the_head(model, images)
    assert expected.std() > 0
    np.testing.assert_array_equal(outputs["embedding"], expected)
    head = linear_head(classifier)
    np.testing.assert_allclose(
        outputs["logits"], expected @ head.kernel.numpy() + head.bias.numpy(), atol=1e-6
    )
    assert classifier.output.shape == (None, 3)
    assert classifier.output.dtype == "float32"


def test_only_the_head_depends_on_the_seed(model):
    found = []
    for seed in (0, 1, 0):
        keras.utils.set_random_seed(seed)
        found.append(classifier_from(model, (8, 8, 3), 4).get_weights())
    for one, other, again in zip(*found, strict=True):
        np.testing.assert_array_equal(one, again)
        # The new kernel is [D, 4], as the old one was; its bias is zero.
        assert np.array_equal(one, other) == (one is not found[0][-2])
    *trunk, _kernel, bias = found[0]
    old = model.get_weights()
    for one, other in zip(trunk, old[:-2], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not bias.any()
    assert not np.array_equal(found[0][-2], old[-2])


def test_nothing_is_shared(model, images):
    before = before_the_head(model, images)
    one, other = (classifier_from(model, (8, 8, 3), 3) for _ in range(2))
    for weight in one.weights:
        weight.assign(keras.ops.zeros_like(weight))
    for untouched in (model, other):
        np.testing.assert_array_equal(before_the_head(untouched, images), before)


@pytest.mark.parametrize(
    ("make", "policy", "half", "full"),
    [
        (functional, "mixed_bfloat16", "bfloat16", "float32"),
        (sequential, "mixed_float16", "float16", "float32"),
        (nested, "float64", "float64", "float64"),
    ],
)
def test_it_computes_in_the_precision_in_use(
    make, images, dtype_policy, policy, half, full
):
    model = make()
    dtype_policy(policy)
    classifier = classifier_from(model, (8, 8, 3), 3, embedding_dropout=0.5)
    dtypes = {
        layer.compute_dtype
        for layer in classifier._flatten_layers()
        if isinstance(layer, layers.Conv2D)
    }
    assert dtypes == {half}
    assert {weight.dtype for weight in classifier.weights} == {full}
    outputs = embedding_and_logits(classifier)(images)
    assert {value.dtype.name for value in outputs.values()} == {full}
    expected = before_the_head(model, images)
    np.testing.assert_allclose(
        outputs["embedding"], expected, atol=0.05 * np.abs(expected).max()
    )
    assert not np.array_equal(outputs["embedding"], expected)


def test_an_embedding_from_a_layer_with_weights_is_cast_up(images, dtype_policy):
    image = keras.Input((8, 8, 3))
    x = layers.Dense(6)(layers.Flatten()(image))
    old = keras.Model(image, layers.Dense(4)(x))
    dtype_policy("mixed_bfloat16")
    classifier = classifier_from(old, (8, 8, 3), 3)
    assert linear_head(classifier).input.dtype == "float32"
    assert classifier.layers[-3].compute_dtype == "bfloat16"
    # And back: what was in mixed precision computes in full.
    dtype_policy("float32")
    again = classifier_from(classifier, (8, 8, 3), 3)
    assert {layer.compute_dtype for layer in again.layers} == {"float32"}
    names = [layer.name for layer in classifier_from(old, (8, 8, 3), 3).layers]
    assert "full_precision" not in names


def test_frozen_layers_stay_frozen(images):
    keras.utils.set_random_seed(0)
    old = nested()
    inner = old.get_layer("functional")
    for layer in inner.layers[:-1]:
        layer.trainable = False
    classifier = classifier_from(old, (8, 8, 3), 3)
    names = [variable.name for variable in classifier.trainable_variables]
    assert names == ["kernel", "bias"] * 2  # Of the inner head, and of the new one.
    statistics = classifier.get_layer("functional").get_layer("norm").moving_mean
    before = statistics.numpy()
    classifier(images, training=True)
    np.testing.assert_array_equal(statistics, before)


def test_dropout_on_the_embedding(model, images):
    classifier = classifier_from(model, (8, 8, 3), 3, embedding_dropout=0.9)
    network = embedding_and_logits(classifier)
    alone = network(images, training=False)["embedding"].numpy()
    np.testing.assert_array_equal(alone, before_the_head(model, images))
    dropped = network(images, training=True)["embedding"].numpy()
    assert (dropped[alone != 0] == 0).mean() > 0.6
    assert classifier.layers[-2].rate == 0.9


def test_the_size_of_the_images_is_that_of_the_network(images):
    """A served model resizes images to the size that it was trained at."""
    check_initial_model(functional(16), (None, None, 3))
    old = functional(None)
    classifier = classifier_from(old, (8, 8, 3), 3)
    assert classifier.input.shape == (None, 8, 8, 3)
    batch_of_two = keras.Input((8, 8, 3), batch_size=2)
    fixed = keras.Model(batch_of_two, old(batch_of_two))
    with pytest.raises(PmalError, match="last layer functional"):
        check_initial_model(fixed, (8, 8, 3))
    head = layers.Dense(4)(layers.GlobalAveragePooling2D()(batch_of_two))
    fixed = keras.Model(batch_of_two, head)
    assert classifier_from(fixed, (8, 8, 3), 3)(images).shape == (9, 3)


def test_a_classifier_of_this_package_can_be_started_from_again(images, tmp_path):
    """Names of its layers are those of the new ones."""
    old = build_classifier("oscri", (8, 8, 3), 4, width=0.1, embedding_dropout=0.5)
    for _ in range(2):
        old = classifier_from(old, (8, 8, 3), 3, embedding_dropout=0.5)
        old.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(images), old(images))
        old = loaded
    rates = [layer.name for layer in old.layers if "embedding_dropout" in layer.name]
    assert rates == [
        "initial_embedding_dropout",
        "initial_initial_embedding_dropout",
        "embedding_dropout",
    ]


def two_inputs():
    images = [keras.Input((8, 8, 3)), keras.Input((8, 8, 3))]
    x = layers.GlobalAveragePooling2D()(layers.Add()(images))
    return keras.Model(images, layers.Dense(4)(x))


def two_outputs():
    image = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(image)
    return keras.Model(image, [layers.Dense(4)(x), x])


def of_shape(*shape):
    image = keras.Input(shape)
    return keras.Model(image, layers.Dense(4)(layers.Flatten()(image)))


def scaled_output():
    image = keras.Input((8, 8, 3))
    return keras.Model(
        image, 2.0 * layers.Dense(4)(layers.GlobalAveragePooling2D()(image))
    )


def without_pooling():
    image = keras.Input((8, 8, 3))
    return keras.Model(image, layers.Dense(4)(image))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = layers.Dense(4)

    def call(self, image):
        return self.head(image)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (two_inputs, r"one input.*\[batch, 8, 8, 3\] and \[batch, 8, 8, 3\]"),
        (two_outputs, r"one output is that of its last layer.*with output \[batch, 4]"),
        (lambda: of_shape(8, 8, 1), r"RGB images.*with input \[batch, 8, 8, 1\]"),
        (lambda: of_shape(8, 8), r"RGB images.*with input \[batch, 8, 8\]"),
        (lambda: of_shape(3, 8, 8), r"RGB images.*with input \[batch, 3, 8, 8\]"),
        (lambda: functional(16), r"8 x 8 pixels.*for 16 x 16\. Set --image_size to"),
        (scaled_output, r"one output is that of its last layer"),
        (without_pooling, r"makes \[batch, 8, 8, 4\] from \[batch, 8, 8, 3\].*Pool be"),
        (
            lambda: functional(head=layers.Dense(4, activation="softmax")),
            r"linear.*Received: last layer.*`classifier_activation=None`",
        ),
        (
            lambda: functional(head=layers.Softmax()),
            r"linear `keras.layers.Dense`.*Received: last layer softmax \(Softmax\)",
        ),
        (Subclassed, r"functional or sequential.*\(Subclassed\)\. Build it with"),
        (
            lambda: keras.Sequential([layers.Flatten(), layers.Dense(4)]),
            r"functional or sequential.*\(Sequential\)",
        ),
    ],
)
def test_other_models_are_refused(make, message):
    with pytest.raises(PmalError, match=f"`init_weights` .*{message}"):
        classifier_from(make(), (8, 8, 3), 3)


def test_layers_that_cannot_be_built_for_the_images_are_told():
    image = keras.Input((None, None, 3))
    x = layers.Conv2D(2, 5, padding="valid")(image)
    old = keras.Model(image, layers.Dense(4)(layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(
        PmalError, match=r"images of shape \(4, 4, 3\)\. Received: func"
    ):
        classifier_from(old, (4, 4, 3), 3)
