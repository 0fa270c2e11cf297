"""Export of the trial's model to `saved_models/<experiment>/trial_<t>/<version>/`."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from pmal_tf.api import load_model
from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.serving.export import export_saved_model
from pmal_tf.serving.rules import THRESHOLD_RANGES
from pmal_tf.serving.tflite import convert
from pmal_tf.serving.versions import (
    METADATA,
    is_intact,
    next_version,
    remove_old_versions,
    versions,
)
from pmal_tf.stages.mine import load_prototypes
from pmal_tf.training.model import PMALModel
from pmal_tf.trial import Trial
from pmal_tf.workdir import Marker, read_json


def run(trial: Trial) -> tuple[list[str], dict[str, Any]]:
    """Writes the next version of the SavedModel, unless it is there already."""
    parent, made_from = parent_folder(trial), _made_from(trial)
    existing = versions(parent)[-1:]
    # A run that was killed between the export and its marker left a good version.
    if existing and not trial.config.overwrite and is_intact(existing[0]):
        if read_json(existing[0] / METADATA).get("made_from") == made_from:
            return [], {"version": existing[0].name}
    folder = next_version(parent)
    _export(trial, folder, made_from)
    removed = remove_old_versions(parent, trial.config.keep_versions)
    if removed:
        logging.info("Removed versions %s of %s", ", ".join(removed), parent)
    return [], {"version": folder.name}


def _export(trial: Trial, folder: Path, made_from: str) -> None:
    """Writes a version of the trial's model."""
    prototypes, config = load_prototypes(trial), trial.config
    model = load_model(trial.folder / "optimize" / "model.keras")
    calibration = read_json(trial.folder / "calibration.json")
    threshold = calibration["rules"][config.rule]["threshold"]
    export_saved_model(
        *(model, folder, prototypes),
        class_names=trial.split.known,
        # A distance of 0 may be computed as a little less.
        threshold=float(np.clip(threshold, *THRESHOLD_RANGES[config.rule])),
        rule=config.rule,
        xla=config.export_xla,
        metadata=_facts(trial, calibration) | {"made_from": made_from},
        add=functools.partial(_add_tflite, trial, model, prototypes),
    )


def is_stale(trial: Trial, marker: Marker) -> bool:
    """Tells whether the exported version is gone, or not what was written."""
    return not is_intact(parent_folder(trial) / marker.facts["version"])


def parent_folder(trial: Trial) -> Path:
    """Returns the folder of the trial's versions."""
    config = trial.config
    return Path(config.export_dir) / config.experiment / f"trial_{trial.number}"


def _made_from(trial: Trial) -> str:
    """Returns a hash of all that an export depends on."""
    evaluated = Marker.read(trial.folder / "evaluate", "evaluate")
    settings = trial.config.inputs_of("export")
    content = [evaluated.hash if evaluated else None, settings]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _facts(trial: Trial, calibration: dict[str, Any]) -> dict[str, Any]:
    """Returns what `metadata.json` says of the run."""
    result = read_json(trial.folder / "result.json")
    environment = read_json(trial.folder / "environment.json")
    return {
        "experiment": trial.config.experiment,
        "dataset": trial.config.dataset,
        "protocol": trial.split.protocol,
        "trial": trial.number,
        "unknown_classes": list(trial.split.unknown),
        "unknown_is_estimate": result["unknown_is_estimate"],
        "results": result["models"]["pmal"],
        "calibration": calibration,
        "flags": (trial.folder / "flags.txt").read_text(encoding="utf-8"),
        "git_commit": environment["git_commit"],
    }


def _add_tflite(
    trial: Trial, model: PMALModel, prototypes: Prototypes, folder: Path
) -> dict[str, Any]:
    """Converts the model as `--tflite` asks for; returns facts on what came of it."""
    if not trial.config.tflite:
        return {}
    return {
        "tflite": {
            kind: convert(model, kind, folder, trial.train.image, trial.test)
            for kind in trial.config.tflite
        }
    }
