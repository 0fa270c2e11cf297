"""A classifier as the settings ask for, fresh or from a model of the user's.

Of such a model, one of ImageNet's for example, the layers up to the input of its last
layer are the backbone, with the weights they have; only the head is new.
"""

from __future__ import annotations

from pathlib import Path

import keras

from pmal_tf.backbones.classifier import (
    build_classifier,
    linear_head,
    with_new_head,
    with_precision,
)
from pmal_tf.backbones.layers import ImageShape
from pmal_tf.backbones.settings import NetworkSettings
from pmal_tf.runtime.errors import PmalError, first_line

# Layers that come after those of the model; a network has each name once.
_CAST = "full_precision"
_NEW_LAYERS = (_CAST, "embedding_dropout", "logits")


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


def classifier_from(
    model: keras.Model,
    input_shape: ImageShape,
    num_classes: int,
    *,
    embedding_dropout: float = 0.0,
) -> keras.Model:
    """Builds a classifier that starts from a model's layers and weights.

    The model is functional or sequential, takes RGB images on the 0-255 scale, and its
    last layer, a linear `keras.layers.Dense`, is replaced. All is copied: the
    classifier shares no variable with it, and computes in the precision policy in use,
    whatever the model's was. Layers that the model froze (`trainable=False`) stay
    frozen: so a user chooses what to train. The head is drawn from Keras's current
    random seed; the embedding that it gets and the logits are at least in float32.

    Raises:
        PmalError: If the model cannot be started from.
    """
    check_initial_model(model, input_shape)
    try:
        copy = with_precision(model, keras.config.dtype_policy().name, input_shape)
    except (TypeError, ValueError) as error:
        raise _wrong(
            "a model whose layers can be built again from their configurations, for "
            f"images of shape {input_shape}",
            f"{model.name}: {first_line(error)}",
            "Save it with other layers, or choose another --image_size",
        ) from error
    # In a model made here, layers are called as those to come.
    taken = {*_NEW_LAYERS, *(layer.name for layer in copy.layers)}
    for layer in copy.layers:
        if layer.name in _NEW_LAYERS:
            while layer.name in taken:
                layer.name = f"initial_{layer.name}"
            taken.add(layer.name)
    embedding = linear_head(copy).input
    if embedding.dtype not in ("float32", "float64"):
        # A layer with weights gives it in half precision.
        embedding = keras.layers.Identity(dtype="float32", name=_CAST)(embedding)
    return with_new_head(
        keras.Model(copy.input, embedding, name="trunk"),
        num_classes,
        embedding_dropout=embedding_dropout,
        name=model.name,
    )


def check_initial_model(model: keras.Model, input_shape: ImageShape) -> None:
    """Checks that a classifier for images [batch, H, W, 3] can start from a model.

    In `input_shape`, (H, W, 3), a side that is not known yet is None.

    Raises:
        PmalError: If it cannot.
    """
    inputs = getattr(model, "inputs", None)
    if inputs is None:
        raise _wrong(
            "a functional or sequential Keras model, whose input is known",
            f"{model.name} ({type(model).__name__})",
            "Build it with `keras.Model(inputs, outputs)` and save it again",
        )
    shapes = [tuple(tensor.shape) for tensor in inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][3] != 3:
        raise _wrong(
            "a model with one input, RGB images of shape [batch, H, W, 3]",
            f"{model.name} with input {' and '.join(map(_text, shapes))}",
            "Save a model with such an input",
        )
    sides, wanted = shapes[0][1:3], input_shape[:2]
    pairs = zip(sides, wanted, strict=True)
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise _wrong(
            "a model for images of the size that the dataset has here, "
            f"{wanted[0]} x {wanted[1]} pixels",
            f"{model.name} for {sides[0]} x {sides[1]}",
            "Set --image_size to the model's, or save the model with an input of "
            "shape (None, None, 3)",
        )
    try:
        head = linear_head(model)
    except PmalError as error:
        raise PmalError(
            f"`init_weights` cannot start from {model.name}. {error}. Models of "
            "keras.applications end so with `classifier_activation=None`."
        ) from error
    outputs = model.outputs
    if len(outputs) != 1 or outputs[0] is not head.output or len(head.input.shape) != 2:
        raise _wrong(
            "a model whose one output is that of its last layer and whose last layer "
            "takes one embedding per image, [batch, D]",
            f"{model.name}, whose last layer makes {_text(head.output.shape)} from "
            f"{_text(head.input.shape)}, with output "
            + " and ".join(_text(output.shape) for output in outputs),
            "Pool before the last layer, e.g. with `GlobalAveragePooling2D`, and end "
            "with it",
        )


def _wrong(rule: str, received: str, way_out: str) -> PmalError:
    """Returns the error for a model that cannot be started from."""
    return PmalError(f"`init_weights` must be {rule}. Received: {received}. {way_out}.")


def _text(shape: tuple[int | None, ...]) -> str:
    """Writes a shape, e.g. `[batch, 32, 32, 3]`."""
    return f"[{', '.join(['batch', *map(str, shape[1:])])}]"
