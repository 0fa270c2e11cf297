"""Exporting a small model, and calling it."""

import numpy as np
import tensorflow as tf

from pmal_tf.methods.scorer import Scorer
from pmal_tf.results.scores.score import LARGEST, Score
from pmal_tf.serving.answers import Answering, rejection_score
from pmal_tf.serving.export import export_saved_model

CLASSES = ("cat", "dog", "ship")
IDS = np.array([["train_1", "train_2"], ["train_3", "train_4"], ["train_5", ""]])


def _squares(outputs, statistics):
    """Returns [n, K] squared distances of embeddings to the classes' means."""
    return (outputs["embedding"][:, None] - statistics["centres"]) ** 2


# A score that is measured against the training images.
CENTRE_SCORE = Score(
    name="centre",
    field="to_centre",
    title="Centre",
    meaning="squared distance to the nearest class's mean embedding",
    low=0.0,
    high=LARGEST,
    needs=("embedding",),
    values=lambda outputs, statistics: (
        _squares(outputs, statistics).sum(axis=2).min(axis=1).astype(np.float64)
    ),
    tensor=lambda outputs, statistics: tf.reduce_min(
        tf.reduce_sum(_squares(outputs, statistics), axis=2), axis=1
    ),
    statistics=lambda outputs, label: {
        "centres": np.stack(
            [outputs["embedding"][label == k].mean(axis=0) for k in np.unique(label)]
        )
    },
)


def export(model, prototypes, folder, threshold, **more):
    """Exports and loads; `model` may be a Scorer, and `prototypes` then None."""
    export_saved_model(
        model,
        folder,
        prototypes,
        **{"class_names": CLASSES, "metadata": {"trial": 0}, **more},
        threshold=threshold,
    )
    return tf.saved_model.load(str(folder))


def answers_of(model, prototypes, images, threshold, rule="", **statistics):
    """Answers as an export would, without one, which takes seconds."""
    scorer = model if isinstance(model, Scorer) else model.scorer(prototypes)
    answering = Answering(
        scorer, CLASSES, rejection_score(scorer, rule), threshold, statistics
    )
    answer = tf.function(answering.answer, autograph=False)
    outputs = answer(tf.constant(images, tf.float32), tf.constant(threshold))
    return {name: value.numpy() for name, value in outputs.items()}


def serve(loaded, images, signature="serving_default", **more):
    outputs = loaded.signatures[signature](
        images=tf.constant(images, tf.float32), **more
    )
    return {name: value.numpy() for name, value in outputs.items()}


def serve_bytes(loaded, files):
    outputs = loaded.signatures["serving_bytes"](
        image_bytes=tf.constant(files, tf.string)
    )
    return {name: value.numpy() for name, value in outputs.items()}
