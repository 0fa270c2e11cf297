"""One small exported model for all tests of serving."""

import functools

import keras
import numpy as np
import pytest
from PIL import Image
from tiny_export import IDS, export

from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
from pmal_tf.data.images import LabelledImages
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.serving import client
from pmal_tf.serving.exported import read_exported
from pmal_tf.serving.tflite import convert

CALIBRATION = {
    "reject_rate": 0.05,
    "rate_interval_90": [0.02, 0.08],
    "source": "withheld",
    "calibration_images": 160,
    "measured_images": 0,
    "unknown_images": 0,
    "rules": {"dr": {"known_rejected": None, "unknown_rejected": None}},
}


@pytest.fixture(scope="session", autouse=True)
def _load_once():
    """Keeps what clients load: it takes seconds."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(client, "_load", functools.cache(client._load))
        yield


@pytest.fixture(scope="session")
def prototypes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(3, 2, 8, 8, 3)).astype(np.uint8)
    return Prototypes(images, IDS != "", IDS, np.ones(IDS.shape))


@pytest.fixture(scope="session")
def model(prototypes):
    keras.utils.set_random_seed(0)
    model = PMALModel(
        embedding_and_logits(build_classifier("oscri", (8, 8, 3), 3, width=0.1)), 2
    )
    model.refresh_prototypes(prototypes.image, prototypes.mask)
    return model


@pytest.fixture(scope="session")
def images():
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, size=(9, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def test_images():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    label = np.where(np.arange(40) < 25, np.arange(40) % 3, -1).astype(np.int32)
    return LabelledImages(image, label, np.arange(40).astype(str))


@pytest.fixture(scope="session")
def threshold(model, images):
    """Half of the images score above it."""
    return float(np.median(model.score(images)))


@pytest.fixture(scope="session")
def exported(model, prototypes, threshold, test_images, tmp_path_factory):
    """A model of chance weights, exported as a run exports one, Lite models beside."""
    folder = tmp_path_factory.mktemp("export") / "trial_0" / "1"
    scorer, made = model.scorer(prototypes), (test_images.image, test_images)

    def add(folder):
        kinds = ("float16", "int8")
        return {"tflite": {k: convert(scorer, k, folder, *made) for k in kinds}}

    metadata = {"experiment": "photos", "calibration": CALIBRATION}
    export(model, prototypes, folder, threshold, metadata=metadata, add=add)
    return folder


@pytest.fixture(scope="session")
def loaded(exported):
    return client._load(read_exported(exported))


@pytest.fixture(scope="session")
def nearest(model, prototypes, tmp_path_factory):
    """A model whose distance is that to the nearest prototype, and its export.

    The second prototypes of two classes are made long: the attention, which counts
    lengths, would always name them, the cosine does not.
    """
    nearest = PMALModel(model.network, 2, set_distance="nearest")
    nearest.refresh_prototypes(prototypes.image, prototypes.mask)
    embedded = nearest.prototype_embeddings.numpy()
    embedded[:2, 1] *= 10.0
    nearest.prototype_embeddings.assign(embedded)
    folder = tmp_path_factory.mktemp("nearest") / "1"
    export(nearest, prototypes, folder, 0.1)
    return nearest, folder


@pytest.fixture(scope="session")
def photos(images, tmp_path_factory):
    """Nine files of images, in four formats."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    for index, pixels in enumerate(images.astype(np.uint8)):
        suffix = ("png", "JPG", "bmp", "gif")[index % 4]
        below = folder / "more" if index > 5 else folder
        Image.fromarray(pixels).save(below / f"{index}.{suffix}")
    return folder
