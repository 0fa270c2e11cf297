"""Export of a SavedModel: images in, class or unknown out."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.methods.scorer import Scorer
from pmal_tf.results.scores.score import Score
from pmal_tf.runtime.console import quiet_libraries
from pmal_tf.runtime.environment import library_versions
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import checksum, write_json, write_text
from pmal_tf.serving.answers import (
    UNKNOWN,
    UNKNOWN_ID,
    Answering,
    rejection_score,
)
from pmal_tf.serving.exported import METADATA
from pmal_tf.serving.extra_files import (
    MODEL_CARD,
    render_model_card,
    save_prototype_images,
    write_serving_files,
)
from pmal_tf.serving.signatures import build_signatures


def export_saved_model(
    model: Any,
    folder: str | Path,
    prototypes: Any = None,
    *,
    class_names: Sequence[str],
    threshold: float,
    rule: str = "",
    xla: bool = False,
    metadata: Mapping[str, Any] | None = None,
    statistics: Mapping[str, np.ndarray] | None = None,
    add: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Writes a SavedModel that TF Serving loads as it is.

    Its signatures, all for any number of images, are `serving_default` (the same as
    `serving_images`), `serving_images_threshold`, `serving_bytes`, `embed` and, if
    asked for, `serving_images_xla`; `saved_models/README.md` has tables of what they
    take and give. What cannot be read, or has a pixel that is not a finite number, is
    unknown; no output is ever NaN or infinite.

    Args:
        model: A trained method's `Scorer`, or a `PMALModel`.
        folder: The version folder to make, e.g. `saved_models/mine/1`.
        prototypes: Of a `PMALModel`, those that it was refreshed with.
        class_names: K names.
        threshold: Scores above it are unknown, on the rule's scale.
        rule: The score to reject by, a name or field of `pmal_tf.results.scores`; by
            default `dr` where distances are measured, else `mls`.
        xla: Whether to add `serving_images_xla`.
        metadata: Further facts for `metadata.json` and `model_card.md`.
        statistics: What the score is measured against, if it is: what its `statistics`
            gave of the training images.
        add: Called with the folder once the model is in it, to add files; returns facts
            for `metadata.json`.

    Raises:
        PmalError: If the folder exists, or an argument does not fit the model.
    """
    folder = Path(folder)
    scorer = model if isinstance(model, Scorer) else model.scorer(prototypes)
    score = rejection_score(scorer, rule)
    _check(scorer, folder, class_names, score, threshold, statistics)
    answering = Answering(
        scorer=scorer,
        class_names=tuple(class_names),
        score=score,
        threshold=_not_below(threshold),
        statistics={
            name: tf.Variable(
                array.astype(np.float32) if array.dtype.kind == "f" else array,
                trainable=False,
            )
            for name, array in (statistics or {}).items()
        },
    )
    facts: dict[str, Any] = {
        "class_names": list(class_names),
        "unknown": {"class_id": UNKNOWN_ID, "class_name": UNKNOWN},
        "rule": score.field,
        "threshold": answering.threshold,
        "threshold_range": (score.low, score.high),
        "image_size": answering.input_shape[0],
        **scorer.facts(),
        "versions": library_versions(),
        **(metadata or {}),
    }
    # TF Serving watches the parent: the version must appear whole. A name that is not
    # a number is not served.
    temporary = folder.with_name(f"writing_{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        facts["signatures"] = _write(answering, temporary, xla=xla)
        save_prototype_images(temporary, scorer)
        if add is not None:
            facts |= add(temporary)
        write_text(temporary / MODEL_CARD, render_model_card(facts))
        facts["sha256"] = checksum(temporary)
        write_json(temporary / METADATA, facts)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _check(
    scorer: Scorer,
    folder: Path,
    class_names: Sequence[str],
    score: Score,
    threshold: float,
    statistics: Mapping[str, np.ndarray] | None,
) -> None:
    """Checks the arguments of `export_saved_model`."""
    count, names = scorer.network.output["logits"].shape[-1], list(class_names)
    if len(names) != count or len(set(names)) != count:
        raise PmalError(
            f"`class_names` must name the {count} known classes, each by a name of its "
            f"own. Received: {names}"
        )
    if UNKNOWN in names:
        raise PmalError(
            f"No known class may be named {UNKNOWN!r}, which is the answer for images "
            f"of no class. Received: class_names={names}. Rename it."
        )
    if not score.low <= threshold <= score.high:
        raise PmalError(
            f"`threshold` must lie between {score.low:g} and {score.high:g} for the "
            f"rule {score.field}. Received: threshold={threshold}"
        )
    if score.statistics is not None and not statistics:
        raise PmalError(
            f"The rule {score.name} is measured against the training images: "
            "`statistics` must be what its `statistics` gives of them. "
            f"Received: statistics={statistics}"
        )
    if folder.exists():
        raise PmalError(
            "A served version is never overwritten; choose the next number. "
            f"Received: folder={str(folder)!r}, which exists"
        )


def _not_below(threshold: float) -> float:
    """Returns the smallest float32 number that is not below a threshold.

    The graph compares in float32. Rounded down, the threshold would reject the very
    image that it was set by, and break a promise that counts it.
    """
    rounded = np.float32(threshold)
    # NumPy would compare a Python number in float32 as well.
    if float(rounded) < threshold:
        rounded = np.nextafter(rounded, np.float32(math.inf))
    return float(rounded)


def _write(answering: Answering, folder: Path, *, xla: bool) -> list[str]:
    """Writes what a server wants; returns the names of the signatures."""
    archive = keras.export.ExportArchive()
    scorer = answering.scorer
    for tracked in (scorer.network, *scorer.tracked(), *answering.statistics.values()):
        archive.track(tracked)
    signatures = build_signatures(answering, xla=xla)
    for name, (function, inputs) in signatures.items():
        archive.add_endpoint(name, function, input_signature=inputs)
    with quiet_libraries():
        archive.write_out(str(folder), verbose=False)
    write_serving_files(folder, answering)
    return sorted(signatures)
