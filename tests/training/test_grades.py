"""The cheaper grades: which prototypes are embedded when, and what the others are."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_classifier import tiny_classifier, tiny_pipeline

import pmal_tf
from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.data.batches.pipeline import ONE_REPLICA, TrainingPipeline
from pmal_tf.methods.pmal.losses import prototype_loss
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.optimize_stage import fit_pmal
from pmal_tf.methods.pmal.prototypes import Prototypes, PrototypeSchedule
from pmal_tf.mining.distances import attention_to_set
from pmal_tf.runtime.errors import PmalError
from pmal_tf.training import checkpoints, fit
from pmal_tf.training.fit import StageRecords
from pmal_tf.training.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=3e-3, schedule="constant")


@pytest.fixture
def pipeline():
    return tiny_pipeline(28, augment=False)


@pytest.fixture
def prototypes(pipeline):
    selection = [np.array([0, 3]), np.array([1, 4]), np.array([2])]
    ids = pipeline.example_id
    return Prototypes.from_selection(selection, pipeline.image, ids, np.ones(28))


def linear_model(mode, **options):
    """z = a linear map of the pixels, so that passes do not depend on each other."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    scaled = keras.layers.Rescaling(1 / 255)(image)
    z = keras.layers.Dense(4, name="embedding")(keras.layers.Flatten()(scaled))
    logits = keras.layers.Dense(3, name="logits")(z)
    network = embedding_and_logits(keras.Model(image, logits))
    model = PMALModel(network, 2, prototype_mode=mode, margin=1.0, **options)
    model.compile(optimizer=keras.optimizers.SGD(0.1))
    return model


def batches(pipeline, prototypes, mode, every=1, size=2):
    schedule = PrototypeSchedule.of_mode(mode, every, size)
    stream = pipeline.batches(0, 4)
    return iter(prototypes.attach(stream, pipeline.example_id, schedule))


def embedded(model, prototypes):
    flat = prototypes.image.reshape(-1, 8, 8, 3)
    return model.network(flat)["embedding"].numpy().reshape(3, 2, 4)


def test_a_step_of_the_bank_embeds_its_slice_and_leaves_the_rest(pipeline, prototypes):
    model = linear_model("bank")
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    stale = model.prototype_embeddings.numpy()
    stream = batches(pipeline, prototypes, "bank")
    # In turn: the first of classes 0 and 1, then of class 2 and the second of 0.
    for slice_of_step in ([(0, 0), (1, 0)], [(2, 0), (0, 1)]):
        now = embedded(model, prototypes)
        features, label = next(stream)
        expected = stale.copy()
        for place in slice_of_step:
            expected[place] = now[place]
        mask = prototypes.mask & (
            features["example_index"].numpy()[:, None, None]
            != features["prototype_index"].numpy()
        )
        z = model.network(features["image"])["embedding"]
        distance, _ = attention_to_set(z, expected, mask)
        loss, *_ = prototype_loss(distance, label, mask.any(-1), 1.0)
        model.reset_metrics()
        logs = model.train_step((features, label))
        np.testing.assert_allclose(logs["prototype_loss"], np.mean(loss), rtol=1e-5)
        np.testing.assert_allclose(model.prototype_embeddings, expected, atol=1e-6)
        stale = expected


def test_gradient_flows_through_the_slice_only(pipeline, prototypes):
    """Against finite differences with the other prototypes held still."""
    model = linear_model("bank", prototype_weight=5.0)
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    stale = model.prototype_embeddings.numpy()
    features, label = next(batches(pipeline, prototypes, "bank"))
    kernel = model.network.get_layer("embedding").kernel
    rng = np.random.default_rng(1)
    direction = rng.normal(size=kernel.shape).astype(np.float32)
    before, moved = kernel.numpy(), []
    for step in (1e-3, -1e-3):
        kernel.assign(before + step * direction)
        model.prototype_embeddings.assign(stale)
        moved.append(np.mean(model.loss_parts(features, label, training=False)["loss"]))
    kernel.assign(before)
    model.prototype_embeddings.assign(stale)
    slope = (moved[0] - moved[1]) / 2e-3
    model.train_step((features, label))
    taken = float(np.sum((before - kernel.numpy()) / 0.1 * direction))
    assert taken == pytest.approx(slope, rel=2e-2)
    # All prototypes with a gradient would have another slope.
    joint = linear_model("joint", prototype_weight=5.0)
    joint.train_step(next(batches(pipeline, prototypes, "joint")))
    kernel = joint.network.get_layer("embedding").kernel
    other = float(np.sum((before - kernel.numpy()) / 0.1 * direction))
    assert abs(other - slope) > 0.1 * abs(slope)


def test_inference_mode_embeds_all_every_so_many_steps(pipeline, prototypes):
    model = linear_model("inference")
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    stream = batches(pipeline, prototypes, "inference", every=2)
    for step in range(4):
        now, stale = embedded(model, prototypes), model.prototype_embeddings.numpy()
        model.train_step(next(stream))
        expected = now if step % 2 == 0 else stale
        np.testing.assert_allclose(
            model.prototype_embeddings.numpy()[prototypes.mask],
            expected[prototypes.mask],
            atol=1e-6,
        )


def test_evaluation_leaves_the_bank_alone(pipeline, prototypes):
    model = linear_model("bank")
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    model.train_step(next(batches(pipeline, prototypes, "bank")))
    stale = model.prototype_embeddings.numpy()
    model.test_step(next(batches(pipeline, prototypes, "bank")))
    np.testing.assert_array_equal(model.prototype_embeddings, stale)


def test_killed_training_goes_on_with_its_bank(
    pipeline, prototypes, tmp_path, monkeypatch
):
    """Killed where some prototypes stand as they were some steps ago."""
    monkeypatch.setattr(checkpoints, "_LEAST_SECONDS", 0.0)
    save = checkpoints.save_checkpoint
    schedule = PrototypeSchedule.of_mode("bank", every=4, size=2)

    def killed(model, folder, step):
        save(model, folder, step)
        if step == 5:
            raise KeyboardInterrupt

    def train(name, save_checkpoint):
        monkeypatch.setattr(checkpoints, "save_checkpoint", save_checkpoint)
        folder = tmp_path / name
        records = StageRecords("optimize", folder, folder / "metrics.jsonl", None, 1e-9)
        keras.utils.set_random_seed(3)
        model = PMALModel(
            embedding_and_logits(tiny_classifier()), 2, prototype_mode="bank"
        )
        options = {"seed": 1, "schedule": schedule, "records": records}
        fit_pmal(model, pipeline, prototypes, RECIPE, **options)
        return model.get_weights()

    with pytest.raises(KeyboardInterrupt):
        train("killed", killed)
    for one, other in zip(train("killed", save), train("whole", save), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_final_bank_is_embedded_afresh_and_saved(pipeline, prototypes, tmp_path):
    model = linear_model("bank")
    schedule = PrototypeSchedule.of_mode("bank", 1, 2)
    fit_pmal(model, pipeline, prototypes, RECIPE, seed=1, schedule=schedule)
    np.testing.assert_allclose(
        model.prototype_embeddings.numpy()[prototypes.mask],
        embedded(model, prototypes)[prototypes.mask],
        atol=1e-6,
    )
    model.save(tmp_path / "model.keras")
    loaded = pmal_tf.load_model(tmp_path / "model.keras")
    assert loaded.settings.prototype_mode == "bank"
    np.testing.assert_array_equal(
        loaded.prototype_embeddings, model.prototype_embeddings
    )


@pytest.mark.parametrize("mode", ["joint", "inference", "bank"])
def test_xla_takes_the_same_steps_of_every_grade(pipeline, prototypes, mode):
    weights = []
    for jit in (False, True):
        model = linear_model(mode)
        model.build_optimizers()
        model.refresh_prototypes(prototypes.image, prototypes.mask)
        step = tf.function(model.train_step, jit_compile=True)
        stream = batches(pipeline, prototypes, mode, every=2)
        for _ in range(6):
            (step if jit else model.train_step)(next(stream))
        weights.append(model.get_weights())
    for one, other in zip(*weights, strict=True):
        if one.dtype != bool:
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_prototypes_of_other_classes_are_an_error(pipeline, prototypes):
    model = linear_model("joint")
    swapped = dataclasses.replace(pipeline, label=2 - pipeline.label)
    with pytest.raises(PmalError, match=r"of another class there: \['0'.*3 in all"):
        fit_pmal(model, swapped, prototypes, RECIPE, seed=1)
    fewer = pipeline.label % 2
    with pytest.raises(
        PmalError, match="prototypes of 3 classes, training images of 2"
    ):
        prototypes.check_classes(pipeline.example_id, fewer)


def test_prototypes_are_found_among_named_images_in_any_order(rng, monkeypatch):
    """Or a prototype would be masked from another image's set, not from its own."""
    image = rng.integers(0, 256, size=(12, 8, 8, 3)).astype(np.uint8)
    names = np.array([f"photo_{n}" for n in rng.permutation(12)])
    pipeline = TrainingPipeline(image, np.arange(12) % 3, names, 4, 0, augment=False)
    selection = [np.array([3, 9]), np.array([1, 4]), np.array([8])]
    prototypes = Prototypes.from_selection(selection, image, names, np.ones(12))
    keras.utils.set_random_seed(0)
    model = PMALModel(embedding_and_logits(tiny_classifier()), 2)
    seen = []
    monkeypatch.setattr(
        fit, "train", lambda _model, batches, **_: seen.extend(batches(ONE_REPLICA))
    )
    fit_pmal(model, pipeline, prototypes, Recipe(epochs=1), seed=0)
    assert len(seen) == 3
    for features, _label in seen:
        index = features["prototype_index"].numpy()[prototypes.mask]
        np.testing.assert_array_equal(image[index], prototypes.image[prototypes.mask])
        # The same numbers tell which sample of the batch is which image.
        own = features["example_index"].numpy()
        np.testing.assert_array_equal(features["image"], image[own])
