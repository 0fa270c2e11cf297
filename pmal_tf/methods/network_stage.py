"""The stage that trains the network of a `NetworkMethod`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.methods.method import NetworkMethod
from pmal_tf.methods.trial import Trial
from pmal_tf.runtime.settings import read_settings
from pmal_tf.runtime.stage import Stage, Work
from pmal_tf.training.fit import StageRecords, fit
from pmal_tf.training.trainable import Trainable


class NetworkModel(Trainable):
    """Trains a network with the losses that a method takes of its outputs."""

    def __init__(
        self, network: keras.Model, method: NetworkMethod, settings: Any
    ) -> None:
        # The losses' names are found by taking them of blank images.
        height, width, channels = (side or 32 for side in network.input.shape[1:])
        outputs = network(tf.zeros((2, height, width, channels)), training=False)
        super().__init__(*method.losses(outputs, tf.constant([0, 1]), settings))
        self.network = network
        self.method = method
        self.settings = settings
        self.built = True

    def call(self, image: tf.Tensor, training: bool = False) -> dict[str, tf.Tensor]:
        """Returns the network's outputs."""
        return self.network(image, training=training)

    def loss_parts(
        self, features: Any, label: tf.Tensor, *, training: bool
    ) -> dict[str, tf.Tensor]:
        """Returns the losses and the logits; see the base class."""
        outputs = self.network(features["image"], training=training)
        losses = self.method.losses(outputs, label, self.settings)
        return {**losses, "logits": outputs["logits"]}


def network_stage(trial: Trial, method: NetworkMethod, settings: Any) -> Stage:
    """Returns the stage, of the method's name.

    Its network goes from images to `embedding` and what the method's `head` says.
    """

    def train(_: Work, records: StageRecords) -> keras.Model:
        trunk = embedding_and_logits(trial.new_classifier(method.name))
        embedding = trunk.output["embedding"]
        outputs = method.head(embedding, trial.num_classes, settings)
        network = keras.Model(
            trunk.input, {"embedding": embedding, **outputs}, name="network"
        )
        fit(
            NetworkModel(network, method, settings),
            trial.pipeline(method.name),
            trial.recipe,
            seed=trial.seed("dropout", method.name),
            records=records,
        )
        return network

    return trial.training_stage(method.name, train, reads=read_settings(settings))
