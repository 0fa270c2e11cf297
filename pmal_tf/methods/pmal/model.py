"""PMAL's model: a classifier trained against fixed prototype images (Section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.backbones.inference import forward_in_batches
from pmal_tf.methods.pmal.losses import (
    own_and_nearest_other,
    prototype_loss,
)
from pmal_tf.methods.pmal.settings import PROTOTYPE_MODES
from pmal_tf.mining.distances import SET_DISTANCES
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.types import Images
from pmal_tf.training.losses import classification_loss
from pmal_tf.training.trainable import Trainable

if TYPE_CHECKING:
    from pmal_tf.methods.pmal.prototypes import Prototypes
    from pmal_tf.methods.pmal.scorer import PMALScorer

_LOSSES = ("loss", "classification_loss", "prototype_loss")
# What shows how the prototypes work on the embedding: means over the training images.
_DIAGNOSTICS = (
    *("attention_entropy", "active_hinges", "own_distance", "nearest_other_distance"),
)


@keras.saving.register_keras_serializable("pmal_tf")
class PMALModel(Trainable):
    """Embeds images and measures their distance to every class's prototypes.

    Training takes batches that carry the prototype images as a side input (see
    `pmal_tf.methods.pmal.prototypes.Prototypes.attach`) and minimises Eq. 10. The
    prototypes are fixed images; what they embed to is the current network's affair.
    After the last step call `refresh_prototypes`, which embeds them once more with the
    final weights; inference, saving and export use that bank.

    Args:
        network: Functional model to `{"embedding": [batch, D], "logits": [batch, K]}`,
            from `pmal_tf.backbones.classifier.embedding_and_logits`.
        prototypes_per_class: T, the width of the bank.
        margin: delta of Eq. 9.
        prototype_weight: lambda_p of Eq. 10.
        prototype_mode: `joint`: all prototypes pass through the network with every
            batch, in training mode. `inference`: those that are fed pass by themselves,
            in inference mode and without a gradient. `bank`: those that are fed pass
            with the batch. In the last two modes the others stand in the bank as they
            were last embedded; fill it with `refresh_prototypes` before training.
        prototype_gradient: Whether the gradient flows through prototypes that pass
            with the batch.
        label_smoothing: Share of a label that is spread evenly over all classes.
        set_distance: `attention`, Eq. 11, or `nearest`, to the nearest prototype.
        **kwargs: Passed to `keras.Model`.

    `call` works on tensors, inside Keras; `outputs` and `score` on arrays of any
    length, batch by batch.

    Call returns: A dict of float32 tensors: `embedding` [batch, D], `logits`
    [batch, K], and `distance` [batch, K], the point-to-set distances in [0, 2]; larger
    means less like the class.
    """

    def __init__(
        self,
        network: keras.Model,
        prototypes_per_class: int,
        *,
        margin: float = 0.5,
        prototype_weight: float = 1.0,
        prototype_mode: str = "joint",
        prototype_gradient: bool = True,
        label_smoothing: float = 0.0,
        set_distance: str = "attention",
        **kwargs: Any,
    ) -> None:
        super().__init__(*_LOSSES, *_DIAGNOSTICS, **kwargs)
        if set_distance not in SET_DISTANCES:
            raise PmalError(
                f"`set_distance` must be one of {', '.join(SET_DISTANCES)}. "
                f"Received: set_distance={set_distance!r}"
            )
        if prototype_mode not in PROTOTYPE_MODES:
            raise PmalError(
                f"`prototype_mode` must be one of {', '.join(PROTOTYPE_MODES)}. "
                f"Received: prototype_mode={prototype_mode!r}"
            )
        self.network = network
        self.prototypes_per_class = prototypes_per_class
        self.margin = margin
        self.prototype_weight = prototype_weight
        self.prototype_mode = prototype_mode
        self.prototype_gradient = prototype_gradient
        self.label_smoothing = label_smoothing
        self.set_distance = set_distance
        embedding = network.output["embedding"]
        num_classes = network.output["logits"].shape[-1]
        if num_classes < 2:
            raise PmalError(
                "Eq. 9 compares the own class with another: at least 2 known classes "
                f"are needed. Received: {num_classes}"
            )
        # Variables of the model, not constants: they are saved with it.
        self.bank = self.add_weight(
            shape=(num_classes, prototypes_per_class, embedding.shape[-1]),
            initializer="zeros",
            dtype=embedding.dtype,
            autocast=False,
            trainable=False,
            # All replicas write the same.
            aggregation="only_first_replica",
            name="prototype_embedding",
        )
        self.bank_mask = self.add_weight(
            shape=(num_classes, prototypes_per_class),
            initializer="zeros",
            dtype="bool",
            trainable=False,
            name="prototype_mask",
        )
        self.built = True

    def call(self, image: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Embeds images and measures distances to the bank; see the class."""
        outputs = self.network(image, training=training)
        distance, _ = SET_DISTANCES[self.set_distance](
            outputs["embedding"], self.bank, self.bank_mask
        )
        results = {**outputs, "distance": distance}
        return {name: tf.cast(value, tf.float32) for name, value in results.items()}

    def predict_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Returns `call` on images, or on the images of batches with a side input."""
        features, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        image = features["image"] if isinstance(features, dict) else features
        return self(image, training=False)

    def refresh_prototypes(self, prototype_image: np.ndarray, mask: np.ndarray) -> None:
        """Embeds the prototypes with the current weights into the bank.

        Args:
            prototype_image: [K, T, H, W, 3].
            mask: [K, T] boolean, False where padded.

        Raises:
            PmalError: If the shapes are not the bank's.
        """
        if mask.shape != tuple(self.bank_mask.shape):
            raise PmalError(
                f"Prototypes must be [K, T] = {tuple(self.bank_mask.shape)}. "
                f"Received: mask of shape {mask.shape}"
            )
        flat = prototype_image.reshape(-1, *prototype_image.shape[2:])
        outputs = forward_in_batches(
            lambda image: self.network(image, training=False), flat
        )
        self.bank.assign(outputs["embedding"].reshape(self.bank.shape))
        self.bank_mask.assign(mask)

    def distance_to(
        self, image: Images, prototype_image: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """Returns [N, K] distances to prototypes by the current weights.

        Unlike `refresh_prototypes` and `outputs` it leaves the bank as it is, so that
        it may be called while the model is being trained.

        Args:
            image: [N, H, W, 3] images on the 0-255 scale.
            prototype_image: [K, T, H, W, 3].
            mask: [K, T] boolean, False where padded.
        """

        def embed(images: Images) -> np.ndarray:
            return forward_in_batches(
                lambda batch: self.network(batch, training=False), images
            )["embedding"]

        bank = embed(prototype_image.reshape(-1, *prototype_image.shape[2:]))
        distance, _ = SET_DISTANCES[self.set_distance](
            embed(image), bank.reshape(*mask.shape, -1), mask
        )
        return distance.numpy()

    def outputs(self, image: Images, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Returns `call`'s outputs as arrays for [N, H, W, 3] images."""
        return forward_in_batches(
            lambda batch: self(batch, training=False), image, batch_size
        )

    def score(self, image: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """Distance-based rejection score (DR, Section 5.2).

        Args:
            image: [N, H, W, 3] images on the 0-255 scale.
            batch_size: Images per forward pass.

        Returns:
            [N] float32, min_k d(z, P_k) in [0, 2]; larger means more likely unknown.
        """
        return self.outputs(image, batch_size)["distance"].min(axis=1)

    def scorer(self, prototypes: Prototypes | None) -> PMALScorer:
        """Returns what evaluation and export take for a trained model.

        Args:
            prototypes: Those that the bank was refreshed with.
        """
        from pmal_tf.methods.pmal.scorer import PMALScorer

        return PMALScorer(self, prototypes)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "prototypes_per_class": self.prototypes_per_class,
            "margin": self.margin,
            "prototype_weight": self.prototype_weight,
            "prototype_mode": self.prototype_mode,
            "prototype_gradient": self.prototype_gradient,
            "label_smoothing": self.label_smoothing,
            "set_distance": self.set_distance,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PMALModel:
        """Builds the model that `get_config` describes."""
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})

    def loss_parts(
        self, features: Any, label: tf.Tensor, *, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the per-example parts of Eq. 10, [batch] each, and the logits.

        Beside them, [batch] each: the entropy of the attention to the own prototypes in
        nats (log T where all count the same), whether the hinge of Eq. 9 is active, and
        the distances that it compares.

        Args:
            features: The image with its side input, from `Prototypes.attach`.
            label: [batch] class indices.
            training: The mode of the network.
        """
        _check_side_input(features)
        embedding, logits, prototypes = self._embed(features, training=training)
        # A sample that is itself a prototype would attend to itself at distance zero.
        is_self = (
            features["example_index"][:, None, None] == features["prototype_index"]
        )
        mask = features["prototype_mask"] & ~is_self
        distance, weight = SET_DISTANCES[self.set_distance](embedding, prototypes, mask)
        available = tf.reduce_any(mask, axis=-1)
        classification = classification_loss(logits, label, self.label_smoothing)
        prototype = prototype_loss(distance, label, available, self.margin)
        own, nearest_other, _ = own_and_nearest_other(distance, label, available)
        own_weight = tf.gather(weight, label, batch_dims=1)
        return {
            "loss": classification + self.prototype_weight * prototype,
            "classification_loss": classification,
            "prototype_loss": prototype,
            "attention_entropy": -tf.reduce_sum(
                tf.math.xlogy(own_weight, own_weight), axis=-1
            ),
            "active_hinges": tf.cast(prototype > 0, tf.float32),
            "own_distance": own,
            "nearest_other_distance": nearest_other,
            "logits": logits,
        }

    def _embed(
        self, features: dict[str, tf.Tensor], *, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns embeddings, logits, and [K, T, D] prototype embeddings.

        Prototypes that are not fed in this step stand as they were last embedded.
        """
        image, fed = features["image"], features["prototype_image"]
        if self.prototype_mode == "inference":
            outputs = self.network(image, training=training)
            embedding, logits = outputs["embedding"], outputs["logits"]
            fresh = tf.stop_gradient(self._embed_alone(fed))
        else:
            batch = tf.shape(image)[0]
            together = tf.concat([image, tf.cast(fed, image.dtype)], 0)
            outputs = self.network(together, training=training)
            embedding, logits = outputs["embedding"][:batch], outputs["logits"][:batch]
            fresh = outputs["embedding"][batch:]
            if not self.prototype_gradient:
                fresh = tf.stop_gradient(fresh)
        prototypes = self._placed(fresh, features["prototype_slot"])
        if training and self.prototype_mode != "joint":
            self.bank.assign(tf.stop_gradient(prototypes))
        return embedding, logits, prototypes

    def _embed_alone(self, fed: tf.Tensor) -> tf.Tensor:
        """Returns [S, D] embeddings in inference mode; S may be 0 in some steps."""
        if fed.shape[0] is not None:
            return self.network(fed, training=False)["embedding"]
        # TensorFlow's convolutions on CPUs give a wrong shape for an empty batch.
        padded = tf.pad(fed, [[0, 1], [0, 0], [0, 0], [0, 0]])
        return self.network(padded, training=False)["embedding"][:-1]

    def _placed(self, fresh: tf.Tensor, slot: tf.Tensor) -> tf.Tensor:
        """Returns the bank with fresh embeddings in their places.

        Args:
            fresh: [S, D]; each replica has embedded others, or some the same.
            slot: [S] places k * T + t.

        Returns:
            [K, T, D]. Its gradient reaches the replica that embedded a prototype from
            all that used it: the gradient of a sum over replicas is one itself.
        """
        num_classes, width, dimension = self.bank.shape
        fresh = tf.cast(fresh, self.bank.dtype)
        places = tf.cast(slot, tf.int32)[:, None]
        count = num_classes * width
        placed = tf.scatter_nd(places, fresh, (count, dimension))
        ones = tf.ones_like(slot, self.bank.dtype)
        touched = tf.scatter_nd(places, ones, (count,))
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            placed, touched = replica.all_reduce(
                tf.distribute.ReduceOp.SUM, [placed, touched]
            )
        before = tf.reshape(tf.convert_to_tensor(self.bank), (count, dimension))
        touched = touched[:, None]
        fed = placed / tf.maximum(touched, 1)
        merged = tf.where(touched > 0, fed, tf.stop_gradient(before))
        return tf.reshape(merged, self.bank.shape)


def _check_side_input(features: Any) -> None:
    """Checks, while tracing, that a batch carries the prototypes.

    Raises:
        PmalError: If it does not.
    """
    needed = {"image", "example_index"}
    needed |= {f"prototype_{part}" for part in ("image", "slot", "index", "mask")}
    given = set(features) if isinstance(features, dict) else set()
    if not needed <= given:
        raise PmalError(
            "PMALModel trains on batches that carry the prototype images; make them "
            "with `prototypes.attach(dataset)`. Expected features: "
            f"{sorted(needed)}. Received: {sorted(given) or type(features).__name__}"
        )
