"""BatchNorm over the global batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras


@contextmanager
def synchronized_batch_norm(model: keras.Model) -> Iterator[None]:
    """Lets every BatchNorm of a model see the global batch while it is trained.

    Layers are switched, not built so: a model may come from a file, and train on other
    devices next.
    """
    layers = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    before = [layer.synchronized for layer in layers]
    for layer in layers:
        layer.synchronized = True
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.synchronized = value
