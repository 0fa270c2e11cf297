"""The SavedModel says what the Keras model says, and `unknown`."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
from pmal_tf.data.resize import resize_images
from pmal_tf.errors import PmalError
from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.serving.export import export_saved_model, is_intact
from pmal_tf.training.model import PMALModel

CLASSES = ("cat", "dog", "ship")
IDS = np.array([["train_1", "train_2"], ["train_3", "train_4"], ["train_5", ""]])


@pytest.fixture(scope="module")
def prototypes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(3, 2, 8, 8, 3)).astype(np.uint8)
    return Prototypes(images, IDS != "", IDS, np.ones(IDS.shape))


@pytest.fixture(scope="module")
def model(prototypes):
    keras.utils.set_random_seed(0)
    model = PMALModel(
        embedding_and_logits(build_classifier("oscri", (8, 8, 3), 3, width=0.1)), 2
    )
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    return model


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, size=(9, 8, 8, 3)).astype(np.float32)


def export(model, prototypes, folder, threshold):
    export_saved_model(
        model,
        folder,
        prototypes,
        class_names=CLASSES,
        threshold=threshold,
        metadata={"trial": 0},
    )
    return tf.saved_model.load(str(folder))


@pytest.fixture(scope="module")
def threshold(model, images):
    """Half of the images score above it."""
    return float(np.median(model.score(images)))


@pytest.fixture(scope="module")
def loaded(model, prototypes, threshold, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "trial_0" / "1"
    return export(model, prototypes, folder, threshold)


def serve(loaded, images, signature="serving_default"):
    outputs = loaded.signatures[signature](images=tf.constant(images, tf.float32))
    return {name: value.numpy() for name, value in outputs.items()}


def test_signatures_and_outputs_are_named_and_typed(loaded, images):
    assert set(loaded.signatures) == {"serving_default", "serving_images"}
    (_, inputs) = loaded.signatures["serving_images"].structured_input_signature
    assert inputs["images"].shape.as_list() == [None, None, None, 3]
    assert inputs["images"].dtype == tf.float32
    outputs = loaded.signatures["serving_images"](images=tf.constant(images))
    assert {name: value.dtype for name, value in outputs.items()} == {
        "class_id": tf.int64,
        "class_name": tf.string,
        "is_unknown": tf.bool,
        "unknown_score": tf.float32,
        "distance": tf.float32,
        "probabilities": tf.float32,
        "nearest_prototype": tf.string,
    }


def test_served_answers_are_the_model_s(loaded, model, images, threshold):
    served, expected = serve(loaded, images), model.outputs(images)
    np.testing.assert_allclose(served["distance"], expected["distance"], atol=1e-6)
    np.testing.assert_allclose(served["unknown_score"], model.score(images), atol=1e-6)
    odds = np.exp(expected["logits"])
    odds /= odds.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(served["probabilities"], odds, atol=1e-6)
    np.testing.assert_array_equal(
        served["is_unknown"], served["unknown_score"] > np.float32(threshold)
    )
    # About half are rejected, so both branches are seen here.
    assert 0 < served["is_unknown"].sum() < len(images)
    predicted = np.where(served["is_unknown"], -1, expected["logits"].argmax(axis=1))
    np.testing.assert_array_equal(served["class_id"], predicted)
    names = [(*CLASSES, "unknown")[k] for k in predicted]
    assert [name.decode() for name in served["class_name"]] == names


def test_nearest_prototype_is_the_one_attended_to_most(loaded, model, prototypes):
    images = prototypes.image[IDS != ""].astype(np.float32)
    served = serve(loaded, images)
    embedding = model.outputs(images)["embedding"]
    bank, mask = model.bank.numpy(), model.bank_mask.numpy()
    nearest = served["distance"].argmin(axis=1)
    for row, k in enumerate(nearest):
        similarity = np.where(mask[k], bank[k] @ embedding[row], -np.inf)
        assert served["nearest_prototype"][row].decode() == IDS[k][similarity.argmax()]


def test_other_sizes_are_resized_as_in_training(loaded, images):
    large = tf.repeat(tf.repeat(images, 3, axis=1), 2, axis=2)
    small = resize_images(large, 8)
    one, other = serve(loaded, large), serve(loaded, small)
    np.testing.assert_allclose(one["distance"], other["distance"], atol=1e-6)


def test_one_image_gets_the_answer_it_gets_in_a_batch(loaded, images):
    one, all_of_them = serve(loaded, images[:1]), serve(loaded, images)
    np.testing.assert_allclose(
        one["unknown_score"], all_of_them["unknown_score"][:1], atol=1e-6
    )


def test_metadata_stands_beside_the_model(model, prototypes, tmp_path):
    export(model, prototypes, tmp_path / "1", 0.25)
    metadata = json.loads((tmp_path / "1" / "metadata.json").read_text())
    assert metadata.pop("sha256")
    assert metadata == {
        "class_names": list(CLASSES),
        "rule": "dr",
        "threshold": 0.25,
        "trial": 0,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_an_export_that_was_touched_is_not_intact(model, prototypes, tmp_path):
    assert not is_intact(tmp_path / "1")
    export(model, prototypes, tmp_path / "1", 0.25)
    assert is_intact(tmp_path / "1")
    variables = tmp_path / "1" / "variables" / "variables.index"
    variables.write_bytes(variables.read_bytes() + b" ")
    assert not is_intact(tmp_path / "1")


def test_padding_is_never_the_nearest_prototype(prototypes, tmp_path):
    # z is the mean colour. Class 2's one prototype points away from the image, and the
    # zeros that pad it would be more similar; the other classes lie opposite.
    image = keras.Input((8, 8, 3))
    z = keras.layers.GlobalAveragePooling2D()(image)
    classifier = keras.Model(image, keras.layers.Dense(3)(z))
    model = PMALModel(embedding_and_logits(classifier), 2)
    colours = np.array([[-200, -200, -200], [-200, -200, -200], [50, -80, 20]])
    images = np.ones((3, 2, 8, 8, 3), np.float32) * colours[:, None, None, None]
    model.refresh_prototypes(images, prototypes.mask)
    query = np.full((1, 8, 8, 3), 100, np.float32)
    served = serve(export(model, prototypes, tmp_path / "1", 0.5), query)
    assert served["distance"].argmin() == 2
    assert served["nearest_prototype"].tolist() == [b"train_5"]


def test_a_version_is_never_overwritten(model, prototypes, tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(PmalError, match="never overwritten"):
        export(model, prototypes, tmp_path / "1", 0.5)


def test_names_that_do_not_fit_and_an_empty_bank_are_errors(
    model, prototypes, tmp_path
):
    with pytest.raises(PmalError, match="3 known classes"):
        export_saved_model(
            model, tmp_path / "1", prototypes, class_names="ab", threshold=0.5
        )
    empty = PMALModel(model.network, 2)
    with pytest.raises(PmalError, match="refresh_prototypes"):
        export(empty, prototypes, tmp_path / "1", 0.5)
    assert not list(tmp_path.iterdir())
