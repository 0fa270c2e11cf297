"""A tiny untrained model, exported as a run exports one."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from pmal_tf.backbones.classifier import build_classifier, embedding_and_logits
from pmal_tf.data.images import LabelledImages
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.serving.export import export_saved_model
from pmal_tf.serving.tflite import convert

CLASSES = ("cat", "dog", "ship", "truck")
SIDE = 8


def export_tiny(folder: Path, tflite: Sequence[str] = ()) -> PMALModel:
    """Exports a model of four classes with two prototypes each, one with three."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, size=(4, 3, SIDE, SIDE, 3)).astype(np.uint8)
    mask = np.array([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 0]], bool)
    ids = np.where(mask, np.arange(12).reshape(4, 3).astype(str), "")
    keras.utils.set_random_seed(0)
    network = build_classifier("oscri", (SIDE, SIDE, 3), len(CLASSES), width=0.1)
    model = PMALModel(embedding_and_logits(network), 3)
    model.refresh_prototypes(images, mask)
    labels = np.repeat(np.arange(4, dtype=np.int32), 3)
    test = LabelledImages(
        images.reshape(12, SIDE, SIDE, 3), labels, np.arange(12).astype(str)
    )

    prototypes = Prototypes(images, mask, ids, np.ones(mask.shape))

    def add_tflite(version: Path) -> dict:
        made = (version, test.image, test)
        scorer = model.scorer(prototypes)
        return {"tflite": {kind: convert(scorer, kind, *made) for kind in tflite}}

    export_saved_model(
        model,
        folder,
        prototypes,
        class_names=CLASSES,
        threshold=0.5,
        add=add_tflite,
    )
    return model
