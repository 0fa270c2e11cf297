"""A method without prototypes, or without distances, is served as well."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2
from tiny_export import CENTRE_SCORE, CLASSES, answers_of, export, serve, serve_bytes

from pmal_tf.data.images import LabelledImages
from pmal_tf.methods.scorer import Scorer
from pmal_tf.predict import main
from pmal_tf.results.scores import registry
from pmal_tf.results.scores.score import LARGEST
from pmal_tf.runtime.errors import PmalError
from pmal_tf.serving import client
from pmal_tf.serving.answers import rejection_score
from pmal_tf.serving.export import export_saved_model
from pmal_tf.serving.exported import EXTRA, is_intact, read_exported
from pmal_tf.serving.page import Answerer, describe_model
from pmal_tf.serving.tflite import convert

ANSWERS = {"class_id", "class_name", "is_unknown", "unknown_score", "probabilities"}


class CentreScorer(Scorer):
    """Measures Euclidean distances to centres of classes."""

    def __init__(self, network):
        super().__init__(network)
        size = network.output["embedding"].shape[-1]
        centres = np.random.default_rng(7).normal(0, 20, (len(CLASSES), size))
        self.centres = tf.Variable(centres.astype(np.float32), trainable=False)

    def measure(self, outputs):
        difference = outputs["embedding"][:, None] - self.centres
        return {**outputs, "distance": tf.norm(difference, axis=2)}

    def tracked(self):
        return (self.centres,)


@pytest.fixture(scope="module")
def network():
    """From images to mean colours, and two layers on them."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    colour = keras.layers.GlobalAveragePooling2D()(image)
    z = keras.layers.Dense(4, activation="relu", name="z")(colour)
    # The network of a method may say more than scores are computed from.
    outputs = {
        "embedding": z,
        "logits": keras.layers.Dense(len(CLASSES), name="logits")(z),
        "more": keras.layers.Dense(1, name="more")(z),
    }
    return keras.Model(image, outputs)


@pytest.fixture(scope="module")
def plain(network):
    return Scorer(network)


@pytest.fixture(scope="module")
def measuring(network):
    return CentreScorer(network)


@pytest.fixture(scope="module")
def median(plain, images):
    return float(np.median(-plain.outputs(images)["logits"].max(axis=1)))


@pytest.fixture(scope="module")
def of_plain(plain, median, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain") / "1"
    export(plain, None, folder, median, xla=True)
    return folder


@pytest.fixture(scope="module")
def of_measuring(measuring, tmp_path_factory):
    folder = tmp_path_factory.mktemp("measuring") / "1"
    # No cosine is as large.
    export(measuring, None, folder, 50.0)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A file that is no image."""
    file = tmp_path_factory.mktemp("text") / "text.png"
    file.write_text("no image")
    return file


def load(folder):
    return client._load(read_exported(folder))


def facts_of(folder):
    return json.loads((folder / "metadata.json").read_text())


def outputs_by_signature(folder):
    signatures = load(folder).signatures
    return {name: set(s.structured_outputs) for name, s in signatures.items()}


def test_signatures_say_what_the_method_says(of_plain, of_measuring):
    for folder, said in ((of_plain, ANSWERS), (of_measuring, ANSWERS | {"distance"})):
        outputs = outputs_by_signature(folder)
        assert outputs.pop("embed") == {"embedding"}
        assert outputs.pop("serving_bytes") == said | {"error"}
        assert set(map(frozenset, outputs.values())) == {frozenset(said)}
    assert "serving_images_xla" in outputs_by_signature(of_plain)


def test_without_distances_the_largest_logit_decides(of_plain, plain, images, median):
    loaded, outputs = load(of_plain), plain.outputs(images)
    served = serve(loaded, images)
    score = -outputs["logits"].max(axis=1)
    np.testing.assert_allclose(served["unknown_score"], score, rtol=1e-5)
    np.testing.assert_array_equal(
        served["is_unknown"], served["unknown_score"] > np.float32(median)
    )
    assert 0 < served["is_unknown"].sum() < len(images)
    known = ~served["is_unknown"]
    np.testing.assert_array_equal(
        served["class_id"][known], outputs["logits"].argmax(axis=1)[known]
    )
    compiled = serve(loaded, images, "serving_images_xla")
    np.testing.assert_allclose(compiled["unknown_score"], score, rtol=1e-4)
    embedding = serve(loaded, images, "embed")["embedding"]
    np.testing.assert_allclose(embedding, outputs["embedding"], rtol=1e-4, atol=1e-4)


def test_what_cannot_be_read_is_unknown_with_the_largest_score(of_plain, of_measuring):
    for folder in (of_plain, of_measuring):
        answers = serve_bytes(load(folder), [b"", b"no image"])
        assert answers["class_id"].tolist() == [-1, -1]
        assert answers["is_unknown"].all()
        assert (answers["unknown_score"] == np.float32(LARGEST)).all()
        if "distance" in answers:
            assert (answers["distance"] == np.float32(LARGEST)).all()
        np.testing.assert_allclose(answers["probabilities"], 1 / len(CLASSES))


def test_distances_end_where_the_method_s_do(of_measuring, measuring, images):
    loaded, outputs = load(of_measuring), measuring.outputs(images)
    assert (outputs["distance"] > 2).all()
    served = serve(loaded, images)
    np.testing.assert_allclose(served["distance"], outputs["distance"], rtol=1e-4)
    np.testing.assert_allclose(
        served["unknown_score"], outputs["distance"].min(axis=1), rtol=1e-4
    )
    facts = facts_of(of_measuring)
    assert (facts["rule"], facts["threshold"]) == ("dr", 50.0)
    assert facts["threshold_range"] == [0.0, LARGEST]
    thresholds = tf.fill([len(images)], 1000.0)
    more = {"signature": "serving_images_threshold", "threshold": thresholds}
    assert not serve(loaded, images, **more)["is_unknown"].any()


def test_metadata_and_card_promise_no_prototypes(of_plain, of_measuring):
    for folder, rule in ((of_plain, "mls"), (of_measuring, "dr")):
        assert is_intact(folder)
        facts = facts_of(folder)
        assert facts["rule"] == rule
        assert not {"prototypes", "set_distance"} & set(facts)
        assert not (folder / EXTRA / "prototypes.npz").exists()
        card = (folder / "model_card.md").read_text()
        assert "prototype" not in card
        assert "None" not in card
    assert (
        "The score is MLS (- the largest logit)."
        in (of_plain / "model_card.md").read_text()
    )


def test_warm_up_requests_are_of_all_signatures_but_xla_s(of_plain, of_measuring):
    # That each is answered, `test_warm_up` tells.
    for folder in (of_plain, of_measuring):
        path = folder / EXTRA / "tf_serving_warmup_requests"
        logs = [
            prediction_log_pb2.PredictionLog.FromString(record.numpy())
            for record in tf.data.TFRecordDataset(str(path))
        ]
        asked = {log.predict_log.request.model_spec.signature_name for log in logs}
        assert asked == set(load(folder).signatures) - {"serving_images_xla"}


@pytest.fixture
def predict(photos, text, capsys):
    def run(folder, *arguments):
        status = main([f"--saved_model={folder}", *arguments, str(photos), str(text)])
        assert status == 2
        return capsys.readouterr().out

    return run


def test_predict_writes_null_for_what_is_not_said(predict, of_plain, of_measuring):
    for folder, measures in ((of_plain, False), (of_measuring, True)):
        *sound, text = map(json.loads, predict(folder, "--format=json").splitlines())
        assert len(sound) == 9
        for record in sound:
            assert record["nearest_prototype"] is None
            assert record["error"] is None
            assert set(record["probabilities"]) == set(CLASSES)
            if measures:
                assert min(record["distance"].values()) == record["unknown_score"]
            else:
                assert record["distance"] is None
        assert text["distance"] is text["unknown_score"] is None
        assert "not a JPEG" in text["error"]


def test_predict_s_table_has_a_dash_for_it(predict, of_plain):
    header, *rows = predict(of_plain).splitlines()
    column = header.index("nearest_prototype")
    assert [row[column : column + 17].strip() for row in rows] == ["-"] * 10
    assert all(float(row[column - 8 : column]) > 0 for row in rows[:9])
    status = "--threshold=-1e30"
    assert "unknown" in predict(of_plain, status).splitlines()[1]


def test_the_demo_leaves_out_what_is_not_said(
    of_plain, of_measuring, measuring, images, photos
):
    plain, measured = Answerer(of_plain), Answerer(of_measuring)
    shown = plain.show(photos / "0.png")
    assert shown["score"]["label"] == "Score: - the largest logit (MLS)"
    assert shown["classes"]["value"]["headers"] == ["class", "probability"]
    assert "Nearest" not in str(shown)
    assert "None" not in str(shown)
    shown = measured.show(photos / "0.png")
    distance = measuring.outputs(images[:1])["distance"][0]
    nearest = f"{CLASSES[distance.argmin()]}, at distance {distance.min():.4g}"
    assert nearest in shown["note"]["value"]
    assert shown["score"]["value"] == pytest.approx(distance.min(), rel=1e-4)
    assert "rototype" not in str(shown)
    assert "distance to the nearest class (DR)" in str(
        describe_model(measured.exported)
    )


def test_a_score_that_needs_what_the_method_does_not_say_is_an_error(plain, tmp_path):
    arguments = {"class_names": CLASSES, "threshold": 0.5, "rule": "dr"}
    with pytest.raises(
        PmalError,
        match=r"rule dr is computed from distance, .*Received: a model that says "
        r"embedding, logits\. Choose one of class_mean, energy, gen, mls, msp\.",
    ):
        export_saved_model(plain, tmp_path / "1", **arguments)
    assert not list(tmp_path.iterdir())


def test_the_rule_is_the_method_s_own_by_default(plain, measuring):
    assert rejection_score(plain).name == "mls"
    score = rejection_score(measuring)
    assert (score.name, score.high, score.unreadable) == ("dr", LARGEST, LARGEST)
    assert rejection_score(measuring, "pr").high == 1.0
    with pytest.raises(PmalError, match="Received: 'max'"):
        rejection_score(plain, "max")


@pytest.fixture
def centre_score(monkeypatch):
    known = registry.all_scores()
    monkeypatch.setattr(
        registry, "all_scores", lambda: {**known, CENTRE_SCORE.name: CENTRE_SCORE}
    )
    return CENTRE_SCORE


def test_a_score_may_measure_against_the_training_images(
    centre_score, plain, images, photos, tmp_path
):
    train = plain.outputs(images)
    statistics = centre_score.statistics(train, np.arange(len(images)) % 3)
    assert statistics["centres"].shape == (3, 4)
    # So many that copies of them would show.
    centres = np.resize(statistics["centres"], (200_000, 4))
    loaded = export(
        *(plain, None, tmp_path / "1", 1000.0),
        rule="centre",
        statistics={"centres": centres.astype(np.float64)},
    )
    queries = images[::-1] / 2
    expected = centre_score.values(plain.outputs(queries), statistics)
    served = serve(loaded, queries)
    np.testing.assert_allclose(served["unknown_score"], expected, rtol=1e-3)
    assert facts_of(tmp_path / "1")["rule"] == "to_centre"
    assert Answerer(tmp_path / "1").show(photos / "0.png")["score"]["value"] > 0
    spoilt = queries.copy()
    spoilt[1, 0, 0, 0] = np.nan
    answers = serve(loaded, spoilt)
    assert answers["unknown_score"][1] == np.float32(LARGEST)
    # Stored once: the graph alone has half a megabyte.
    files = [path for path in (tmp_path / "1").rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    assert centres.nbytes < size < 1.5 * centres.nbytes
    with pytest.raises(
        PmalError, match=r"measured against .* Received: statistics=None"
    ):
        export(plain, None, tmp_path / "2", 1.0, rule="centre")


def test_scores_that_are_no_numbers_are_unknown(centre_score, plain, images):
    centres = tf.Variable(np.full((3, 4), 3e38, np.float32))
    answers = answers_of(plain, None, images, LARGEST, "centre", centres=centres)
    assert answers["is_unknown"].all()
    assert (answers["unknown_score"] == np.float32(LARGEST)).all()
    np.testing.assert_allclose(answers["probabilities"], 1 / 3)


def test_a_lite_model_is_compared_by_the_rule(plain, measuring, images, tmp_path):
    (tmp_path / EXTRA).mkdir()
    label = np.array([0, 1, 2, 0, 1, -1, -1, -1, -1], np.int32)
    test = LabelledImages(images.astype(np.uint8), label, np.arange(9).astype(str))
    entry = convert(plain, "float16", tmp_path, test.image, test, rule="energy")
    assert entry["largest_distance_error"] is None
    assert entry["images"] == 9
    assert "AUROC (Energy) is" in entry["text"]
    assert "most probable class is the same on 100.0 %" in entry["text"]
    assert abs(entry["auroc_loss"]) < 0.2
    entry = convert(measuring, "float16", tmp_path, test.image, test, rule="energy")
    assert entry["largest_distance_error"] >= 0
    assert "AUROC (DR) is" in entry["text"]
