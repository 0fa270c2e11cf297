"""A trained method, as evaluation, export and prediction see it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from pmal_tf.backbones.inference import forward_in_batches
from pmal_tf.runtime.types import Images

if TYPE_CHECKING:
    import keras

    from pmal_tf.methods.pmal.prototypes import Prototypes


# What every network says.
OUTPUTS = ("embedding", "logits")


class Scorer:
    """Says of images what scores are computed from.

    Args:
        network: Functional model from [batch, H, W, 3] images on the 0-255 scale to
            `{"embedding": [batch, D], "logits": [batch, K]}`; the largest logit is the
            class.

    Attributes:
        largest_distance: The end of the scale of `distance`, where there is one.
        prototypes: The training images that distances rest on, where there are such.
    """

    largest_distance: float = float(np.finfo(np.float32).max)
    prototypes: Prototypes | None = None

    def __init__(self, network: keras.Model) -> None:
        self.network = network

    def prototype_embeddings(self) -> np.ndarray | None:
        """Returns [P, D] embeddings of the prototypes, class by class, if any."""
        return None

    def measure(self, outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Returns `embedding` and `logits`, float32, and `distance` where there is one.

        It is [batch, K]; larger means less like the class.
        """
        return outputs

    def nearest_prototype(self, outputs: dict[str, tf.Tensor]) -> tf.Tensor | None:
        """Returns [batch] ids of the training images that distances rest on most.

        `outputs` are what `measure` returned; None where there are no such images.
        """
        return None

    def facts(self) -> dict[str, Any]:
        """Returns what an exported model's `metadata.json` says of the method."""
        return {}

    def tracked(self) -> Sequence[Any]:
        """Returns the variables beside the network's that an export must hold."""
        return ()

    def outputs(self, images: Images, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Returns `measure`'s outputs as float32 arrays, for [N, H, W, 3] images."""

        def forward(batch: tf.Tensor) -> dict[str, tf.Tensor]:
            outputs = self.network(batch, training=False)
            return self.measure({n: tf.cast(outputs[n], tf.float32) for n in OUTPUTS})

        return forward_in_batches(forward, images, batch_size)
