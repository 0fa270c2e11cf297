"""A classifier as the settings of the network ask for."""

from __future__ import annotations

from pathlib import Path

import keras

from pmal_tf.backbones.classifier import build_classifier
from pmal_tf.backbones.initial import check_initial_model, classifier_from
from pmal_tf.backbones.layers import ImageShape
from pmal_tf.backbones.settings import NetworkSettings
from pmal_tf.runtime.errors import PmalError, first_line


def build_network(
    settings: NetworkSettings,
    input_shape: ImageShape,
    num_classes: int,
    *,
    embedding_dropout: float = 0.0,
) -> keras.Model:
    """Builds a functional model from [batch, H, W, 3] images to [batch, K] logits.

    Its weights are fresh; with `init_weights` only the head is, and all else is the
    file's.

    Raises:
        PmalError: If the file of `init_weights` cannot be started from.
    """
    if settings.init_weights:
        start = _read_start(settings.init_weights)
        return classifier_from(
            start, input_shape, num_classes, embedding_dropout=embedding_dropout
        )
    return build_classifier(
        settings.backbone,
        input_shape,
        num_classes,
        width=settings.width,
        dropout=settings.dropout,
        embedding_dropout=embedding_dropout,
    )


def check_start(settings: NetworkSettings, image_size: int) -> None:
    """Checks the file of `init_weights`, if there is to be one.

    `image_size` is the side of the images, 0 where it is not known yet.

    Raises:
        PmalError: If it cannot be started from.
    """
    if settings.init_weights:
        side = image_size or None
        check_initial_model(_read_start(settings.init_weights), (side, side, 3))


def _read_start(path: str) -> keras.Model:
    """Reads the model to start from."""
    if not Path(path).is_file():
        raise PmalError(
            f"`init_weights` must be the file of a Keras model. Received: {path}, "
            "which is not there. Name another, or leave --init_weights away for fresh "
            "weights."
        )
    try:
        return load_model(path)
    except PmalError as error:
        raise PmalError(
            f"{error}. Name another file with --init_weights, or leave the flag away "
            "for fresh weights."
        ) from error


def load_model(path: str | Path) -> keras.Model:
    """Loads a `.keras` file of this package, or any other.

    Raises:
        PmalError: If the file is missing or not a Keras model.
    """
    try:
        return keras.models.load_model(path)
    except Exception as error:  # zipfile, h5py, json and Keras each have their own.
        raise PmalError(
            "A model file must be a complete `.keras` archive. Received: "
            f"{str(path)!r}: {first_line(error)}"
        ) from error
