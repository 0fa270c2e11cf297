"""PMAL's model: a classifier trained against fixed prototype images (Section 5)."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.distances import point_to_set_distance
from pmal_tf.errors import PmalError
from pmal_tf.inference import forward_in_batches
from pmal_tf.losses import classification_loss, prototype_loss

PROTOTYPE_MODES = ("joint", "inference")


@keras.saving.register_keras_serializable("pmal_tf")
class PMALModel(keras.Model):
    """Embeds images and measures their distance to every class's prototypes.

    Training takes batches that carry the prototype images as a side input (see
    `pmal_tf.mining.prototypes.Prototypes.attach`) and minimises Eq. 10. The prototypes
    are fixed images; what they embed to is the current network's affair. After the last
    step call `refresh_prototypes`, which embeds them once more with the final weights;
    inference, saving and export use that bank.

    Args:
        network: Functional model to `{"embedding": [batch, D], "logits": [batch, K]}`,
            from `pmal_tf.backbones.classifier.embedding_and_logits`.
        prototypes_per_class: T, the width of the bank.
        margin: delta of Eq. 9.
        prototype_weight: lambda_p of Eq. 10.
        prototype_mode: `joint`: prototypes pass through the network with the batch, in
            training mode. `inference`: in a pass of their own, in inference mode.
        prototype_gradient: Whether the gradient flows through the prototypes.
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
        **kwargs: Any,
    ) -> None:
        # Distances are computed in float32 whatever the policy: neither the inputs nor
        # the bank may be rounded to half precision on the way.
        super().__init__(autocast=False, **kwargs)
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
        dimension = network.output["embedding"].shape[-1]
        num_classes = network.output["logits"].shape[-1]
        if num_classes < 2:
            raise PmalError(
                "Eq. 9 compares the own class with another: at least 2 known classes "
                f"are needed. Received: {num_classes}"
            )
        # Variables of the model, not constants: they are saved with it.
        self.bank = self.add_weight(
            shape=(num_classes, prototypes_per_class, dimension),
            initializer="zeros",
            dtype="float32",
            autocast=False,
            trainable=False,
            name="prototype_embedding",
        )
        self.bank_mask = self.add_weight(
            shape=(num_classes, prototypes_per_class),
            initializer="zeros",
            dtype="bool",
            trainable=False,
            name="prototype_mask",
        )
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.classification_tracker = keras.metrics.Mean(name="classification_loss")
        self.prototype_tracker = keras.metrics.Mean(name="prototype_loss")
        self.accuracy_tracker = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.built = True

    def call(self, image: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Embeds images and measures distances to the bank; see the class."""
        outputs = self.network(image, training=training)
        embedding = tf.cast(outputs["embedding"], tf.float32)
        distance = point_to_set_distance(embedding, self.bank, self.bank_mask)
        return {
            "embedding": embedding,
            "logits": tf.cast(outputs["logits"], tf.float32),
            "distance": distance,
        }

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Takes one step on Eq. 10; returns the running means of its parts."""
        features, label, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        _check_side_input(features)
        with tf.GradientTape() as tape:
            parts = self._loss_parts(features, label, training=True)
            # Per-example losses over the *global* batch, so that gradients of several
            # replicas add up to the gradient of one.
            loss = tf.nn.compute_average_loss(parts["loss"], sample_weight)
            if self.losses:  # Regularisers of the network, where it brings any.
                loss += tf.nn.scale_regularization_loss(tf.add_n(self.losses))
            # float16 gradients vanish unless the loss is scaled up; `apply` scales the
            # gradients down again. Elsewhere this changes nothing.
            scaled_loss = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled_loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return self._track(parts, label, sample_weight)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Returns the running means of the losses in inference mode."""
        features, label, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        _check_side_input(features)
        parts = self._loss_parts(features, label, training=False)
        return self._track(parts, label, sample_weight)

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

    def outputs(
        self, image: np.ndarray, batch_size: int = 256
    ) -> dict[str, np.ndarray]:
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
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PMALModel:
        """Builds the model that `get_config` describes."""
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})

    def _loss_parts(
        self, features: dict[str, tf.Tensor], label: tf.Tensor, *, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the per-example parts of Eq. 10, [batch] each, and the logits."""
        embedding, logits, prototypes = self._embed(features, training=training)
        # A sample that is itself a prototype would attend to itself at distance zero.
        is_self = (
            features["example_index"][:, None, None] == features["prototype_index"]
        )
        mask = features["prototype_mask"] & ~is_self
        distance = point_to_set_distance(embedding, prototypes, mask)
        available = tf.reduce_any(mask, axis=-1)
        classification = classification_loss(logits, label)
        prototype = prototype_loss(distance, label, available, self.margin)
        return {
            "loss": classification + self.prototype_weight * prototype,
            "classification_loss": classification,
            "prototype_loss": prototype,
            "logits": logits,
        }

    def _embed(
        self, features: dict[str, tf.Tensor], *, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Returns embeddings, logits, and [K, T, D] prototype embeddings."""
        image = features["image"]
        images_of_sets = features["prototype_image"]
        batch = tf.shape(image)[0]
        flat = tf.reshape(images_of_sets, (-1, *images_of_sets.shape[2:]))
        if self.prototype_mode == "joint":
            flat = tf.cast(flat, image.dtype)
            outputs = self.network(tf.concat([image, flat], 0), training=training)
            embedding, logits = outputs["embedding"][:batch], outputs["logits"][:batch]
            prototypes = outputs["embedding"][batch:]
        else:
            outputs = self.network(image, training=training)
            embedding, logits = outputs["embedding"], outputs["logits"]
            prototypes = self.network(flat, training=False)["embedding"]
        prototypes = tf.reshape(prototypes, self.bank.shape)
        if not self.prototype_gradient:
            prototypes = tf.stop_gradient(prototypes)
        return embedding, logits, prototypes

    def _track(
        self,
        parts: dict[str, tf.Tensor],
        label: tf.Tensor,
        sample_weight: tf.Tensor | None,
    ) -> dict[str, tf.Tensor]:
        """Updates the metrics, each from the part of its name; returns their values."""
        for tracker in (
            self.loss_tracker,
            self.classification_tracker,
            self.prototype_tracker,
        ):
            tracker.update_state(parts[tracker.name], sample_weight)
        self.accuracy_tracker.update_state(label, parts["logits"], sample_weight)
        return {metric.name: metric.result() for metric in self.metrics}


def _check_side_input(features: Any) -> None:
    """Checks, while tracing, that a batch carries the prototypes.

    Raises:
        PmalError: If it does not.
    """
    needed = {"image", "example_index", "prototype_image", "prototype_index"}
    needed.add("prototype_mask")
    given = set(features) if isinstance(features, dict) else set()
    if not needed <= given:
        raise PmalError(
            "PMALModel trains on batches that carry the prototype images; make them "
            "with `prototypes.attach(dataset)`. Expected features: "
            f"{sorted(needed)}. Received: {sorted(given) or type(features).__name__}"
        )
