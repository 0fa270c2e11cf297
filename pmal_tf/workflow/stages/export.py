"""Export of the trial's model to `saved_models/<experiment>/trial_<t>/<version>/`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from pmal_tf.methods.trial import Trial
from pmal_tf.runtime.environment import describe_environment
from pmal_tf.runtime.files import read_json
from pmal_tf.runtime.settings import read_settings
from pmal_tf.runtime.stage import Stage, Work
from pmal_tf.serving.answers import rejection_score
from pmal_tf.serving.export import export_saved_model
from pmal_tf.serving.exported import (
    METADATA,
    is_intact,
    next_version,
    remove_old_versions,
    versions,
)
from pmal_tf.serving.tflite import convert
from pmal_tf.workflow.config import EVALUATE, EXPORT, Config
from pmal_tf.workflow.flags import to_flags
from pmal_tf.workflow.stages.evaluate import STATISTICS


def export_stage(config: Config, trial: Trial) -> Stage:
    """Returns the stage that exports the run's method."""
    parent = parent_folder(config, trial.number)

    def is_there(facts: Mapping[str, Any]) -> bool:
        newest = versions(parent)[-1:]
        if [v.name for v in newest] != [facts["version"]] or not is_intact(newest[0]):
            return False
        # A folder that was emptied meanwhile may hold another model of that number.
        provenance = read_json(newest[0] / METADATA).get("made_from")
        return bool(provenance == facts["made_from"])

    return Stage(
        name=EXPORT,
        kind=EXPORT,
        run=lambda work: _export(config, trial, work),
        needs=(*config.own_method.result_of, EVALUATE),
        reads={
            **read_settings(config.serving),
            "experiment": config.run.experiment,
            "trial": trial.number,
        },
        is_there=is_there,
        distributed=False,
    )


def parent_folder(config: Config, number: int) -> Path:
    """Returns the folder of a trial's versions."""
    serving = Path(config.serving.export_dir)
    return serving / config.run.experiment / f"trial_{number}"


def _export(config: Config, trial: Trial, work: Work) -> dict[str, Any]:
    """Writes the next version of the SavedModel, unless it is there already."""
    parent = parent_folder(config, trial.number)
    # A hash of all that an export depends on.
    provenance = hashlib.sha256(json.dumps(["export", work.key]).encode()).hexdigest()
    existing = versions(parent)[-1:]
    # A run that was killed between the export and its marker left a good version.
    if existing and not config.run.overwrite and is_intact(existing[0]):
        if read_json(existing[0] / METADATA).get("made_from") == provenance:
            return {"version": existing[0].name, "made_from": provenance}
    folder = next_version(parent)
    _write(config, trial, work, folder, provenance)
    removed = remove_old_versions(parent, config.serving.keep_versions)
    if removed:
        logging.info("Removed versions %s of %s", ", ".join(removed), parent)
    return {"version": folder.name, "made_from": provenance}


def _write(
    config: Config, trial: Trial, work: Work, folder: Path, provenance: str
) -> None:
    """Writes a version of the trial's model, and what `metadata.json` says of it."""
    scorer = config.own_method.load(work.path_of)
    score = rejection_score(scorer, config.rule)
    statistics = _statistics(work, score.name)
    calibration = read_json(work.path_of("calibration.json"))
    threshold = calibration["rules"][score.field]["threshold"]
    result = read_json(work.path_of("result.json"))
    metadata = {
        "experiment": config.run.experiment,
        "dataset": trial.data.dataset,
        "protocol": trial.images.split.protocol,
        "trial": trial.number,
        "unknown_classes": list(trial.images.split.unknown),
        "unknown_is_estimate": result["unknown_is_estimate"],
        "method": config.own_method.title,
        "results": result["models"][config.run.method],
        "calibration": calibration,
        "flags": to_flags(config.changed(trials=(trial.number,), overwrite=False)),
        "git_commit": describe_environment(config.run.seed)["git_commit"],
        "made_from": provenance,
    }

    def add_tflite(made: Path) -> dict[str, Any]:
        images = (trial.images.train.image, trial.images.test)
        facts = {
            kind: convert(
                scorer, kind, made, *images, rule=config.rule, statistics=statistics
            )
            for kind in config.serving.tflite
        }
        return {"tflite": facts} if facts else {}

    export_saved_model(
        scorer,
        folder,
        class_names=trial.class_names,
        # A distance of 0 may be computed as a little less.
        threshold=float(np.clip(threshold, score.low, score.high)),
        rule=score.field,
        xla=config.serving.export_xla,
        metadata=metadata,
        statistics=statistics,
        add=add_tflite,
    )


def _statistics(work: Work, score: str) -> dict[str, np.ndarray]:
    """Returns what a score measures against; nothing for most."""
    try:
        path = work.path_of(STATISTICS)
    except FileNotFoundError:
        return {}
    with np.load(path) as stored:
        named = {name.partition("/"): stored[name] for name in stored.files}
    return {inner: v for (owner, _, inner), v in named.items() if owner == score}
