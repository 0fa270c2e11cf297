"""Exporting a small model, and calling it."""

import numpy as np
import tensorflow as tf

from pmal_tf.serving.export import export_saved_model

CLASSES = ("cat", "dog", "ship")
IDS = np.array([["train_1", "train_2"], ["train_3", "train_4"], ["train_5", ""]])


def export(model, prototypes, folder, threshold, **more):
    export_saved_model(
        model,
        folder,
        prototypes,
        class_names=CLASSES,
        threshold=threshold,
        metadata={"trial": 0},
        **more,
    )
    return tf.saved_model.load(str(folder))


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
