"""PMALModel: one step against a hand-written one, and what Keras users expect."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import pmal_tf
from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.mining.distances import SetDistance, attention_to_set
from pmal_tf.runtime.distribution import open_strategy
from pmal_tf.runtime.errors import PmalError

NUM_CLASSES, WIDTH = 3, 2


@pytest.fixture
def linear_network():
    """z = a linear map of the pixels, without dropout or normalisation."""
    keras.utils.set_random_seed(0)
    image = keras.Input((2, 2, 3), name="image")
    z = keras.layers.Dense(4, name="embedding")(keras.layers.Flatten()(image))
    logits = keras.layers.Dense(NUM_CLASSES, dtype="float32", name="logits")(z)
    return embedding_and_logits(keras.Model(image, logits))


@pytest.fixture
def training(rng):
    image = rng.integers(0, 4, size=(8, 2, 2, 3)).astype(np.uint8)
    label = np.array([0, 1, 2, 0, 1, 2, 0, 1], np.int32)
    ids = np.arange(8).astype(str)
    selection = [np.array([0, 3]), np.array([1, 4]), np.array([2])]
    return image, label, Prototypes.from_selection(selection, image, ids, np.ones(8))


@pytest.fixture
def refreshed(linear_network, training):
    """A model as drawn, whose prototypes are embedded."""
    _, _, prototypes = training
    model = PMALModel(linear_network, WIDTH)
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    return model


def batches_of(training, batch_size=8):
    image, label, prototypes = training
    features = {"image": image, "example_index": np.arange(8)}
    dataset = tf.data.Dataset.from_tensor_slices((features, label))
    return prototypes.attach(dataset.batch(batch_size))


@contextlib.contextmanager
def dtype_policy(name):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def flat(images):
    return images.reshape(len(images), -1).astype(np.float64)


def loss_by_hand(
    weights, image, label, prototypes, margin, weight, sharpness=0.0, origin=0.0
):
    """Eq. 9 to 11 in NumPy, one sample at a time, sample 0 to 4 being prototypes."""
    kernel, bias, head, head_bias = weights
    own_position = {0: (0, 0), 3: (0, 1), 1: (1, 0), 4: (1, 1), 2: (2, 0)}

    def embed(images):
        return flat(images) @ kernel + bias

    z = embed(image)
    sets = [
        embed(images[mask]) - origin for images, mask in zip(*prototypes, strict=True)
    ]
    total = 0.0
    for i in range(len(z)):
        logits = z[i] @ head + head_bias
        total += np.log(np.exp(logits).sum()) - logits[label[i]]
        distance, from_origin = [], z[i] - origin
        for k, embedded in enumerate(sets):
            if own_position.get(i, (None,))[0] == k:
                embedded = np.delete(embedded, own_position[i][1], axis=0)
            if len(embedded) == 0:
                distance.append(None)
                continue
            scores = embedded @ from_origin / 2.0  # sqrt(D) = 2
            if sharpness:
                scores *= 2.0 * sharpness / np.linalg.norm(from_origin)
                scores /= np.linalg.norm(embedded, axis=1)
            attention = np.exp(scores)
            attended = attention / attention.sum() @ embedded
            cosine = from_origin @ attended
            cosine /= np.linalg.norm(from_origin) * np.linalg.norm(attended)
            distance.append(1.0 - cosine)
        own = distance.pop(label[i])
        if own is not None:
            total += weight * max(0.0, own - min(distance) + margin)
    return total / len(z)


def numeric_gradient(function, weights, step=1e-5):
    gradients = []
    for weight in weights:
        gradient = np.zeros_like(weight)
        for index in np.ndindex(*weight.shape):
            kept = weight[index]
            weight[index] = kept + step
            above = function()
            weight[index] = kept - step
            below = function()
            weight[index] = kept
            gradient[index] = (above - below) / (2 * step)
        gradients.append(gradient)
    return gradients


# Distances from the prototypes' mean, with an attention of unit vectors, and Eq. 11.
DISTANCES = pytest.mark.parametrize(
    "options", [{}, {"attention_sharpness": 5.0, "centre_embeddings": True}], ids=str
)


@DISTANCES
def test_train_step_is_a_gradient_step_on_eq_10(linear_network, training, options):
    image, label, prototypes = training
    settings = {"margin": 0.8, "prototype_weight": 0.7, **options}
    model = PMALModel(linear_network, WIDTH, **settings)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    weights = [w.numpy().astype(np.float64) for w in model.trainable_weights]
    sets = (prototypes.image, prototypes.mask)
    more = {"sharpness": options.get("attention_sharpness", 0.0)}
    if options:
        # Held still: no gradient flows into it.
        embedded = flat(prototypes.image[prototypes.mask]) @ weights[0] + weights[1]
        more["origin"] = embedded.mean(axis=0)

    def loss():
        return loss_by_hand(weights, image, label, sets, margin=0.8, weight=0.7, **more)

    expected_loss = loss()
    # Images and prototypes share the weights, so this is the joint gradient.
    gradients = numeric_gradient(loss, weights)
    logs = model.train_step(next(iter(batches_of(training))))
    assert float(logs["loss"]) == pytest.approx(expected_loss, rel=1e-5)
    assert float(logs["prototype_loss"]) > 0
    for variable, weight, gradient in zip(
        model.trainable_weights, weights, gradients, strict=True
    ):
        np.testing.assert_allclose(variable, weight - 0.1 * gradient, atol=1e-5)


def test_stopped_gradient_leaves_the_prototypes_out(linear_network, training):
    steps = {}
    for flows in (True, False):
        network = keras.models.clone_model(linear_network)
        network.set_weights(linear_network.get_weights())
        model = PMALModel(network, WIDTH, prototype_gradient=flows)
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        model.train_step(next(iter(batches_of(training))))
        steps[flows] = network.get_weights()
    assert not np.allclose(steps[True][0], steps[False][0])
    # Without a gradient through them the loss is the same function of the samples: the
    # head, which prototypes do not reach, takes the same step.
    np.testing.assert_allclose(steps[True][2], steps[False][2], atol=1e-6)


def test_inference_mode_leaves_batch_statistics_to_the_batch(training):
    image, _label, _prototypes = training
    moved = {}
    for mode in ("joint", "inference"):
        keras.utils.set_random_seed(0)
        classifier = build_classifier(
            "oscri", (2, 2, 3), NUM_CLASSES, width=0.05, dropout=0.0
        )
        model = PMALModel(embedding_and_logits(classifier), WIDTH, prototype_mode=mode)
        model.compile(optimizer=keras.optimizers.SGD(0.0))
        model.train_step(next(iter(batches_of(training))))
        norm = next(layer for layer in classifier.layers if layer.name == "norm_1")
        moved[mode] = norm.moving_mean.numpy()
    keras.utils.set_random_seed(0)
    alone = build_classifier("oscri", (2, 2, 3), NUM_CLASSES, width=0.05, dropout=0.0)
    alone(image, training=True)
    expected = alone.get_layer("norm_1").moving_mean.numpy()
    np.testing.assert_allclose(moved["inference"], expected, atol=1e-7)
    assert not np.allclose(moved["joint"], expected)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_takes_the_same_step(policy, rng):
    image = rng.integers(0, 256, size=(8, 8, 8, 3)).astype(np.uint8)
    label = np.array([0, 1, 2, 0, 1, 2, 0, 1], np.int32)
    selection = [np.array([0, 3]), np.array([1, 4]), np.array([2, 5])]
    prototypes = Prototypes.from_selection(
        selection, image, np.arange(8).astype(str), np.ones(8)
    )
    change = {}
    for name in ("float32", policy):
        with dtype_policy(name):
            keras.utils.set_random_seed(0)
            classifier = build_classifier("oscri", (8, 8, 3), 3, width=0.1, dropout=0.0)
            model = PMALModel(embedding_and_logits(classifier), WIDTH)
            model.compile(optimizer=keras.optimizers.SGD(0.1))
            start = [w.numpy() for w in model.trainable_weights]
            # Loss scaling skips steps whose gradients overflow and halves the scale.
            batch = next(iter(batches_of((image, label, prototypes))))
            for _ in range(12):
                model.train_step(batch)
                if (model.trainable_weights[-1].numpy() != start[-1]).any():
                    break
        assert model.prototype_embeddings.dtype == "float32"
        change[name] = np.concatenate(
            [
                (w.numpy() - s).ravel()
                for w, s in zip(model.trainable_weights, start, strict=True)
            ]
        )
    # Without loss scaling, float16's change would be 30,000 times too small.
    ratio = np.linalg.norm(change[policy]) / np.linalg.norm(change["float32"])
    assert 0.9 < ratio < 1.1
    assert np.corrcoef(change[policy], change["float32"])[0, 1] > 0.95


@DISTANCES
def test_two_replicas_take_the_step_of_one(linear_network, training, options):
    """Per-example losses over the global batch: gradients of replicas add up."""
    alone = PMALModel(linear_network, WIDTH, **options)
    alone.compile(optimizer=keras.optimizers.SGD(0.1))
    start = linear_network.get_weights()
    batch = next(iter(batches_of(training)))
    alone.train_step(batch)
    expected = linear_network.get_weights()

    strategy = open_strategy("mirrored", worker_timeout_seconds=1)
    with strategy.scope():
        network = keras.models.clone_model(linear_network)
        network.set_weights(start)
        model = PMALModel(network, WIDTH, **options)
        model.compile(optimizer=keras.optimizers.SGD(0.1))
        model.optimizer.build(model.trainable_variables)
    features, labels = batch

    def half(context):
        """Half of the batch, and every other prototype."""
        replica = context.replica_id_in_sync_group
        rows = slice(4 * replica, 4 * replica + 4)
        cut = {name: features[name][rows] for name in ("image", "example_index")}
        for name in ("prototype_image", "prototype_slot"):
            cut[name] = features[name][replica::2]
        return {**features, **cut}, labels[rows]

    halves = strategy.experimental_distribute_values_from_function(half)
    run = tf.function(lambda data: strategy.run(model.train_step, args=(data,)))
    run(halves)
    for value, wanted in zip(network.get_weights(), expected, strict=True):
        np.testing.assert_allclose(value, wanted, atol=1e-6)


def test_compile_fit_evaluate_predict_work_as_keras_users_expect(
    linear_network, training
):
    image, _label, prototypes = training
    model = PMALModel(linear_network, WIDTH)
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    dataset = batches_of(training, batch_size=3)
    history = model.fit(dataset, epochs=12, verbose=0, shuffle=False).history
    assert set(history) == {
        *("loss", "classification_loss", "prototype_loss", "accuracy"),
        *("attention_entropy", "active_hinges", "own_distance"),
        "nearest_other_distance",
    }
    assert history["loss"][-1] < history["loss"][0]
    assert set(model.evaluate(dataset, verbose=0, return_dict=True)) >= {"accuracy"}
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    outputs = model.predict(image, verbose=0)
    np.testing.assert_allclose(
        outputs["distance"], model.outputs(image)["distance"], atol=1e-6
    )
    np.testing.assert_array_equal(model.score(image), outputs["distance"].min(axis=1))


def test_sample_weights_and_regularisers_count(linear_network, training):
    plain = PMALModel(linear_network, WIDTH)
    plain.compile(optimizer=keras.optimizers.SGD(0.1))
    (features, label) = next(iter(batches_of(training)))
    start = linear_network.get_weights()
    plain.train_step((features, label, tf.zeros(8)))
    for weight, before in zip(linear_network.get_weights(), start, strict=True):
        np.testing.assert_array_equal(weight, before)
    head = linear_network.get_layer("logits")
    head.kernel_regularizer = keras.regularizers.L2(0.5)
    head.kernel.regularizer = head.kernel_regularizer
    plain.train_step((features, label, tf.zeros(8)))
    # The gradient of 0.5 |W|^2 is W.
    np.testing.assert_allclose(head.kernel, 0.9 * start[2], atol=1e-6)


@pytest.fixture
def trained_oscri(rng):
    """A network with dropout, whose BatchNorm statistics are not those of a batch."""
    keras.utils.set_random_seed(0)
    classifier = build_classifier("oscri", (16, 16, 3), 3, width=0.1, dropout=0.5)
    for _ in range(3):
        classifier(rng.integers(0, 256, size=(8, 16, 16, 3)), training=True)
    return embedding_and_logits(classifier)


def test_inference_paths_use_no_batch_statistics_and_no_dropout(trained_oscri, rng):
    image = rng.integers(0, 256, size=(6, 16, 16, 3)).astype(np.uint8)
    selection = [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])]
    ids = np.arange(6).astype(str)
    prototypes = Prototypes.from_selection(selection, image, ids, np.ones(6))
    model = PMALModel(trained_oscri, WIDTH)
    model.compile(optimizer="sgd")
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    embedding = trained_oscri(image, training=False)["embedding"]
    np.testing.assert_allclose(
        tf.reshape(model.prototype_embeddings, (6, -1)), embedding, atol=1e-6
    )
    features = {"image": image, "example_index": np.arange(6)}
    label = np.array([0, 0, 1, 1, 2, 2])
    dataset = tf.data.Dataset.from_tensor_slices((features, label)).batch(6)
    logs = model.evaluate(prototypes.attach(dataset), verbose=0, return_dict=True)
    logits = trained_oscri(image, training=False)["logits"].numpy()
    expected = -tf.nn.log_softmax(logits).numpy()[np.arange(6), label].mean()
    assert logs["classification_loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_does_not_round_the_bank_or_the_distances(policy, rng):
    image = rng.integers(0, 256, size=(6, 16, 16, 3)).astype(np.uint8)
    with dtype_policy(policy):
        keras.utils.set_random_seed(0)
        classifier = build_classifier("oscri", (16, 16, 3), 3, width=0.2)
        model = PMALModel(embedding_and_logits(classifier), WIDTH)
    model.refresh_prototypes(image.reshape(3, 2, 16, 16, 3), np.ones((3, 2), bool))
    outputs = model.outputs(image)
    exact, _ = attention_to_set(
        outputs["embedding"], model.prototype_embeddings.numpy(), np.ones((3, 2), bool)
    )
    np.testing.assert_allclose(outputs["distance"], exact, atol=1e-6)


def test_padding_of_the_prototypes_is_masked(refreshed, training):
    image, _label, prototypes = training
    np.testing.assert_array_equal(refreshed.prototype_mask.numpy(), prototypes.mask)
    assert not prototypes.mask.all()
    outputs = refreshed.outputs(image)
    embedded = refreshed.prototype_embeddings.numpy()
    exact, _ = attention_to_set(outputs["embedding"], embedded, prototypes.mask)
    np.testing.assert_allclose(outputs["distance"], exact, atol=1e-6)
    # Class 2 has one prototype, image 2: the attention can go nowhere else.
    assert outputs["distance"][2, 2] == pytest.approx(0.0, abs=1e-6)


def test_keras_file_holds_the_bank_and_needs_no_custom_objects(
    linear_network, training, tmp_path
):
    image, _label, prototypes = training
    model = PMALModel(linear_network, WIDTH, margin=0.3, prototype_mode="inference")
    model.compile(optimizer=keras.optimizers.Adam(0.01))
    model.fit(batches_of(training), verbose=0, shuffle=False)
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    model.save(tmp_path / "model.keras")
    loaded = pmal_tf.load_model(tmp_path / "model.keras")
    assert isinstance(loaded, PMALModel)
    assert loaded.settings.margin == 0.3
    assert loaded.settings.prototype_mode == "inference"
    for name, value in model.outputs(image).items():
        np.testing.assert_array_equal(loaded.outputs(image)[name], value)


def test_batches_without_prototypes_are_an_error(linear_network, training):
    image, label, _prototypes = training
    model = PMALModel(linear_network, WIDTH)
    model.compile(optimizer="sgd")
    with pytest.raises(PmalError, match=r"prototypes.attach"):
        model.train_step((tf.constant(image), tf.constant(label)))


def test_bad_settings_are_errors(linear_network):
    with pytest.raises(PmalError, match="joint, inference, bank"):
        PMALModel(linear_network, WIDTH, prototype_mode="both")
    model = PMALModel(linear_network, WIDTH)
    with pytest.raises(PmalError, match=r"\(3, 2\)"):
        model.refresh_prototypes(np.zeros((3, 5, 2, 2, 3)), np.ones((3, 5), bool))
    image = keras.Input((2, 2, 3))
    one_class = keras.layers.Dense(1)(keras.layers.Flatten()(image))
    with pytest.raises(PmalError, match="at least 2 known classes"):
        PMALModel(embedding_and_logits(keras.Model(image, one_class)), WIDTH)


def test_missing_model_file_is_an_error(tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"PK\x03\x04 not a model")
    for name in ("absent.keras", "broken.keras"):
        with pytest.raises(PmalError, match=f"complete `.keras`.*{name}"):
            pmal_tf.load_model(tmp_path / name)


def test_a_step_tells_how_the_prototypes_work(linear_network, training):
    image, label, prototypes = training
    model = PMALModel(linear_network, WIDTH, margin=0.8)
    features, _ = next(iter(batches_of(training)))
    parts = model.loss_parts(features, tf.constant(label), training=False)
    kernel, bias = (w.numpy() for w in model.trainable_weights[:2])
    z = image.reshape(8, -1) @ kernel + bias
    embedded = prototypes.image.reshape(3, WIDTH, -1) @ kernel + bias
    for i in (5, 6, 7):  # Those that are no prototype themselves.
        own = embedded[label[i]][prototypes.mask[label[i]]]
        attention = np.exp(own @ z[i] / 2.0)
        attention /= attention.sum()
        entropy = -(attention * np.log(attention)).sum()
        assert float(parts["attention_entropy"][i]) == pytest.approx(entropy, abs=1e-4)
    hinge = parts["own_distance"] - parts["nearest_other_distance"] + 0.8
    # Sample 2 is the only prototype of its class: it has no own set.
    counted = np.arange(8) != 2
    np.testing.assert_allclose(
        parts["prototype_loss"].numpy()[counted],
        np.maximum(hinge, 0)[counted],
        atol=1e-6,
    )
    np.testing.assert_array_equal(
        parts["active_hinges"], parts["prototype_loss"].numpy() > 0
    )


def test_every_path_measures_by_the_model_s_settings(
    linear_network, training, tmp_path
):
    image, _, prototypes = training
    sets, chosen = (prototypes.image, prototypes.mask), SetDistance("attention", 9.0, 1)
    names = ("set_distance", "attention_sharpness", "centre_embeddings")
    options = dict(zip(names, ("attention", 9.0, True), strict=True))
    model = PMALModel(linear_network, WIDTH, **options)
    z = linear_network(image)["embedding"]
    embedded = linear_network(prototypes.image.reshape(6, 2, 2, 3))["embedding"]
    embedded = tf.reshape(embedded, (3, WIDTH, -1))
    wanted, weight = chosen(z, embedded, prototypes.mask)
    assert not np.allclose(wanted, SetDistance()(z, embedded, prototypes.mask)[0], 0.1)
    distance = [model.distance_to(image, *sets)]
    model.refresh_prototypes(*sets)
    model.save(tmp_path / "model.keras")
    loaded = pmal_tf.load_model(tmp_path / "model.keras")
    assert loaded.set_distance == chosen
    scorer = loaded.scorer(prototypes)
    assert scorer.facts() == {**options, "prototypes": 5}
    outputs = scorer.measure(linear_network(image))
    distance += [loaded.outputs(image)["distance"], outputs["distance"]]
    for found in distance:
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    for i, name in enumerate(scorer.nearest_prototype(outputs).numpy()):
        k = np.argmin(wanted[i])
        assert name.decode() == prototypes.example_id[k][np.argmax(weight[i, k])]
    with pytest.raises(PmalError, match="`attention_sharpness` must lie in"):
        PMALModel(linear_network, WIDTH, attention_sharpness=-1.0)


def test_the_nearest_prototype_can_stand_for_the_set(
    linear_network, refreshed, training
):
    image, _, prototypes = training
    nearest = PMALModel(linear_network, WIDTH, set_distance="nearest")
    nearest.refresh_prototypes(prototypes.image, prototypes.mask)
    outputs = nearest.outputs(image)
    assert not np.allclose(refreshed.outputs(image)["distance"], outputs["distance"])
    for i, k in np.ndindex(8, NUM_CLASSES):
        z = outputs["embedding"][i]
        embedded = nearest.prototype_embeddings.numpy()[k][prototypes.mask[k]]
        cosine = embedded @ z / np.linalg.norm(embedded, axis=1) / np.linalg.norm(z)
        assert outputs["distance"][i, k] == pytest.approx(1 - cosine.max(), abs=1e-5)
    again = PMALModel.from_config(nearest.get_config())
    assert again.settings.set_distance == "nearest"
    with pytest.raises(PmalError, match="`set_distance` must be one of"):
        PMALModel(linear_network, WIDTH, set_distance="median")


def test_distances_by_the_current_weights_keep_nothing(
    linear_network, refreshed, training
):
    image, _, prototypes = training
    model = PMALModel(linear_network, WIDTH)
    distance = model.distance_to(image, prototypes.image, prototypes.mask)
    assert not model.prototype_embeddings.numpy().any()
    wanted = refreshed.outputs(image)["distance"]
    np.testing.assert_allclose(distance, wanted, atol=1e-6)
