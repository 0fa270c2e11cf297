"""A softmax classifier as the training loop takes it (Eq. 1)."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from pmal_tf.training.losses import classification_loss
from pmal_tf.training.trainable import Trainable


class SoftmaxModel(Trainable):
    """Trains a classifier with the cross-entropy loss.

    The classifier's own variables are trained; save and use the classifier.

    Args:
        classifier: Functional model from [batch, H, W, 3] images to [batch, K] logits.
        label_smoothing: Share of a label that is spread evenly over all classes.
        **kwargs: Passed to `keras.Model`.
    """

    def __init__(
        self, classifier: keras.Model, label_smoothing: float = 0.0, **kwargs: Any
    ) -> None:
        super().__init__("loss", **kwargs)
        self.classifier = classifier
        self.label_smoothing = label_smoothing
        self.built = True

    def call(self, image: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Returns the classifier's logits."""
        return self.classifier(image, training=training)

    def loss_parts(
        self, features: Any, label: tf.Tensor, *, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the cross-entropy and the logits; see the base class.

        Args:
            features: `{"image": [batch, H, W, 3]}`.
            label: [batch] class indices.
            training: The mode of the network.
        """
        logits = self.classifier(features["image"], training=training)
        loss = classification_loss(logits, label, self.label_smoothing)
        return {"loss": loss, "logits": logits}
