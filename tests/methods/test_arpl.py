"""Reciprocal points: the numbers by hand, and a run like any other method's."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_run import tiny, trial_folder

from pmal_tf.methods.arpl import METHOD, ARPLSettings
from pmal_tf.methods.loading import load_model
from pmal_tf.runtime.files import read_json
from pmal_tf.workflow.experiment import run_experiment


@pytest.fixture
def head():
    """The head on embeddings of 3 dimensions, with points and radius that we choose."""
    embedding = keras.Input((3,))
    said = METHOD.head(embedding, 2, ARPLSettings())
    model = keras.Model(embedding, said)
    model.get_layer("reciprocal_points").numbers.assign([[1.0, 0, 0], [0, 2.0, 0]])
    model.get_layer("radius").numbers.assign([0.5])
    return model


def test_logits_are_those_worked_by_hand(head):
    said = head(tf.constant([[1.0, 1.0, 1.0]]))
    # |z - P_0|^2 = 2, |z - P_1|^2 = 1 + 1 + 1; z P_0 = 1, z P_1 = 2.
    np.testing.assert_allclose(said["distance_to_points"], [[2 / 3, 1.0]], rtol=1e-6)
    np.testing.assert_allclose(said["logits"], [[2 / 3 - 1, 1.0 - 2]], rtol=1e-6)


def test_logits_are_those_of_a_slow_loop(head, rng):
    z = rng.normal(size=(5, 3)).astype(np.float32)
    points = head.get_layer("reciprocal_points").numbers.numpy()
    slow = [
        [np.sum((row - point) ** 2) / 3 - np.dot(row, point) for point in points]
        for row in z
    ]
    np.testing.assert_allclose(head(z)["logits"], slow, atol=1e-5)


def test_losses_are_those_worked_by_hand(head):
    said = {n: tf.convert_to_tensor(v) for n, v in head(tf.ones((1, 3))).items()}
    settings = ARPLSettings(radius_weight=0.1, arpl_temperature=2.0)
    parts = METHOD.losses(said, tf.constant([1]), settings)
    logits = np.array([-1 / 3, -1.0]) / 2
    classification = -logits[1] + np.log(np.exp(logits).sum())
    bound = 1.0 - 0.5 + 1.0
    np.testing.assert_allclose(
        parts["classification_loss"], [classification], rtol=1e-6
    )
    np.testing.assert_allclose(parts["radius_loss"], [bound], rtol=1e-6)
    np.testing.assert_allclose(parts["loss"], [classification + 0.1 * bound], rtol=1e-6)


def scores_of(folder):
    return (trial_folder(folder) / "scores_arpl.npz").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arpl")
    options = {
        **{"method": "arpl", "compare": ("softmax",), "scores": ("energy", "gen")},
        # A score that is measured against the training images.
        "rule": "class_mean",
    }
    table = run_experiment(tiny(folder, **options))
    return folder, options, table, scores_of(folder)


def test_it_is_trained_judged_exported_and_served_like_pmal(trained):
    folder, _, table, _ = trained
    trial = trial_folder(folder)
    result = json.loads((trial / "result.json").read_text())
    assert list(result["models"]) == ["arpl", "softmax"]
    assert result["files"]["arpl"] == "scores_arpl.npz"
    metrics = result["models"]["arpl"]
    assert set(metrics) == {
        *("acc", "macro_f1", "mls", "pr", "class_mean", "energy", "gen")
    }
    assert metrics["acc"] > 0.5
    assert "| ARPL " in table
    with np.load(trial / "scores_arpl.npz") as scores:
        assert "distance" not in scores.files
        assert "dr" not in scores.files
        expected = scores["class_mean"][:20]
    version = folder / "saved_models" / "tiny" / "trial_0" / "1"
    assert read_json(version / "metadata.json")["rule"] == "class_mean"
    loaded = tf.saved_model.load(str(version))
    images = np.load(trial / "scores_arpl.npz")["example_id"][:20].astype(int)
    from sklearn.datasets import load_digits

    pixels = np.round(load_digits().images[images] * 255 / 16).astype(np.float32)
    answers = loaded.signatures["serving_default"](
        images=tf.constant(np.repeat(pixels[..., None], 3, axis=-1))
    )
    assert "distance" not in answers
    np.testing.assert_allclose(answers["unknown_score"], expected, atol=1e-4)


def test_its_model_loads_without_custom_objects(trained):
    network = load_model(trial_folder(trained[0]) / "arpl" / "model.keras")
    assert network.get_layer("radius").numbers.numpy() != 0.0


def test_it_goes_on_from_its_checkpoint_to_the_same_bits(
    trained, tmp_path, monkeypatch
):
    monkeypatch.setattr("pmal_tf.training.checkpoints._LEAST_SECONDS", 0.0)
    _, options, _, whole = trained
    options = {**options, "compare": (), "stages": ("arpl", "evaluate")}
    config = tiny(tmp_path, **options)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pmal_tf.methods.trial.save_trained", killed)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(config)
    run_experiment(config)
    assert scores_of(tmp_path) == whole
