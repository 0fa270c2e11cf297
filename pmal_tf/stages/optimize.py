"""Optimising the embedding against the mined prototypes (Section 5)."""

from __future__ import annotations

from typing import Any

from pmal_tf.api import load_model
from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.mining.feed import PrototypeFeed
from pmal_tf.stages.mine import load_prototypes
from pmal_tf.stages.pretrain import new_classifier
from pmal_tf.training.fit import finish, fit_pmal
from pmal_tf.training.model import PMALModel
from pmal_tf.trial import Trial


def run(trial: Trial) -> tuple[list[str], dict[str, Any]]:
    """Trains a `PMALModel`, from M^1 or from scratch."""
    config = trial.config
    if config.init == "pretrained":
        classifier = load_model(trial.folder / "pretrain_0" / "model.keras")
    else:
        classifier = new_classifier(trial, "optimize")
    prototypes = load_prototypes(trial)
    model = PMALModel(
        embedding_and_logits(classifier),
        prototypes.mask.shape[1],
        margin=config.margin,
        prototype_weight=config.prototype_weight,
        prototype_mode=config.prototype_mode,
        prototype_gradient=config.prototype_gradient,
        label_smoothing=config.label_smoothing,
    )
    records = trial.records("optimize")
    fit_pmal(
        model,
        trial.pipeline("optimize"),
        prototypes,
        trial.recipe,
        seed=trial.seed("dropout", "optimize"),
        feed=PrototypeFeed.of_mode(
            config.prototype_mode, config.prototype_every, config.prototype_slice
        ),
        records=records,
    )
    finish(model, records)
    return ["optimize/model.keras"], {}
