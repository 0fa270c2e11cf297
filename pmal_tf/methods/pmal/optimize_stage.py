"""Optimising the embedding against the mined prototypes (Section 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from pmal_tf.methods.loading import load_model
from pmal_tf.methods.pmal.model import PMALModel
from pmal_tf.methods.pmal.prototypes import Prototypes
from pmal_tf.methods.pmal.settings import PMALSettings
from pmal_tf.methods.pmal.train import build_pmal, feed_of, fit_pmal
from pmal_tf.methods.trial import Trial
from pmal_tf.runtime import distribution
from pmal_tf.runtime.stage import Work
from pmal_tf.training.fit import is_trained, save_trained

# Images of held-out classes and of others that are looked at after each epoch.
_MOST_VALIDATED = 2000


def optimize(trial: Trial, settings: PMALSettings, work: Work) -> dict[str, Any]:
    """Trains a `PMALModel`, from M^1 or from scratch."""
    records = trial.records(work)
    if is_trained(records):
        return {}
    if settings.init == "pretrained":
        classifier = load_model(work.path_of("pretrain_0/model.keras"))
    else:
        classifier = trial.new_classifier("optimize")
    prototypes = Prototypes.load(work.path_of("mining/prototypes.npz"))
    model = build_pmal(classifier, prototypes, settings, trial.recipe)
    fit_pmal(
        model,
        trial.pipeline("optimize"),
        prototypes,
        trial.recipe,
        seed=trial.seed("dropout", "optimize"),
        feed=feed_of(settings),
        measure=_held_out_auroc(trial, model, prototypes),
        records=records,
    )
    save_trained(model, records)
    return {}


def _held_out_auroc(
    trial: Trial, model: PMALModel, prototypes: Prototypes
) -> Callable[[], dict[str, float]] | None:
    """Returns how well a model that is being trained rejects held-out known classes.

    None where none are held out: the test's unknown classes are not looked at.
    """
    if not trial.data.tuning_held_out or distribution.several_hosts():
        return None
    test = trial.images.test
    rng = np.random.default_rng(trial.seed("validation"))
    chosen = np.sort(rng.permutation(len(test))[:_MOST_VALIDATED])
    images = test.take(chosen)

    def measure() -> dict[str, float]:
        distance = model.distance_to(
            images.image, prototypes.image, np.asarray(prototypes.mask)
        )
        # A network on its way may overflow; its training goes on or ends elsewhere.
        score = np.nan_to_num(distance.min(axis=1), nan=2.0)
        return {"held_out_auroc": float(roc_auc_score(images.is_unknown, score))}

    return measure
