"""What the training loop trains: a model that says what its losses are."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from pmal_tf.training.losses import classification_loss


class Trainable(keras.Model):
    """Takes steps on the mean of per-example losses over the *global* batch.

    A subclass says what the losses are (`loss_parts`), and names those to be tracked;
    `loss` is minimised. Under `tf.distribute` the gradients of several replicas add up
    to the gradient of one that sees all their batches.
    """

    def __init__(self, *losses: str, **kwargs: Any) -> None:
        # Losses and distances are computed in float32 whatever the policy.
        super().__init__(autocast=False, **kwargs)
        self.loss_trackers = [keras.metrics.Mean(name=name) for name in losses]
        self.accuracy_tracker = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    @property
    def optimizers(self) -> dict[str, keras.optimizers.Optimizer]:
        """The optimisers by name: one for most, more for a method with a generator.

        The learning rate of the first is recorded; checkpoints hold all. A subclass
        with several overrides this, `variables_of` and `train_step`.
        """
        return {"network": self.optimizer}

    def variables_of(self, optimizer: str) -> list[keras.Variable]:
        """Returns the variables that an optimiser changes."""
        del optimizer
        return self.trainable_variables

    def build_optimizers(self) -> None:
        """Makes the optimisers' variables: replicas cannot make them within a step."""
        for name, optimizer in self.optimizers.items():
            optimizer.build(self.variables_of(name))

    def loss_parts(
        self, features: Any, label: tf.Tensor, *, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns `loss` and the other losses, [batch] each, and `logits` [batch, K].

        `features` are what the batch holds beside the label, which is [batch] class
        indices; `training` is the mode of the network.
        """
        raise NotImplementedError

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Takes one step; returns the running means of the losses."""
        features, label, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            parts = self.loss_parts(features, label, training=True)
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
        parts = self.loss_parts(features, label, training=False)
        return self._track(parts, label, sample_weight)

    def _track(
        self, parts: dict[str, tf.Tensor], label: tf.Tensor, weight: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """Updates the metrics, each from the part of its name; returns their values."""
        for tracker in self.loss_trackers:
            tracker.update_state(parts[tracker.name], weight)
        self.accuracy_tracker.update_state(label, parts["logits"], weight)
        return {metric.name: metric.result() for metric in self.metrics}


class SoftmaxModel(Trainable):
    """Trains a classifier, from images to [batch, K] logits, with the loss of Eq. 1.

    The classifier's own variables are trained; save and use the classifier.
    """

    def __init__(self, classifier: keras.Model, label_smoothing: float = 0.0) -> None:
        super().__init__("loss")
        self.classifier = classifier
        self.label_smoothing = label_smoothing
        self.built = True

    def call(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the classifier's logits."""
        return self.classifier(image, training=training)

    def loss_parts(
        self, features: Any, label: tf.Tensor, *, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the cross-entropy and the logits of `{"image": [batch, H, W, 3]}`."""
        logits = self.classifier(features["image"], training=training)
        loss = classification_loss(logits, label, self.label_smoothing)
        return {"loss": loss, "logits": logits}
