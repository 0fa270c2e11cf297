"""Pre-training of the softmax classifiers M^1 .. M^U (Section 4.1)."""

from __future__ import annotations

from typing import Any

import keras

from pmal_tf.backbones.classifier import build_classifier
from pmal_tf.training.fit import finish, fit_classifier
from pmal_tf.trial import Trial


def run(trial: Trial, model: int) -> tuple[list[str], dict[str, Any]]:
    """Trains classifier `model`, with weights, order and dropout of its own seed."""
    classifier = new_classifier(trial, "pretrain", model)
    stage = f"pretrain_{model}"
    records = trial.records(stage)
    fit_classifier(
        classifier,
        trial.pipeline("pretrain", model),
        trial.recipe,
        seed=trial.seed("dropout", "pretrain", model),
        records=records,
    )
    finish(classifier, records)
    return [f"{stage}/model.keras"], {}


def new_classifier(trial: Trial, *purpose: str | int) -> keras.Model:
    """Returns a classifier with fresh weights for a purpose."""
    keras.utils.set_random_seed(trial.seed("weights", *purpose))
    config = trial.config
    return build_classifier(
        config.backbone,
        trial.train.image.shape[1:],
        len(trial.split.known),
        width=config.width,
        dropout=config.dropout,
    )
