"""A small model that never was trained, exported as a trained one is."""

from pathlib import Path

import keras
import numpy as np

from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.serving.export import export_saved_model

CLASSES = ("cat", "dog", "ship")


def export_untrained(folder: Path, side: int = 32) -> Path:
    """Exports a model of three classes with two prototypes each; returns its folder."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (len(CLASSES), 2, side, side, 3)).astype(np.uint8)
    mask = np.ones(images.shape[:2], bool)
    ids = np.arange(mask.size).reshape(mask.shape).astype(str)
    keras.utils.set_random_seed(0)
    network = build_classifier("oscri", (side, side, 3), len(CLASSES), width=0.1)
    model = PMALModel(embedding_and_logits(network), 2)
    model.refresh_prototypes(images, mask)
    export_saved_model(
        model,
        folder,
        Prototypes(images, mask, ids, np.ones(mask.shape)),
        class_names=CLASSES,
        # Some of the prototypes themselves are above it, some below.
        threshold=float(np.median(model.score(images.reshape(-1, side, side, 3)))),
    )
    return folder
