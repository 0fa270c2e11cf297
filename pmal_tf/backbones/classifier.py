"""Softmax classifiers over a backbone, and the way to look inside one."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from pmal_tf.backbones import architectures
from pmal_tf.backbones.layers import ImageShape, full_precision
from pmal_tf.backbones.settings import backbone_names, dropout_of
from pmal_tf.runtime.errors import PmalError


def build_classifier(
    backbone: str,
    input_shape: ImageShape,
    num_classes: int,
    *,
    width: float = 1.0,
    dropout: float | None = None,
    embedding_dropout: float = 0.0,
) -> keras.Model:
    """Builds a backbone with a linear head, Eq. 1.

    It is a functional model from [batch, H, W, 3] images to [batch, K] logits, which
    are at least in float32. The backbone is a file of `backbones/architectures/`, with
    its multiplier of `width` and rate of `dropout`, None for its own;
    `embedding_dropout` is the rate between the embedding and the head.

    Raises:
        PmalError: If the backbone is unknown.
    """
    if backbone not in backbone_names():
        raise PmalError(
            f"`backbone` must be one of {', '.join(backbone_names())}. "
            f"Received: backbone={backbone!r}"
        )
    module = importlib.import_module(f"{architectures.__name__}.{backbone}")
    build = getattr(module, backbone)
    rate = dropout_of(backbone) if dropout is None else dropout
    return with_new_head(
        build(input_shape, width=width, dropout=rate),
        num_classes,
        embedding_dropout=embedding_dropout,
        name=f"{backbone}_classifier",
    )


def with_new_head(
    trunk: keras.Model, num_classes: int, *, embedding_dropout: float, name: str
) -> keras.Model:
    """Puts a fresh linear head on a functional model to [batch, D] embeddings, Eq. 1.

    The [batch, K] logits, and the embedding that the head gets, are at least in
    float32. `embedding_dropout` is the dropout rate between the two.
    """
    embedding = trunk.output
    if embedding_dropout:
        embedding = keras.layers.Dropout(
            embedding_dropout, dtype=full_precision(), name="embedding_dropout"
        )(embedding)
    head = keras.layers.Dense(num_classes, dtype=full_precision(), name="logits")
    return keras.Model(trunk.input, head(embedding), name=name)


def with_precision(
    classifier: keras.Model, policy: str, input_shape: ImageShape | None = None
) -> keras.Model:
    """Returns a copy of a classifier that computes in another precision.

    Weights, BatchNorm statistics, and which layers are frozen (`trainable=False`) are
    those of the original; layers inside of other models and of wrappers are copied and
    switched as well, and nothing is shared. The copy is functional and not compiled.

    Args:
        classifier: A functional or sequential model that ends in a linear layer; that
            layer stays at least in float32, and so do the layers without weights right
            before it that pass the embedding on, such as its pooling.
        policy: A Keras dtype policy, such as `mixed_bfloat16`.
        input_shape: (H, W, 3) of the copy; None: that of the classifier.

    Raises:
        PmalError: If the classifier does not end in a linear layer.
    """
    head = linear_head(classifier)
    # Sequential or not, and without what it was compiled with.
    original = keras.Model(classifier.inputs[0], head.output, name=classifier.name)
    full = [head, *_weightless_before(head, original)]

    def clone(layer: keras.Operation) -> keras.Operation:
        wanted = full_precision(policy) if layer in full else policy
        config = _switched(layer.get_config(), wanted)
        # Some layers write the name of their policy there. Functions of `keras.ops`,
        # which stand in a graph like layers, have none, but may have a `dtype`.
        if isinstance(layer, keras.layers.Layer) and "dtype" in config:
            config["dtype"] = wanted
        return type(layer).from_config(config)

    image = original.input
    copy = keras.models.clone_model(
        original,
        keras.Input(input_shape or image.shape[1:], dtype=image.dtype, name=image.name),
        clone_function=clone,
        recursive=True,
    )
    copy.set_weights(original.get_weights())
    for layer in copy._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            # It computes with constants that it makes from its weights.
            layer.finalize_state()
    return copy


def _weightless_before(
    head: keras.layers.Dense, classifier: keras.Model
) -> Iterator[keras.layers.Layer]:
    """Gives the layers that make the embedding, or pass it on, without weights."""
    for layer in reversed(classifier.layers):
        if layer is head:
            continue
        # A layer that is called more than once has no one output.
        output = getattr(layer, "output", None)
        is_embedding = isinstance(output, keras.KerasTensor) and len(output.shape) == 2
        if layer.weights or not is_embedding:
            return
        yield layer


def _switched(config: Any, policy: str) -> Any:
    """Returns a layer's configuration with every dtype policy in it replaced."""
    if isinstance(config, dict):
        if config.get("class_name") == "DTypePolicy":
            return keras.dtype_policies.serialize(keras.DTypePolicy(policy))
        return {name: _switched(value, policy) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return type(config)(_switched(value, policy) for value in config)
    return config


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

    It is functional, to `{"embedding": [batch, D], "logits": [batch, K]}`.

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
