"""Several classifiers in one network, and in one table with the others."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from quick_run import quick_stages
from scipy.special import softmax
from sklearn.datasets import load_digits
from tiny_run import tiny, trial_folder

from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
from pmal_tf.backbones.whitening import adapt_whitening
from pmal_tf.methods.ensemble import merged_network
from pmal_tf.methods.loading import load_model
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.precision import in_precision
from pmal_tf.workflow.experiment import run_experiment

PIXELS = np.round(load_digits().images[:20] * 255 / 16).astype(np.float32)
DIGITS = np.repeat(PIXELS[..., None], 3, axis=-1)
FAIR = ("softmax", "control", "ensemble", "softmax_long")


def by_themselves(classifiers, images):
    """What each classifier says, stacked."""
    said = [embedding_and_logits(each)(images) for each in classifiers]
    return {name: np.stack([each[name] for each in said]) for name in said[0]}


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_members_of_one_name_say_their_mean(policy, rng, tmp_path):
    images = rng.integers(0, 256, (6, 32, 32, 3)).astype(np.float32)
    with in_precision(policy):
        members = [
            build_classifier("airbench", (32, 32, 3), 3, width=0.25) for _ in range(3)
        ]
        for member in members:
            adapt_whitening(member, images)
        merged_network(members).save(tmp_path / "model.keras")
    network = load_model(tmp_path / "model.keras")
    said, alone = network(images), by_themselves(members, images)
    assert {each.dtype for each in said.values()} == {tf.float32}
    np.testing.assert_allclose(said["logits"], alone["logits"].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(
        said["embedding"], np.concatenate(alone["embedding"], axis=1), atol=1e-5
    )
    # The members are different ones, and their logits' mean is their probabilities'
    # geometric mean.
    assert np.ptp(alone["logits"], axis=0).max() > 0.01
    product = np.prod(softmax(alone["logits"], axis=2).astype(float) ** (1 / 3), axis=0)
    np.testing.assert_allclose(
        softmax(said["logits"].numpy(), axis=1),
        product / product.sum(axis=1, keepdims=True),
        atol=1e-5,
    )


def test_a_member_without_an_embedding_is_an_error():
    image = keras.Input((4, 4, 3))
    flat = keras.Model(image, keras.layers.Flatten()(image))
    with pytest.raises(PmalError, match=r"must end in a linear .*Flatten"):
        merged_network([flat, flat])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensemble")
    options = {"method": "ensemble", "compare": ("softmax",), "epochs": 1}
    return folder, run_experiment(tiny(folder, ensemble_size=2, **options))


def test_it_is_judged_by_the_mean_of_the_trained_members(trained):
    folder, table = trained
    trial = trial_folder(folder)
    assert list(json.loads((trial / "result.json").read_text())["models"]) == [
        *("ensemble", "softmax")
    ]
    assert "| ensemble " in table
    members = [load_model(trial / f"pretrain_{m}" / "model.keras") for m in range(2)]
    with np.load(trial / "scores_ensemble.npz") as scores:
        index, mls = scores["example_id"][:20].astype(int), scores["mls"][:20]
        embedding = scores["embedding"][:20]
    pixels = np.round(load_digits().images[index] * 255 / 16).astype(np.float32)
    said = by_themselves(members, np.repeat(pixels[..., None], 3, axis=-1))
    mean = said["logits"].mean(axis=0)
    np.testing.assert_allclose(mls, -mean.max(axis=1), atol=1e-5)
    assert embedding.shape[1] == 2 * said["embedding"].shape[2]


def test_its_export_gives_the_geometric_mean_of_probabilities(trained):
    folder, _ = trained
    exported = tf.saved_model.load(str(folder / "saved_models/tiny/trial_0/1"))
    answers = exported.signatures["serving_default"](images=tf.constant(DIGITS))
    trial = trial_folder(folder)
    members = [load_model(trial / f"pretrain_{m}" / "model.keras") for m in range(2)]
    mean = by_themselves(members, DIGITS)["logits"].mean(axis=0)
    np.testing.assert_allclose(
        answers["probabilities"], softmax(mean, axis=1), atol=1e-5
    )
    np.testing.assert_allclose(answers["unknown_score"], -mean.max(axis=1), atol=1e-5)


def test_beside_pmal_each_shared_stage_is_made_once(tmp_path, started):
    with quick_stages():
        table = run_experiment(tiny(tmp_path, compare=FAIR))
    trained = [name for name in started if name.startswith("pretrain")]
    assert trained == ["pretrain_0", "pretrain_1", "pretrain_2"]
    assert len(started) == len(set(started))
    assert {"optimize", "control", "ensemble", "softmax_long"} <= set(started)
    for title in ("PMAL", "control", "ensemble", r"softmax (long)"):
        assert f"| {title}" in table
    started.clear()
    with quick_stages():
        run_experiment(tiny(tmp_path, method="ensemble", compare=("softmax",)))
    # An ensemble by itself takes what PMAL's run has made.
    assert started == ["evaluate", "export"]


def test_an_ensemble_of_one_is_refused(tmp_path):
    with pytest.raises(PmalError, match=r"`ensemble_size` must lie in \[2, inf\)"):
        tiny(tmp_path, method="ensemble", ensemble_size=1)
    with pytest.raises(PmalError, match=r"setting of the method ensemble.*--compare="):
        tiny(tmp_path, ensemble_size=4)
