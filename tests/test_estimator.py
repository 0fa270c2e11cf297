"""Classifiers as scikit-learn has them: parameters, answers, files, export."""

import json
import pickle
import re

import numpy as np
import pytest
import tensorflow as tf
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks

import pmal_tf
from pmal_tf.backbones.build import build_network
from pmal_tf.backbones.settings import backbone_names
from pmal_tf.predict import main as predict_command
from pmal_tf.results.scores.registry import get_score
from pmal_tf.runtime.errors import PmalError

FEW = {"epochs": 3, "batch_size": 32, "learning_rate": 3e-3, "width": 0.15}
PMAL = {**FEW, "prototypes_per_class": 3, "dropout": 0.0, "schedule": "cosine"}
DIGITS = load_digits()
IMAGES = (DIGITS.images[..., None].repeat(3, axis=-1) * 255 / 16).astype(np.uint8)
KNOWN = DIGITS.target < 4
X, Y = IMAGES[KNOWN], DIGITS.target[KNOWN]
NAMES = np.array(["zero", "one", "two", "three"])


@pytest.fixture(scope="module")
def fitted():
    return pmal_tf.PMALClassifier(**PMAL).fit(X[::2].astype(np.float32), Y[::2])


@pytest.fixture(scope="module")
def named():
    """Another method, and classes with names."""
    made = pmal_tf.OpenSetClassifier(method="arpl", radius_weight=0.2, **FEW)
    return made.fit(X[::2].astype(np.float64), NAMES[Y[::2]])


@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_parameters_default_constructible,
        estimator_checks.check_no_attributes_set_in_init,
        estimator_checks.check_get_params_invariance,
        estimator_checks.check_set_params,
        estimator_checks.check_estimator_cloneable,
        estimator_checks.check_estimator_repr,
        estimator_checks.check_estimators_unfitted,
        estimator_checks.check_mixin_order,
    ],
)
@pytest.mark.parametrize(
    "made", [pmal_tf.PMALClassifier(), pmal_tf.OpenSetClassifier()]
)
def test_scikit_learn_finds_what_it_expects(check, made):
    check(type(made).__name__, made)


def test_parameters_are_the_settings_of_the_flags_and_explained():
    every = pmal_tf.OpenSetClassifier().get_params()
    assert {"method", "radius_weight", "epsilon", "backbone", "epochs"} <= set(every)
    assert "dataset" not in every
    of_one = pmal_tf.PMALClassifier().get_params()
    assert "radius_weight" not in of_one
    assert of_one["prototypes_per_class"] == every["prototypes_per_class"] == 10
    for name in of_one:
        assert re.search(rf"^    {name}: \w", pmal_tf.PMALClassifier.__doc__, re.M)
    with pytest.raises(TypeError, match="epoch"):
        pmal_tf.PMALClassifier(epoch=3)


def test_it_knows_the_known_and_rejects_the_unknown(fitted):
    assert fitted.classes_.tolist() == [0, 1, 2, 3]
    answers, new = fitted.predict(X[1::2]), fitted.predict(IMAGES[~KNOWN])
    assert set(np.unique(new)) <= {-1, 0, 1, 2, 3}
    # After three epochs it is no good rejector; what it rejects is mostly unknown.
    wrongly, rightly = (answers == -1).mean(), (new == -1).mean()
    assert wrongly < 0.05
    assert rightly > 5 * wrongly
    accepted = answers != -1
    assert (answers == Y[1::2])[accepted].mean() > 0.9
    truth = np.where(KNOWN, DIGITS.target, -1)
    assert fitted.score(IMAGES, truth) == (fitted.predict(IMAGES) == truth).mean()
    probabilities = fitted.predict_proba(X)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    rejected = fitted.score_unknown(X) > fitted.threshold_
    most_probable = probabilities.argmax(axis=1)
    np.testing.assert_array_equal(
        fitted.predict(X), np.where(rejected, -1, most_probable)
    )
    stages = [entry["stage"] for entry in fitted.history_]
    assert stages == [
        s for s in ("pretrain_0", "pretrain_1", "optimize") for _ in "123"
    ]
    # The prototypes are images of training, by their positions.
    prototypes = fitted.scorer_.prototypes
    at = prototypes.example_id.astype(int)
    np.testing.assert_array_equal(X[::2][at], prototypes.image)
    np.testing.assert_array_equal(Y[::2][at], np.arange(4)[:, None].repeat(3, axis=1))


def test_another_method_and_names_have_the_same_face(named):
    with pytest.raises(PmalError, match=r"shape \[n, 8, 8, 3\].*\(2, 9, 9, 3\)"):
        named.predict(np.zeros((2, 9, 9, 3)))
    answers = named.predict(IMAGES)
    assert {"unknown", *NAMES} == set(answers)
    assert named.classes_.tolist() == sorted(NAMES)
    known = answers[KNOWN]
    assert (known == NAMES[Y])[known != "unknown"].mean() > 0.8
    assert named.rule_ == "mls"
    logits = named.scorer_.outputs(X)["logits"]
    np.testing.assert_array_equal(
        named.score_unknown(X), get_score("mls").values({"logits": logits}, {})
    )


def test_datasets_floats_and_arrays_train_to_the_same_bits(named):
    pairs = tf.data.Dataset.from_tensor_slices((X[::2], NAMES[Y[::2]]))
    again = clone(named).fit(pairs.batch(50))
    np.testing.assert_array_equal(again.score_unknown(X), named.score_unknown(X))
    assert again.threshold_ == named.threshold_
    images = tf.data.Dataset.from_tensor_slices(X)
    np.testing.assert_array_equal(named.predict(images), named.predict(X))
    another = clone(named).set_params(seed=1).fit(X[::2], Y[::2])
    assert not np.array_equal(another.score_unknown(X), named.score_unknown(X))


@pytest.mark.parametrize("which", ["fitted", "named"])
def test_files_and_pickles_give_the_same_bits(which, request, tmp_path):
    made = request.getfixturevalue(which)
    made.save(tmp_path / "mine")
    loaded = type(made).load(tmp_path / "mine")
    for other in (loaded, pickle.loads(pickle.dumps(made))):
        assert other.get_params() == made.get_params()
        for name in ("predict", "predict_proba", "score_unknown"):
            ours, theirs = (getattr(one, name)(IMAGES) for one in (made, other))
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        assert json.dumps(other.calibration_) == json.dumps(made.calibration_)
        assert other.history_ == made.history_
    np.savez(tmp_path / "other.npz", a=np.zeros(2))
    with pytest.raises(PmalError, match=r"PMALClassifier.save wrote.*other.npz"):
        pmal_tf.PMALClassifier.load(tmp_path / "other.npz")
    other = {"fitted": pmal_tf.OpenSetClassifier, "named": pmal_tf.PMALClassifier}
    with pytest.raises(PmalError, match=f"save wrote.*: a {type(made).__name__}"):
        other[which].load(tmp_path / "mine")
    with pytest.raises(PmalError, match="No such file"):
        type(made).load(tmp_path / "nowhere.npz")


def test_the_export_answers_alike(named, tmp_path, capsys):
    made = named
    made.export(tmp_path / "1")
    model = tf.saved_model.load(tmp_path / "1")
    assert set(model.signatures) == {
        *("serving_default", "serving_images", "serving_images_threshold"),
        *("serving_bytes", "embed"),
    }
    images = tf.constant(IMAGES[:200].astype(np.float32))
    served = model.signatures["serving_default"](images=images)
    expected = made.predict(IMAGES[:200])
    np.testing.assert_array_equal(served["class_name"].numpy().astype(str), expected)
    np.testing.assert_allclose(
        served["unknown_score"], made.score_unknown(IMAGES[:200]), atol=1e-4
    )
    tf.io.write_file(str(tmp_path / "digit.png"), tf.io.encode_png(IMAGES[0]))
    arguments = [f"--saved_model={tmp_path / '1'}", str(tmp_path / "digit.png")]
    assert predict_command(arguments) == 0
    assert expected[0] in capsys.readouterr().out


def test_a_threshold_of_ones_own_images(named, tmp_path):
    made = pickle.loads(pickle.dumps(named))
    assert made.calibration_["calibration_images"] == round(0.1 * len(X[::2]))
    made.calibrate(X[1::2], reject_rate=0.2)
    assert made.calibration_["reject_rate"] == 0.2
    rejected = (made.predict(X[1::2]) == "unknown").mean()
    assert 0.15 < rejected <= 0.2
    for rate in (0, 1.5):
        with pytest.raises(PmalError, match="`reject_rate` must lie in"):
            made.calibrate(X[1::2], reject_rate=rate)
    made.calibration_ = made.threshold_ = None
    for answer in (lambda: made.predict(X), lambda: made.export(tmp_path / "1")):
        with pytest.raises(PmalError, match="Call `calibrate`"):
            answer()


def test_before_fit_there_is_nothing(tmp_path):
    made = pmal_tf.PMALClassifier()
    for use in (made.save, made.export, made.predict, made.calibrate):
        with pytest.raises(NotFittedError):
            use(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (X[..., 0], Y, r"\[n, h, w, 3\].*Received: X of shape \(\d+, 8, 8\)"),
        (X[..., :1], Y, "repeat a grey channel"),
        (X[:0], Y[:0], "at least one image.*Received: 0"),
        (X / 255, Y, "Received: values from 0 to 1"),
        (X - 300.0, Y, "finite numbers on the 0-255 scale.*from -300.0"),
        (np.where(X > 9, np.nan, X), Y, "from nan to nan"),
        (X > 9, Y, "of type bool"),
        (X, Y[:9], r"one label per image.*Received: y of shape \(9,\)"),
        (X, None, r"one label per image.*type object"),
        (X, Y / 2, "all integers or all strings.*type float64"),
        (X, np.zeros_like(Y), r"two known classes or more.*Received: \[0\]"),
        (X, Y - 1, r"no image of an unknown one.*Received: \[-1, 0, 1, 2\]"),
        (X, np.where(Y > 0, "a", "unknown"), r"Received: \['a', 'unknown'\]"),
    ],
)
def test_wrong_images_and_labels_are_told(images, labels, sentence):
    with pytest.raises(PmalError, match=f"(?s){sentence}"):
        pmal_tf.PMALClassifier(**PMAL).fit(images, labels)


def test_wrong_datasets_are_told():
    pairs = tf.data.Dataset.from_tensor_slices((X, Y))
    ragged = tf.data.Dataset.from_generator(
        lambda: ((np.zeros((n, 4, 3)), n) for n in (4, 5)),
        output_types=("float32", "int32"),
    )
    for dataset, sentence in (
        (pairs.repeat(), "must be finite"),
        (pairs.take(0), "of one size"),
        (ragged, "of one size"),
        (pairs.map(lambda image, _: image), "one label per image"),
        (pairs.map(lambda image, label: {"image": image}), "as_supervised=True"),
        (pairs.map(lambda image, label: (image, label, 1.0)), "as_supervised=True"),
    ):
        with pytest.raises(PmalError, match=sentence):
            pmal_tf.PMALClassifier(**PMAL).fit(dataset)


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"epochs": 0}, r"`epochs` must lie in \[1, inf\). Received: epochs=0"),
        ({"backbone": "vgg"}, "`backbone` must be one of"),
        ({"method": "nosuch"}, "A method must be one of"),
        ({"method": "arpl", "margin": 0.3}, "`margin` is a setting of the method pmal"),
        ({"prototype_every": 2}, "has an effect with prototype_mode=inference alone"),
        ({"rule": "nosuch"}, "`rule` must be one of"),
        ({"rand_augment": 1, "augment": "on"}, "images of type uint8.*float32"),
    ],
)
def test_wrong_parameters_are_told_by_fit(parameters, sentence):
    made = pmal_tf.OpenSetClassifier(**{**FEW, **parameters})
    with pytest.raises(PmalError, match=sentence):
        made.fit(X.astype(np.float32), Y)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"no archive"])
def test_what_is_no_classifier_is_told(tmp_path, content):
    (tmp_path / "mine").write_bytes(content)
    with pytest.raises(PmalError, match=r"what PMALClassifier\.save wrote"):
        pmal_tf.PMALClassifier.load(tmp_path / "mine")


def test_settings_of_the_method_reach_its_model():
    grades = {"prototype_mode": "bank", "prototype_slice": 2, "margin": 0.25}
    few = {**PMAL, **grades, "epochs": 1, "calibration_fraction": 0.0}
    made = pmal_tf.PMALClassifier(**few).fit(X[:60], Y[:60])
    settings = made.scorer_.model.settings
    assert (settings.prototype_mode, settings.margin) == ("bank", 0.25)
    assert made.threshold_ is None


def test_every_backbone_can_be_built_by_its_name():
    for name in backbone_names():
        config = pmal_tf.OpenSetClassifier(backbone=name, width=0.05)._config()
        assert build_network(config.network, (32, 32, 3), 3).output.shape[1] == 3


def test_numbers_of_numpy_are_numbers():
    made = pmal_tf.PMALClassifier(epochs=np.int64(3), margin=np.float32(0.25))
    config = made._config()
    assert (config.epochs, config.margin) == (3, 0.25)
