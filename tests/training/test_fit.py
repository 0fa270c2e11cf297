"""The way from mined prototypes to the batches that PMAL trains on."""

import keras
import numpy as np
from tiny_classifier import tiny_classifier

from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.data.batches.pipeline import ALONE, TrainingPipeline
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.optimize_stage import fit_pmal
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.training import fit
from pmal_tf.training.recipe import Recipe


def test_prototypes_are_found_among_named_images_in_any_order(rng, monkeypatch):
    """Or a prototype would be masked from another image's set, not from its own."""
    image = rng.integers(0, 256, size=(12, 8, 8, 3)).astype(np.uint8)
    names = np.array([f"photo_{n}" for n in rng.permutation(12)])
    pipeline = TrainingPipeline(image, np.arange(12) % 3, names, 4, 0, augment=False)
    selection = [np.array([3, 9]), np.array([1, 4]), np.array([8])]
    prototypes = Prototypes.from_selection(selection, image, names, np.ones(12))
    keras.utils.set_random_seed(0)
    model = PMALModel(embedding_and_logits(tiny_classifier()), 2)
    seen = []
    monkeypatch.setattr(
        fit, "train", lambda _model, batches, **_: seen.extend(batches(ALONE))
    )
    fit_pmal(model, pipeline, prototypes, Recipe(epochs=1), seed=0)
    assert len(seen) == 3
    for features, _label in seen:
        index = features["prototype_index"].numpy()[prototypes.mask]
        np.testing.assert_array_equal(image[index], prototypes.image[prototypes.mask])
        # The same numbers tell which sample of the batch is which image.
        own = features["example_index"].numpy()
        np.testing.assert_array_equal(features["image"], image[own])
