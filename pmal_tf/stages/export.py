"""Export of the trial's model to `saved_models/<experiment>/trial_<t>/<version>/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pmal_tf.api import load_model
from pmal_tf.serving.export import METADATA, export_saved_model, is_intact
from pmal_tf.stages.mine import load_prototypes
from pmal_tf.trial import Trial
from pmal_tf.workdir import Marker, read_json


def run(trial: Trial) -> tuple[list[str], dict[str, Any]]:
    """Writes the next version of the SavedModel, unless it is there already."""
    config, prototypes = trial.config, load_prototypes(trial)
    evaluated = Marker.read(trial.folder / "evaluate", "evaluate")
    made_from = evaluated.hash if evaluated else None
    versions = sorted(
        (path for path in parent_folder(trial).glob("*") if path.name.isdigit()),
        key=lambda path: int(path.name),
    )
    # A run that was killed between the export and its marker left a good version.
    if versions and is_intact(versions[-1]):
        facts = read_json(versions[-1] / METADATA)
        if facts.get("made_from") == made_from:
            return [], {"version": versions[-1].name}
    number = int(versions[-1].name) + 1 if versions else 1
    folder = parent_folder(trial) / str(number)
    calibration = read_json(trial.folder / "calibration.json")
    export_saved_model(
        load_model(trial.folder / "optimize" / "model.keras"),
        folder,
        prototypes,
        class_names=trial.split.known,
        threshold=calibration["rules"]["dr"]["threshold"],
        metadata={
            "dataset": config.dataset,
            "protocol": trial.split.protocol,
            "trial": trial.number,
            "calibration": calibration,
            "made_from": made_from,
        },
    )
    return [], {"version": folder.name}


def is_stale(trial: Trial, marker: Marker) -> bool:
    """Tells whether the exported version is gone, or not what was written."""
    return not is_intact(parent_folder(trial) / marker.facts["version"])


def parent_folder(trial: Trial) -> Path:
    """Returns the folder of the trial's versions."""
    config = trial.config
    return Path(config.export_dir) / config.experiment / f"trial_{trial.number}"
