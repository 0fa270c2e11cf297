"""The control: M^1 trained on with the plain loss, for as long as PMAL was.

Most of what two-stage training gains may be the second stage's warm start; only against
this model can one see what the prototypes added. Order and augmentation are
those of the optimisation.
"""

from __future__ import annotations

from typing import Any

from pmal_tf.api import load_model
from pmal_tf.training.fit import finish, fit_classifier
from pmal_tf.trial import Trial


def run(trial: Trial) -> tuple[list[str], dict[str, Any]]:
    """Trains M^1 on."""
    classifier = load_model(trial.folder / "pretrain_0" / "model.keras")
    records = trial.records("control")
    fit_classifier(
        classifier,
        trial.pipeline("optimize"),
        trial.recipe,
        seed=trial.seed("dropout", "optimize"),
        records=records,
    )
    finish(classifier, records)
    return ["control/model.keras"], {}
