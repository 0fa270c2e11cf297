"""PMAL as evaluation and export see it: distances to prototypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.methods.scorer import Scorer
from pmal_tf.mining.distances import SET_DISTANCES
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.types import Images


class PMALScorer(Scorer):
    """Measures point-to-set distances to a model's bank of prototypes.

    Args:
        model: A trained model whose prototypes were refreshed.
        prototypes: The prototypes that its bank was refreshed with.

    Raises:
        PmalError: If the bank is empty, or the prototypes are not its.
    """

    # Of a cosine.
    largest_distance = 2.0

    def __init__(self, model: PMALModel, prototypes: Prototypes | None) -> None:
        super().__init__(model.network)
        self.model = model
        self.mask = keras.ops.convert_to_numpy(model.bank_mask)
        if not self.mask.any():
            raise PmalError(
                "The model's prototypes are not embedded yet; call "
                "`model.refresh_prototypes(...)` after training. Received: an empty "
                "bank"
            )
        if prototypes is None or not np.array_equal(prototypes.mask, self.mask):
            given = "none" if prototypes is None else prototypes.mask.shape
            raise PmalError(
                "`prototypes` must be those that the model's bank was refreshed with, "
                f"{self.mask.shape}. Received: {given}"
            )
        # A variable, since every signature of an export would hold a constant's copy.
        self.bank = tf.Variable(
            keras.ops.convert_to_numpy(model.bank).astype(np.float32),
            trainable=False,
            name="prototypes",
        )
        self._prototypes = prototypes

    @property
    def prototypes(self) -> Prototypes:
        """The training images that distances rest on."""
        return self._prototypes

    def facts(self) -> dict[str, Any]:
        """Returns how prototypes make a distance, and how many there are."""
        return {
            "set_distance": self.model.set_distance,
            "prototypes": int(self.mask.sum()),
        }

    def prototype_embeddings(self) -> np.ndarray:
        """Returns [P, D] rows of the bank, class by class, as selected."""
        return self.bank.numpy()[self.mask]

    def tracked(self) -> Sequence[Any]:
        """Returns the bank."""
        return (self.bank,)

    def outputs(self, images: Images, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Returns the model's own outputs."""
        return self.model.outputs(images, batch_size)

    def measure(self, outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds `distance` [batch, K] in [0, 2] to `embedding` and `logits`."""
        distance, _ = SET_DISTANCES[self.model.set_distance](
            outputs["embedding"], self.bank, tf.constant(self.mask)
        )
        return {**outputs, "distance": distance}

    def nearest_prototype(self, outputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns [batch] ids: in the nearest class, the prototype attended to most.

        Where the distance is that to the nearest prototype, that one.
        """
        embedding = outputs["embedding"]
        nearest_class = tf.argmin(outputs["distance"], axis=1)
        prototypes = tf.gather(self.bank, nearest_class)
        if self.model.set_distance == "nearest":
            prototypes = tf.math.l2_normalize(prototypes, axis=-1)
        # Not the attention itself: rounded, it may be the same of two of them.
        similarity = tf.einsum("bd,btd->bt", embedding, prototypes)
        similarity = tf.where(tf.gather(self.mask, nearest_class), similarity, -np.inf)
        position = tf.argmax(similarity, axis=1)
        ids = tf.constant(self._prototypes.example_id.astype(str))
        return tf.gather(tf.gather(ids, nearest_class), position, batch_dims=1)

    def beside(self, other: Scorer) -> Scorer:
        """Measures another method's distances to the same prototypes.

        Each in its own embedding; one that has distances of its own keeps them.
        """
        if type(other).measure is not Scorer.measure:
            return other
        model = PMALModel(
            *(other.network, self._prototypes.mask.shape[1]),
            set_distance=self.model.set_distance,
        )
        model.refresh_prototypes(self._prototypes.image, self._prototypes.mask)
        return PMALScorer(model, self._prototypes)
