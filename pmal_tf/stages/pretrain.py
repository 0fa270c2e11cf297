"""Pre-training of the softmax classifiers M^1 .. M^U (Section 4.1)."""

from __future__ import annotations

from typing import Any

import keras

from pmal_tf.backbones.classifier import build_classifier
from pmal_tf.config import Config
from pmal_tf.mining.qualities import mc_dropout
from pmal_tf.training.fit import finish, fit_classifier
from pmal_tf.trial import Trial
from pmal_tf.workdir import Marker

# The classifier that a rival of Table 4 needs beside M^1 .. M^U.
MC_DROPOUT = "mc_dropout"


def models(config: Config) -> list[int | str]:
    """Returns the classifiers that are trained before mining: 0 .. U-1, and rivals'."""
    rivals = [MC_DROPOUT] if config.quality == MC_DROPOUT else []
    return [*range(config.num_models), *rivals]


def run(trial: Trial, model: int | str) -> tuple[list[str], dict[str, Any]]:
    """Trains classifier `model`, with weights, order and dropout of its own seed.

    Args:
        trial: The trial.
        model: Its number u, or `MC_DROPOUT` for one with dropout on the embedding.
    """
    rate = mc_dropout.RATE if model == MC_DROPOUT else 0.0
    classifier = new_classifier(trial, "pretrain", model, embedding_dropout=rate)
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
    return [f"{stage}/model.keras"], {"training": trial.data_record["training"]}


def is_stale(trial: Trial, marker: Marker) -> bool:
    """Tells whether a model is of other images than the trial's.

    So it is where training anew on other images was cut short between two models.
    """
    trained, current = marker.facts.get("training"), trial.data_record.get("training")
    return None not in (trained, current) and trained != current


def new_classifier(
    trial: Trial, *purpose: str | int, embedding_dropout: float = 0.0
) -> keras.Model:
    """Returns a classifier with fresh weights for a purpose."""
    keras.utils.set_random_seed(trial.seed("weights", *purpose))
    config = trial.config
    return build_classifier(
        config.backbone,
        trial.train.image.shape[1:],
        len(trial.split.known),
        width=config.width,
        dropout=config.dropout,
        embedding_dropout=embedding_dropout,
    )
