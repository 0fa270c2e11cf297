"""The stage that trains the network of a `NetworkMethod`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.methods.method import NetworkMethod
from pmal_tf.methods.trial import Trial
from pmal_tf.runtime.stage import Work
from pmal_tf.training.fit import fit, is_trained, save_trained
from pmal_tf.training.trainable import Trainable


class NetworkModel(Trainable):
    """Trains a network with the losses that a method takes of its outputs.

    Args:
        network: Functional model to a dict with `logits` and what the losses need.
        method: Says what the losses are.
        settings: The method's settings.
    """

    def __init__(
        self, network: keras.Model, method: NetworkMethod, settings: Any
    ) -> None:
        super().__init__(*_names_of_losses(network, method, settings))
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


def _names_of_losses(
    network: keras.Model, method: NetworkMethod, settings: Any
) -> list[str]:
    """Returns the names of a method's losses, by taking them of blank images."""
    height, width, channels = (side or 32 for side in network.input.shape[1:])
    blank = tf.zeros((2, height, width, channels))
    outputs = network(blank, training=False)
    return list(method.losses(outputs, tf.constant([0, 1]), settings))


def build_network(trial: Trial, method: NetworkMethod, settings: Any) -> keras.Model:
    """Returns a fresh network, from images to `embedding` and what `head` says."""
    classifier = trial.new_classifier(method.name)
    trunk = embedding_and_logits(classifier)
    embedding = trunk.output["embedding"]
    said = method.head(embedding, trial.num_classes, settings)
    return keras.Model(trunk.input, {"embedding": embedding, **said}, name="network")


def train_network(
    work: Work, trial: Trial, method: NetworkMethod, settings: Any
) -> dict[str, Any]:
    """Trains the network and saves it as the stage's `model.keras`."""
    records = trial.records(work)
    if is_trained(records):
        return {}
    network = build_network(trial, method, settings)
    fit(
        NetworkModel(network, method, settings),
        trial.pipeline(method.name),
        trial.recipe,
        seed=trial.seed("dropout", method.name),
        records=records,
    )
    save_trained(network, records)
    return {}
