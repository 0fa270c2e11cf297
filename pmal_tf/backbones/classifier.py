"""Softmax classifiers over a backbone, and the way to look inside one."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from pmal_tf.backbones.oscri import oscri
from pmal_tf.backbones.resnet50 import resnet50
from pmal_tf.backbones.wrn_40_4 import wrn_40_4
from pmal_tf.errors import PmalError

BACKBONES: dict[str, Callable[..., keras.Model]] = {
    "oscri": oscri,
    "resnet50": resnet50,
    "wrn_40_4": wrn_40_4,
}


def build_classifier(
    backbone: str,
    input_shape: tuple[int | None, int | None, int],
    num_classes: int,
    *,
    width: float = 1.0,
    dropout: float = 0.2,
    embedding_dropout: float = 0.0,
) -> keras.Model:
    """Builds a backbone with a linear head, Eq. 1.

    Args:
        backbone: A name in `BACKBONES`.
        input_shape: (H, W, 3).
        num_classes: Number K of known classes.
        width: The backbone's width multiplier.
        dropout: The backbone's dropout rate.
        embedding_dropout: Dropout rate of the embedding before the head.

    Returns:
        A functional model from [batch, H, W, 3] images to [batch, K] float32 logits.

    Raises:
        PmalError: If the backbone is unknown.
    """
    if backbone not in BACKBONES:
        raise PmalError(
            f"`backbone` must be one of {', '.join(BACKBONES)}. "
            f"Received: backbone={backbone!r}"
        )
    trunk = BACKBONES[backbone](input_shape, width=width, dropout=dropout)
    # Under mixed precision the head stays in float32, or probabilities saturate.
    head = keras.layers.Dense(num_classes, dtype="float32", name="logits")
    embedding = trunk.output
    if embedding_dropout:
        dropped = keras.layers.Dropout(embedding_dropout, name="embedding_dropout")
        embedding = dropped(embedding)
    return keras.Model(trunk.input, head(embedding), name=f"{backbone}_classifier")


def with_precision(classifier: keras.Model, policy: str) -> keras.Model:
    """Returns a copy of a classifier that computes in another precision.

    Args:
        classifier: A functional model that ends in a linear layer; that layer stays in
            float32.
        policy: A Keras dtype policy: `float32`, `mixed_bfloat16`, `mixed_float16`.

    Raises:
        PmalError: If the classifier does not end in a linear layer.
    """
    head = linear_head(classifier)

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if layer is not head and not isinstance(layer, keras.layers.InputLayer):
            config["dtype"] = policy
        return type(layer).from_config(config)

    copy = keras.models.clone_model(classifier, clone_function=clone)
    copy.set_weights(classifier.get_weights())
    return copy


def linear_head(classifier: keras.Model) -> keras.layers.Dense:
    """Returns the last layer of a classifier.

    Raises:
        PmalError: If that is not a linear layer, so that there is no embedding z.
    """
    head = classifier.layers[-1]
    if not isinstance(head, keras.layers.Dense) or (
        head.activation is not keras.activations.linear
    ):
        raise PmalError(
            "A classifier must end in a linear `keras.layers.Dense`, whose input is "
            "the embedding z and whose output the logits. Received: last layer "
            f"{head.name} ({type(head).__name__})"
        )
    return head


def embedding_and_logits(classifier: keras.Model) -> keras.Model:
    """Returns a model of the same layers that also gives z, the head's input.

    Args:
        classifier: A functional model from images to logits.

    Returns:
        A functional model to `{"embedding": [batch, D], "logits": [batch, K]}`.

    Raises:
        PmalError: If the classifier does not end in a linear layer.
    """
    head = linear_head(classifier)
    outputs = {"embedding": head.input, "logits": head.output}
    return keras.Model(classifier.inputs[0], outputs, name="network")


def head_weights(classifier: keras.Model) -> tuple[np.ndarray, np.ndarray]:
    """Returns the [D, K] kernel W and the [K] bias of the last linear layer.

    Raises:
        PmalError: If the classifier does not end in a linear layer.
    """
    head = linear_head(classifier)
    kernel = keras.ops.convert_to_numpy(head.kernel)
    if head.bias is None:
        return kernel, np.zeros(kernel.shape[1], kernel.dtype)
    return kernel, keras.ops.convert_to_numpy(head.bias)
