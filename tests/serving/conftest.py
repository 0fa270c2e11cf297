"""One small exported model for all tests of serving."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny_export import IDS, export

from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes


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
def threshold(model, images):
    """Half of the images score above it."""
    return float(np.median(model.score(images)))


@pytest.fixture(scope="session")
def exported(model, prototypes, threshold, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "trial_0" / "1"
    export(model, prototypes, folder, threshold)
    return folder


@pytest.fixture(scope="session")
def loaded(exported):
    return tf.saved_model.load(str(exported))
