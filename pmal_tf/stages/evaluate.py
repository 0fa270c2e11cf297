"""Scoring the test images with PMAL, with M^1, and with the control."""

from __future__ import annotations

from typing import Any

import numpy as np

from pmal_tf import distribution
from pmal_tf.api import load_model
from pmal_tf.backbones.classifier import embedding_and_logits
from pmal_tf.evaluation.calibration import WITHHELD, calibrate, calibrate_on_half
from pmal_tf.evaluation.evaluate import ImageScores, score_images, summarise
from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.stages.mine import load_prototypes
from pmal_tf.stages.tensorboard import write_embeddings, write_settings_and_results
from pmal_tf.training.model import PMALModel
from pmal_tf.trial import Trial
from pmal_tf.workdir import Marker, write_atomically, write_json

_SCORES = {
    "pmal": "scores.npz",
    "softmax": "scores_softmax.npz",
    "control": "scores_control.npz",
}
_WITHHELD_SCORES = "scores_calibration.npz"
_PROTOTYPE_EMBEDDINGS = "prototype_embeddings.npz"
# Entries of `data.json` on images that are scored here.
_JUDGED = ("test", "calibration")


def run(trial: Trial) -> tuple[list[str], dict[str, Any]]:
    """Writes scores and metrics of each model, and thresholds for PMAL.

    The distance rule of a model that is not PMAL measures the distance to the same
    prototypes in that model's own embedding.
    """
    config, prototypes = trial.config, load_prototypes(trial)
    models = {
        "pmal": load_model(trial.folder / "optimize" / "model.keras"),
        "softmax": _with_prototypes(trial, "pretrain_0", prototypes),
    }
    if config.control:
        models["control"] = _with_prototypes(trial, "control", prototypes)
    scored = {
        name: score_images(model.outputs(trial.test.image), trial.test)
        for name, model in models.items()
    }
    withheld = None
    if len(trial.calibration):
        outputs = models["pmal"].outputs(trial.calibration.image)
        withheld = score_images(outputs, trial.calibration)
    if not distribution.is_chief():
        return [], {}
    metrics, made = {}, []
    for name, scores in scored.items():
        metrics[name] = summarise(scores, len(trial.split.known))
        write_atomically(trial.folder / _SCORES[name], scores.save)
        made.append(_SCORES[name])
    if withheld is not None:
        write_atomically(trial.folder / _WITHHELD_SCORES, withheld.save)
        made.append(_WITHHELD_SCORES)
    _write_prototype_embeddings(trial, models)
    if config.tensorboard:
        bank = models["pmal"].bank.numpy()
        write_embeddings(trial, scored["pmal"], prototypes, bank)
        write_settings_and_results(trial, metrics["pmal"])
    made.append(_PROTOTYPE_EMBEDDINGS)
    write_json(
        trial.folder / "calibration.json",
        _calibrate(trial, scored["pmal"], withheld),
    )
    write_json(
        trial.folder / "result.json",
        {
            "experiment": config.experiment,
            "dataset": config.dataset,
            "backbone": config.backbone,
            "protocol": trial.split.protocol,
            "trial": trial.number,
            "seed": config.seed,
            "epochs": config.epochs,
            "known": trial.split.known,
            "unknown": trial.split.unknown,
            "openness": trial.split.openness,
            "unknown_is_estimate": (
                trial.source.unknown_is_estimate or config.tuning_held_out
            ),
            "models": metrics,
        },
    )
    return [*made, "calibration.json", "result.json"], {
        name: trial.data_record.get(name) for name in _JUDGED
    }


def _write_prototype_embeddings(trial: Trial, models: dict[str, PMALModel]) -> None:
    """Writes [P, D] embeddings of the prototypes by each model, for pictures.

    Their rows are those of `mining/prototypes.npz`: class by class, as selected.
    """
    arrays = {
        name: model.bank.numpy()[model.bank_mask.numpy()]
        for name, model in models.items()
    }
    write_atomically(
        trial.folder / _PROTOTYPE_EMBEDDINGS,
        lambda path: np.savez(path, allow_pickle=False, **arrays),
    )


def is_stale(trial: Trial, marker: Marker) -> bool:
    """Tells whether images have changed since they were scored.

    Scores that are older than the withheld images lack what is told of thresholds.
    """
    if "calibration" not in marker.facts:
        return True
    for name in _JUDGED:
        scored, current = marker.facts.get(name), trial.data_record.get(name)
        if None not in (scored, current) and scored != current:
            return True
    return False


def _calibrate(
    trial: Trial, test: ImageScores, withheld: ImageScores | None
) -> dict[str, Any]:
    """Returns thresholds and what they reject, the content of `calibration.json`.

    Args:
        trial: The trial.
        test: PMAL's scores of the test images.
        withheld: Those of the images withheld to set thresholds on, if any were.
    """
    reject_rate = trial.config.reject_rate
    if withheld is None:
        return calibrate_on_half(
            *(test.rules, test.is_unknown, test.example_id),
            reject_rate=reject_rate,
            seed=trial.seed("calibration"),
        )
    parts = (test.rules_of(~test.is_unknown), test.rules_of(test.is_unknown))
    return calibrate(withheld.rules, *parts, reject_rate=reject_rate, source=WITHHELD)


def _with_prototypes(trial: Trial, stage: str, prototypes: Prototypes) -> PMALModel:
    """Returns a classifier of this trial with the prototypes embedded in its space."""
    classifier = load_model(trial.folder / stage / "model.keras")
    model = PMALModel(
        *(embedding_and_logits(classifier), prototypes.mask.shape[1]),
        set_distance=trial.config.set_distance,
    )
    model.refresh_prototypes(prototypes.image, np.asarray(prototypes.mask))
    return model
