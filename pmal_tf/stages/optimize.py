"""Optimising the embedding against the mined prototypes (Section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from pmal_tf import distribution
from pmal_tf.api import load_model
from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.mining.feed import PrototypeFeed
from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.stages.mine import load_prototypes
from pmal_tf.stages.pretrain import new_classifier
from pmal_tf.training.fit import finish, fit_pmal
from pmal_tf.training.model import PMALModel
from pmal_tf.trial import Trial

# Images of held-out classes and of others that are looked at after each epoch.
_MOST_VALIDATED = 2000


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
        set_distance=config.set_distance,
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
        measure=_held_out_auroc(trial, model, prototypes),
        records=records,
    )
    finish(model, records)
    return ["optimize/model.keras"], {}


def _held_out_auroc(
    trial: Trial, model: PMALModel, prototypes: Prototypes
) -> Callable[[], dict[str, float]] | None:
    """Returns how well a model that is being trained rejects held-out known classes.

    None where none are held out: the test's unknown classes are not looked at.
    """
    if not trial.config.tuning_held_out or distribution.several_hosts():
        return None
    rng = np.random.default_rng(trial.seed("validation"))
    chosen = np.sort(rng.permutation(len(trial.test))[:_MOST_VALIDATED])
    images = trial.test.take(chosen)

    def measure() -> dict[str, float]:
        distance = model.distance_to(
            images.image, prototypes.image, np.asarray(prototypes.mask)
        )
        # A network on its way may overflow; its training goes on or ends elsewhere.
        score = np.nan_to_num(distance.min(axis=1), nan=2.0)
        return {"held_out_auroc": float(roc_auc_score(images.is_unknown, score))}

    return measure
