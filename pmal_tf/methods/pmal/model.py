"""PMAL's model, trained against fixed prototype images (Section 5), and its scorer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.backbones.inference import forward_in_batches
from pmal_tf.methods.pmal.losses import prototype_loss
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.methods.pmal.settings import MODEL_SETTINGS, PMALSettings
from pmal_tf.methods.scorer import Scorer
from pmal_tf.mining.distances import SetDistance
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.types import Images
from pmal_tf.training.losses import classification_loss
from pmal_tf.training.trainable import Trainable

_LOSSES = (
    *("loss", "classification_loss", "prototype_loss"),
    # What shows how the prototypes work on the embedding.
    *("attention_entropy", "active_hinges", "own_distance", "nearest_other_distance"),
)
# What a batch carries.
_FEATURES = (
    *("example_index", "image", "prototype_image", "prototype_index"),
    *("prototype_mask", "prototype_slot"),
)


@keras.saving.register_keras_serializable("pmal_tf")
class PMALModel(Trainable):
    """Embeds images and measures their distance to every class's prototypes.

    Training takes batches that carry the prototype images (see `Prototypes.attach`) and
    minimises Eq. 10. The images are fixed; each step embeds them with the network as it
    then is. After the last step call `refresh_prototypes`, which embeds them with the
    final weights; inference, saving and export use these embeddings.

    `call` works on tensors, inside Keras; `outputs` and `score` on arrays of any
    length. They give float32 `embedding` [batch, D], `logits` [batch, K], and
    `distance` [batch, K], the point-to-set distances in [0, 2].

    Args:
        network: Functional model to `{"embedding": [batch, D], "logits": [batch, K]}`,
            from `pmal_tf.backbones.classifier.embedding_and_logits`.
        prototypes_per_class: T, at most.
        label_smoothing: Share of a label that is spread evenly over all classes.
        **settings: `margin`, `prototype_weight`, `set_distance`, `attention_sharpness`,
            `centre_embeddings`, `prototype_mode` and `prototype_gradient` of
            `PMALSettings`; call `refresh_prototypes` before training in modes other
            than `joint`. The rest goes to `keras.Model`.

    Attributes:
        set_distance: The point-to-set distance of these settings.
    """

    def __init__(
        self,
        network: keras.Model,
        prototypes_per_class: int,
        *,
        label_smoothing: float = 0.0,
        **settings: Any,
    ) -> None:
        own = {name: settings.pop(name) for name in MODEL_SETTINGS if name in settings}
        super().__init__(*_LOSSES, **settings)
        self.settings = PMALSettings(**own)
        self.set_distance = SetDistance(
            self.settings.set_distance,
            float(self.settings.attention_sharpness),
            self.settings.centre_embeddings,
        )
        self.network = network
        self.prototypes_per_class = prototypes_per_class
        self.label_smoothing = label_smoothing
        embedding = network.output["embedding"]
        num_classes = network.output["logits"].shape[-1]
        if num_classes < 2:
            raise PmalError(
                "Eq. 9 compares the own class with another: at least 2 known classes "
                f"are needed. Received: {num_classes}"
            )
        # Variables of the model, not constants: they are saved with it.
        self.prototype_embeddings = self.add_weight(
            shape=(num_classes, prototypes_per_class, embedding.shape[-1]),
            initializer="zeros",
            dtype=embedding.dtype,
            autocast=False,
            trainable=False,
            # All replicas write the same.
            aggregation="only_first_replica",
            name="prototype_embedding",
        )
        self.prototype_mask = self.add_weight(
            shape=(num_classes, prototypes_per_class),
            initializer="zeros",
            dtype="bool",
            trainable=False,
            name="prototype_mask",
        )
        self.built = True

    def call(self, features: Any, training: bool = False) -> dict[str, tf.Tensor]:
        """Embeds images, or those of a batch with prototypes; see the class."""
        image = features["image"] if isinstance(features, dict) else features
        outputs = self.network(image, training=training)
        distance, _ = self.set_distance(
            outputs["embedding"], self.prototype_embeddings, self.prototype_mask
        )
        results = {**outputs, "distance": distance}
        return {name: tf.cast(value, tf.float32) for name, value in results.items()}

    def refresh_prototypes(self, prototype_image: np.ndarray, mask: np.ndarray) -> None:
        """Embeds [K, T, H, W, 3] prototypes with the current weights, and keeps that.

        `mask` is [K, T] boolean, False where padded.

        Raises:
            PmalError: If the shapes are not those of the model.
        """
        if mask.shape != tuple(self.prototype_mask.shape):
            raise PmalError(
                f"Prototypes must be [K, T] = {tuple(self.prototype_mask.shape)}. "
                f"Received: mask of shape {mask.shape}"
            )
        self.prototype_embeddings.assign(self._embedded_prototypes(prototype_image))
        self.prototype_mask.assign(mask)

    def distance_to(
        self, image: Images, prototype_image: np.ndarray, mask: np.ndarray
    ) -> np.ndarray:
        """Returns [N, K] distances to prototypes by the current weights.

        It keeps nothing, so it may be called while the model is being trained.
        """
        prototypes = self._embedded_prototypes(prototype_image)
        return self.set_distance(self._embedded(image), prototypes, mask)[0].numpy()

    def _embedded(self, image: Images) -> np.ndarray:
        """Returns [N, D] embeddings in inference mode."""
        network = functools.partial(self.network, training=False)
        return forward_in_batches(network, image)["embedding"]

    def _embedded_prototypes(self, image: np.ndarray) -> np.ndarray:
        """Returns [K, T, D] embeddings of [K, T, H, W, 3] images."""
        flat = image.reshape(-1, *image.shape[2:])
        return self._embedded(flat).reshape(*image.shape[:2], -1)

    def outputs(self, image: Images, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Returns `call`'s outputs as arrays for [N, H, W, 3] images."""
        return forward_in_batches(
            lambda batch: self(batch, training=False), image, batch_size
        )

    def score(self, image: np.ndarray, batch_size: int = 256) -> np.ndarray:
        """Returns [N] DR scores, min_k d(z, P_k) (Section 5.2); larger: less known."""
        return self.outputs(image, batch_size)["distance"].min(axis=1)

    def scorer(self, prototypes: Prototypes | None) -> PMALScorer:
        """Returns what evaluation and export take for a trained model."""
        return PMALScorer(self, prototypes)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "network": keras.saving.serialize_keras_object(self.network),
            "prototypes_per_class": self.prototypes_per_class,
            "label_smoothing": self.label_smoothing,
            **{name: getattr(self.settings, name) for name in MODEL_SETTINGS},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> PMALModel:
        """Builds the model that `get_config` describes."""
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})

    def loss_parts(
        self, features: Any, label: tf.Tensor, *, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the parts of Eq. 10 for a batch of `Prototypes.attach`, and logits.

        Beside them, [batch] each: the entropy of the attention to the own prototypes in
        nats (log T where all count the same), whether the hinge of Eq. 9 is active, and
        the distances that it compares.
        """
        given = sorted(features) if isinstance(features, dict) else []
        if not set(given).issuperset(_FEATURES):
            raise PmalError(
                f"PMALModel trains on batches with {', '.join(_FEATURES)}. Received: "
                f"{given or type(features).__name__}. "
                "Make such batches with `prototypes.attach(dataset)`."
            )
        embedding, logits, prototypes = self._embed(features, training=training)
        # A sample that is itself a prototype would attend to itself at distance zero.
        is_self = (
            features["example_index"][:, None, None] == features["prototype_index"]
        )
        mask = features["prototype_mask"]
        distance, weight = self.set_distance(embedding, prototypes, mask, is_self)
        available = tf.reduce_any(mask & ~is_self, axis=-1)
        classification = classification_loss(logits, label, self.label_smoothing)
        prototype, own, nearest_other = prototype_loss(
            distance, label, available, self.settings.margin
        )
        own_weight = tf.gather(weight, label, batch_dims=1)
        return {
            "loss": classification + self.settings.prototype_weight * prototype,
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

        Prototypes that do not pass in this step stand as they were last embedded.
        """
        image, passing = features["image"], features["prototype_image"]
        if self.settings.prototype_mode == "inference":
            outputs = self.network(image, training=training)
            embedding, logits = outputs["embedding"], outputs["logits"]
            fresh = tf.stop_gradient(self._embed_alone(passing))
        else:
            batch = tf.shape(image)[0]
            together = tf.concat([image, tf.cast(passing, image.dtype)], 0)
            outputs = self.network(together, training=training)
            embedding, logits = outputs["embedding"][:batch], outputs["logits"][:batch]
            fresh = outputs["embedding"][batch:]
            if not self.settings.prototype_gradient:
                fresh = tf.stop_gradient(fresh)
        prototypes = self._placed(fresh, features["prototype_slot"])
        if training and self.settings.prototype_mode != "joint":
            self.prototype_embeddings.assign(tf.stop_gradient(prototypes))
        return embedding, logits, prototypes

    def _embed_alone(self, passing: tf.Tensor) -> tf.Tensor:
        """Returns [S, D] embeddings in inference mode; S may be 0 in some steps."""
        if passing.shape[0] is not None:
            return self.network(passing, training=False)["embedding"]
        # TensorFlow's convolutions on CPUs give a wrong shape for an empty batch.
        padded = tf.pad(passing, [[0, 1], [0, 0], [0, 0], [0, 0]])
        return self.network(padded, training=False)["embedding"][:-1]

    def _placed(self, fresh: tf.Tensor, slot: tf.Tensor) -> tf.Tensor:
        """Returns all [K, T, D] embeddings, with [S, D] fresh ones in their [S] slots.

        Each replica has embedded others, or some the same. The gradient reaches the
        replica that embedded a prototype from all that used it: the gradient of a sum
        over replicas is one itself.
        """
        num_classes, width, dimension = self.prototype_embeddings.shape
        fresh = tf.cast(fresh, self.prototype_embeddings.dtype)
        places = tf.cast(slot, tf.int32)[:, None]
        count = num_classes * width
        placed = tf.scatter_nd(places, fresh, (count, dimension))
        ones = tf.ones_like(slot, fresh.dtype)
        touched = tf.scatter_nd(places, ones, (count,))
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            placed, touched = replica.all_reduce(
                tf.distribute.ReduceOp.SUM, [placed, touched]
            )
        before = tf.convert_to_tensor(self.prototype_embeddings)
        before = tf.stop_gradient(tf.reshape(before, (count, dimension)))
        touched = touched[:, None]
        merged = tf.where(touched > 0, placed / tf.maximum(touched, 1), before)
        return tf.reshape(merged, (num_classes, width, dimension))


class PMALScorer(Scorer):
    """Measures distances to the prototypes that `model.refresh_prototypes` embedded.

    Raises:
        PmalError: If none are embedded, or `prototypes` are not those.
    """

    largest_distance = 2.0  # Of a cosine.

    def __init__(self, model: PMALModel, prototypes: Prototypes | None) -> None:
        super().__init__(model.network)
        self.model = model
        self.mask = keras.ops.convert_to_numpy(model.prototype_mask)
        if not self.mask.any():
            raise PmalError(
                "The model's prototypes must be embedded. Received: none are. Call "
                "`model.refresh_prototypes(...)` after training."
            )
        if prototypes is None or not np.array_equal(prototypes.mask, self.mask):
            given = "none" if prototypes is None else prototypes.mask.shape
            raise PmalError(
                "`prototypes` must be those that `model.refresh_prototypes` embedded, "
                f"{self.mask.shape}. Received: {given}"
            )
        self.prototypes: Prototypes = prototypes
        # A variable, since every signature of an export would hold a constant's copy.
        self._embeddings = tf.Variable(
            keras.ops.convert_to_numpy(model.prototype_embeddings).astype(np.float32),
            trainable=False,
            name="prototypes",
        )

    def facts(self) -> dict[str, Any]:
        """Returns how prototypes make a distance, and how many there are."""
        names = ("set_distance", "attention_sharpness", "centre_embeddings")
        return {
            **{name: getattr(self.model.settings, name) for name in names},
            "prototypes": int(self.mask.sum()),
        }

    def prototype_embeddings(self) -> np.ndarray:
        """Returns [P, D] embeddings, class by class, as selected."""
        return self._embeddings.numpy()[self.mask]

    def tracked(self) -> Sequence[Any]:
        """Returns the embeddings."""
        return (self._embeddings,)

    def outputs(self, images: Images, batch_size: int = 256) -> dict[str, np.ndarray]:
        """Returns the model's own outputs."""
        return self.model.outputs(images, batch_size)

    def measure(self, outputs: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Adds `distance` [batch, K] in [0, 2] to `embedding` and `logits`."""
        distance, _ = self.model.set_distance(
            outputs["embedding"], self._embeddings, tf.constant(self.mask)
        )
        return {**outputs, "distance": distance}

    def nearest_prototype(self, outputs: dict[str, tf.Tensor]) -> tf.Tensor:
        """Returns [batch] ids: in the nearest class, the prototype attended to most.

        Where the distance is that to the nearest prototype, that one.
        """
        nearest_class = tf.argmin(outputs["distance"], axis=1)
        # Not the attention itself: rounded, it may be the same of two of them.
        similarity = self.model.set_distance.similarity(
            outputs["embedding"], self._embeddings, tf.constant(self.mask)
        )
        similarity = tf.where(self.mask, similarity, -np.inf)
        similarity = tf.gather(similarity, nearest_class, batch_dims=1)
        position = tf.argmax(similarity, axis=1)
        ids = tf.constant(self.prototypes.example_id.astype(str))
        return tf.gather(tf.gather(ids, nearest_class), position, batch_dims=1)
