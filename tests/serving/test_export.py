"""The SavedModel says what the Keras model says, and `unknown`."""

import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_export import CLASSES, IDS, answers_of, export, serve

from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.data.decoding.decode import resize_images
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.mining.distances import attention_to_set
from pmal_tf.results.scores.registry import all_scores, get_score
from pmal_tf.runtime.errors import PmalError
from pmal_tf.serving import client
from pmal_tf.serving.export import _not_below, export_saved_model
from pmal_tf.serving.exported import read_exported
from pmal_tf.serving.extra_files import load_prototype_images
from pmal_tf.serving.page import Answerer

FLOAT, TEXT = tf.float32, tf.string


def test_signatures_and_outputs_are_named_and_typed(loaded, images):
    assert set(loaded.signatures) == {
        *("serving_default", "serving_images", "serving_images_threshold"),
        *("serving_bytes", "embed"),
    }
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
    embedded, mask = model.prototype_embeddings.numpy(), model.prototype_mask.numpy()
    nearest = served["distance"].argmin(axis=1)
    for row, k in enumerate(nearest):
        similarity = np.where(mask[k], embedded[k] @ embedding[row], -np.inf)
        assert served["nearest_prototype"][row].decode() == IDS[k][similarity.argmax()]


@pytest.mark.parametrize("rule", [*all_scores(), "pr"])
def test_rules_are_those_of_the_evaluation(model, prototypes, images, rule):
    score, statistics = get_score(rule), {}
    if score.statistics:
        train = model.outputs(prototypes.image[prototypes.mask])
        statistics = score.statistics(train, np.nonzero(prototypes.mask)[0])
    expected = score.values(model.outputs(images), statistics)
    threshold = np.float32(np.sort(expected)[3:5].mean())
    fitted = {name: tf.constant(v, tf.float32) for name, v in statistics.items()}
    answers = answers_of(model, prototypes, images, threshold, rule, **fitted)
    score = answers["unknown_score"]
    np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(answers["is_unknown"], score > threshold)
    # Of an untrained network all probabilities are nearly equal, and GEN nearly its
    # largest: float32 does not tell the images apart.
    if rule != "gen":
        np.testing.assert_array_equal(answers["is_unknown"], expected > threshold)
    assert "distance" in answers


def test_a_threshold_of_one_s_own(loaded, images):
    own = serve(loaded, images)
    score = own["unknown_score"]
    thresholds = np.where(np.arange(len(score)) % 2, 0.0, 2.0).astype(np.float32)
    served = serve(
        loaded, images, "serving_images_threshold", threshold=tf.constant(thresholds)
    )
    np.testing.assert_array_equal(served["is_unknown"], score > thresholds)
    assert 0 < served["is_unknown"].sum() < len(images)
    np.testing.assert_array_equal(served["unknown_score"], score)


def test_the_embedding_is_the_model_s(loaded, model, images):
    served = serve(loaded, images, "embed")
    assert set(served) == {"embedding"}
    expected = model.outputs(images)["embedding"]
    np.testing.assert_allclose(served["embedding"], expected, atol=1e-6)


def test_prototypes_lie_beside_the_model(loaded, model, prototypes, exported):
    kept = load_prototype_images(exported)
    assert kept["example_id"].tolist() == [name for name in IDS.flat if name]
    assert kept["class_index"].tolist() == [0, 0, 1, 1, 2]
    np.testing.assert_array_equal(kept["image"], prototypes.image[IDS != ""])
    embedded = model.prototype_embeddings.numpy()
    np.testing.assert_array_equal(kept["embedding"], embedded[IDS != ""])
    assert load_prototype_images(exported.parent) == {}


def test_large_prototypes_are_kept_small(prototypes, tmp_path):
    image = keras.Input((80, 100, 3))
    z = keras.layers.GlobalAveragePooling2D()(image)
    network = embedding_and_logits(keras.Model(image, keras.layers.Dense(3)(z)))
    model = PMALModel(network, 2)
    large = np.full((3, 2, 80, 100, 3), 7, np.uint8)
    model.refresh_prototypes(large, prototypes.mask)
    several = dataclasses.replace(prototypes, image=large)
    loaded = export(model, several, tmp_path / "1", 0.5)
    assert load_prototype_images(tmp_path / "1")["image"].shape == (5, 51, 64, 3)
    # Images that are not square cannot be made from others by cropping.
    assert "serving_bytes" not in loaded.signatures
    (_, inputs) = loaded.signatures["serving_images"].structured_input_signature
    assert inputs["images"].shape.as_list() == [None, 80, 100, 3]


def test_other_sizes_are_resized_as_in_training(loaded, images):
    large = tf.repeat(tf.repeat(images, 3, axis=1), 2, axis=2)
    small = resize_images(large, 8)
    one, other = serve(loaded, large), serve(loaded, small)
    np.testing.assert_allclose(one["distance"], other["distance"], atol=1e-6)


def test_metadata_stands_beside_the_model(exported, threshold):
    metadata = json.loads((exported / "metadata.json").read_text())
    assert metadata.pop("sha256")
    assert metadata.pop("calibration")
    assert metadata.pop("tflite")
    versions = metadata.pop("versions")
    assert {"python", "tensorflow", "keras", "pmal_tf"} <= set(versions)
    assert metadata == {
        "class_names": list(CLASSES),
        "unknown": {"class_id": -1, "class_name": "unknown"},
        "rule": "dr",
        "threshold": threshold,
        "threshold_range": [0.0, 2.0],
        "image_size": 8,
        "set_distance": "attention",
        "attention_sharpness": 0.0,
        "centre_embeddings": False,
        "prototypes": 5,
        "signatures": [
            *("embed", "serving_bytes", "serving_default", "serving_images"),
            "serving_images_threshold",
        ],
        "experiment": "photos",
    }
    assert [path.name for path in exported.parent.iterdir()] == ["1"]


def test_a_threshold_is_not_rounded_below_the_score_that_set_it():
    threshold = 0.1 + 2**-28
    rounded = np.float32(threshold)
    assert float(rounded) < threshold
    # That image must not be rejected.
    assert _not_below(threshold) == float(np.nextafter(rounded, np.float32(1)))
    assert _not_below(float(rounded)) == float(rounded)


def test_padding_is_never_the_nearest_prototype(prototypes):
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
    served = answers_of(model, prototypes, query, 0.5)
    assert served["distance"].argmin() == 2
    assert served["nearest_prototype"].tolist() == [b"train_5"]


def test_a_version_is_never_overwritten(model, prototypes, tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(PmalError, match="never overwritten"):
        export(model, prototypes, tmp_path / "1", 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": "ab"}, "3 known classes"),
        ({"class_names": ("a", "b", "a")}, "a name of its own"),
        ({"class_names": ("a", "b", "unknown")}, "may be named 'unknown'"),
        (
            {"rule": "oscr"},
            r"one of class_mean, dr, .*, relative_dr\. Received: 'oscr'",
        ),
        ({"threshold": 2.5}, "between 0 and 2 for the rule dr. Received: .*2.5"),
        ({"threshold": 1.5, "rule": "msp"}, "between 0 and 1 for the rule pr"),
        ({"threshold": float("nan")}, "Received: threshold=nan"),
        ({"threshold": float("inf"), "rule": "mls"}, "Received: threshold=inf"),
    ],
)
def test_arguments_that_do_not_fit_are_errors(
    model, prototypes, tmp_path, changes, message
):
    arguments = {"class_names": CLASSES, "threshold": 0.5, **changes}
    with pytest.raises(PmalError, match=message):
        export_saved_model(model, tmp_path / "1", prototypes, **arguments)
    assert not list(tmp_path.iterdir())


def test_an_empty_bank_is_an_error(model, prototypes, tmp_path):
    empty = PMALModel(model.network, 2)
    with pytest.raises(PmalError, match="refresh_prototypes"):
        export(empty, prototypes, tmp_path / "1", 0.5)
    assert not list(tmp_path.iterdir())


def test_what_fails_leaves_nothing(model, prototypes, tmp_path, monkeypatch):
    def write(answering, folder, *, xla):
        folder.mkdir()
        (folder / "saved_model.pb").touch()
        return []

    def fail(folder):
        assert (folder / "saved_model.pb").exists()
        raise OSError("no room")

    monkeypatch.setattr("pmal_tf.serving.export._write", write)
    with pytest.raises(OSError, match="no room"):
        export(model, prototypes, tmp_path / "1", 0.5, add=fail)
    assert not list(tmp_path.iterdir())


def test_a_model_of_nearest_prototypes_answers_by_these(nearest, prototypes, images):
    nearest, folder = nearest
    wanted = nearest.outputs(images)
    answers = serve(client._load(read_exported(folder)), images)
    np.testing.assert_allclose(answers["distance"], wanted["distance"], atol=1e-5)
    embedded = nearest.prototype_embeddings.numpy()
    mask = nearest.prototype_mask.numpy()
    attention, _ = attention_to_set(wanted["embedding"], embedded, mask)
    assert not np.allclose(answers["distance"], attention, atol=1e-4)
    for i, name in enumerate(answers["nearest_prototype"]):
        k = wanted["distance"][i].argmin()
        members = embedded[k][prototypes.mask[k]]
        cosine = members @ wanted["embedding"][i] / np.linalg.norm(members, axis=1)
        assert name.decode() == IDS[k][cosine.argmax()]


def test_a_centred_model_answers_by_the_distance_to_class_means(
    model, prototypes, images, photos, tmp_path
):
    options = {"centre_embeddings": True, "attention_sharpness": 3.0}
    centred = PMALModel(model.network, 2, **options)
    centred.refresh_prototypes(prototypes.image, prototypes.mask)
    train = centred.outputs(prototypes.image[prototypes.mask])
    score = get_score("class_mean")
    statistics = score.statistics(train, np.nonzero(prototypes.mask)[0])
    more = {"rule": "class_mean", "statistics": statistics}
    answers = serve(export(centred, prototypes, tmp_path / "1", 0.1, **more), images)
    wanted = centred.outputs(images)
    expected = score.values(wanted, statistics)
    np.testing.assert_allclose(answers["unknown_score"], expected, rtol=1e-3)
    np.testing.assert_allclose(answers["distance"], wanted["distance"], atol=1e-4)
    facts = json.loads((tmp_path / "1" / "metadata.json").read_text())
    assert {name: facts[name] for name in options} == options
    # The page weighs by the same attention as the model.
    shown = Answerer(tmp_path / "1").show(photos / "0.png")["prototypes"]["value"]
    k = wanted["distance"][0].argmin()
    embedded = centred.prototype_embeddings.numpy()
    origin = embedded[prototypes.mask].mean(axis=0)
    members = embedded[k][prototypes.mask[k]] - origin
    z = wanted["embedding"][0] - origin
    cosine = members @ z / np.linalg.norm(members, axis=1) / np.linalg.norm(z)
    weight = np.exp(3 * cosine) / np.exp(3 * cosine).sum()
    for (_, text), place in zip(shown, np.argsort(-weight), strict=True):
        assert text == f"{IDS[k][place]}, weight {100 * weight[place]:.1f} %"
    assert answers["nearest_prototype"][0].decode() == IDS[k][weight.argmax()]
