"""Export of the trial's model to `saved_models/<experiment>/trial_<t>/<version>/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pmal_tf.api import load_model
from pmal_tf.serving.export import export_saved_model
from pmal_tf.stages.mine import load_prototypes
from pmal_tf.trial import Trial
from pmal_tf.workdir import Marker, checksum, read_json


def run(trial: Trial) -> tuple[list[str], dict[str, Any]]:
    """Writes the next version of the SavedModel."""
    config, prototypes = trial.config, load_prototypes(trial)
    calibration = read_json(trial.folder / "calibration.json")
    parent = _parent(trial)
    versions = [int(path.name) for path in parent.glob("*") if path.name.isdigit()]
    folder = parent / str(max(versions, default=0) + 1)
    export_saved_model(
        load_model(trial.folder / "optimize" / "model.keras"),
        folder,
        class_names=trial.split.known,
        prototype_id=prototypes.example_id,
        threshold=calibration["rules"]["dr"]["threshold"],
        metadata={
            "dataset": config.dataset,
            "protocol": config.protocol,
            "trial": trial.number,
            "calibration": calibration,
        },
    )
    return [], {"version": folder.name, "sha256": checksum(folder)}


def is_stale(trial: Trial, marker: Marker) -> bool:
    """Tells whether the exported version is gone, or not what was written."""
    folder = _parent(trial) / marker.facts["version"]
    return not folder.is_dir() or checksum(folder) != marker.facts["sha256"]


def _parent(trial: Trial) -> Path:
    """Returns the folder of the trial's versions."""
    config = trial.config
    return Path(config.export_dir) / config.experiment / f"trial_{trial.number}"
