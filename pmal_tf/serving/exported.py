"""Exported models, `<name>/1`, `<name>/2`, ..., as their folders say of themselves."""

from __future__ import annotations

import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import checksum, read_json

METADATA = "metadata.json"
# TensorFlow's name of the folder for files that come along with a SavedModel.
EXTRA = "assets.extra"
SAVED_MODEL = "saved_model.pb"
SIGNATURE = "serving_bytes"


@dataclass(frozen=True)
class Promise:
    """What a model's own threshold was set to.

    Attributes:
        reject_rate: Share of known images that it rejects at most, on average over the
            sets of images that it could have been set on.
        highest_rate: What this one threshold may reject by the luck of its images: 95 %
            of such sets give a lower rate.
        images: How many images it was set on.
    """

    reject_rate: float
    highest_rate: float
    images: int


@dataclass(frozen=True)
class ExportedModel:
    """An exported version, as its `metadata.json` describes it.

    Attributes:
        folder: The version folder.
        title: The experiment that it is from.
        class_names: K names.
        image_size: Side of the images that its network takes.
        rule: What files call the score that it rejects by.
        threshold: Scores above it are unknown.
        threshold_range: Lowest and highest threshold that means anything.
        promise: None where whoever exported the model chose the threshold.
        set_distance: Name of the distance to prototypes; None where there are none.
        attention_sharpness: Its setting of this name, 0 in models older than that.
        centre_embeddings: Likewise.
    """

    folder: Path
    title: str
    class_names: tuple[str, ...]
    image_size: int
    rule: str
    threshold: float
    threshold_range: tuple[float, float]
    promise: Promise | None = None
    set_distance: str | None = None
    attention_sharpness: float = 0.0
    centre_embeddings: bool = False


def versions(parent: Path) -> list[Path]:
    """Returns the version folders, oldest first."""
    found = (path for path in parent.glob("*") if path.name.isdecimal())
    return sorted(found, key=lambda path: int(path.name))


def next_version(parent: Path) -> Path:
    """Returns the folder for the next version, with a number that none has.

    Numbers of versions that were set aside by another name, e.g. `withdrawn_3`, count:
    a log that names a version must not mean two.
    """
    names = (path.name for path in parent.glob("*") if "writing" not in path.name)
    found = (re.fullmatch(r"(?:.*_)?(\d+)", name) for name in names)
    newest = max((int(match[1]) for match in found if match), default=0)
    return parent / str(newest + 1)


def is_intact(folder: Path) -> bool:
    """Tells whether an exported version still is what was written."""
    try:
        facts = read_json(folder / METADATA)
        return facts.get("sha256") == checksum(folder, leave_out=(METADATA,))
    except (OSError, PmalError):
        return False


def remove_old_versions(parent: Path, keep: int) -> list[str]:
    """Removes all but the newest `keep` versions, none for 0; returns the names."""
    for left in parent.glob("removing_*"):  # By a process that was killed.
        shutil.rmtree(left)
    old = versions(parent)[:-keep] if keep else []
    for folder in old:
        # A server must not see a version that is half gone.
        leaving = folder.with_name(f"removing_{folder.name}")
        folder.rename(leaving)
        shutil.rmtree(leaving)
    return [folder.name for folder in old]


def find_version(saved_model: Path) -> tuple[Path, str]:
    """Finds the version folder that is meant by it, or by a folder of versions.

    Returns the folder itself, or the newest intact version in it; and what a person
    should know of the choice, a sentence, or empty.

    Raises:
        PmalError: If there is no exported model.
    """
    if (saved_model / SAVED_MODEL).is_file():
        if is_intact(saved_model):
            return saved_model, ""
        return saved_model, (
            f"The files in {str(saved_model)!r} are not those that were exported: "
            f"their checksum is not the one in {METADATA}."
        )
    damaged: list[str] = []
    for folder in reversed(versions(saved_model)):
        if is_intact(folder):
            passed = f"; passed over as damaged: {', '.join(damaged)}"
            return folder, f"Model: {folder}{passed if damaged else ''}."
        damaged.insert(0, folder.name)
    seen = "without either" if saved_model.exists() else "which does not exist"
    if damaged:
        seen = f"whose versions {', '.join(damaged)} are damaged"
    raise PmalError(
        f"`--saved_model` must be the folder of an exported model (with {SAVED_MODEL}),"
        " or a folder of such versions, e.g. saved_models/cifar10/trial_0. Received: "
        f"{str(saved_model)!r}, {seen}. The export stage of pmal_tf.run writes one."
    )


def read_exported(folder: Path) -> ExportedModel:
    """Reads a version's `metadata.json`.

    Raises:
        PmalError: If there is none, it is damaged, or the model does not take the bytes
            of image files.
    """
    path = folder / METADATA
    try:
        content = read_json(path)
        if SIGNATURE in content["signatures"]:
            return _from_metadata(folder, content)
    except (OSError, PmalError, KeyError, TypeError, ValueError) as error:
        cause = error.__cause__ or error
        raise PmalError(
            f"An exported model must have a sound {METADATA}, with its classes, rule "
            f"and threshold. Received: {str(path)!r}: {type(cause).__name__}: {cause}. "
            "Export the model with pmal_tf, or put a sound copy back."
        ) from error
    raise PmalError(
        f"The model must have the signature {SIGNATURE!r}, which takes the bytes of "
        f"image files. Received: {str(folder)!r} with the signatures "
        f"{sorted(content['signatures'])}. Models of square RGB images have it; export "
        "this one anew with this version of pmal_tf."
    )


def _from_metadata(folder: Path, content: dict[str, Any]) -> ExportedModel:
    """Reads the facts; raises KeyError, TypeError or ValueError where one is not so."""
    names = tuple(str(name) for name in content["class_names"])
    threshold = float(content["threshold"])
    if not names or not math.isfinite(threshold):
        raise ValueError(f"class_names={list(names)}, threshold={threshold}")
    low, high = map(float, content["threshold_range"])
    promise = None
    if set_on := content.get("calibration"):
        highest, images = set_on["rate_interval_90"][1], set_on["calibration_images"]
        promise = Promise(float(set_on["reject_rate"]), float(highest), int(images))
    return ExportedModel(
        folder=folder,
        title=str(content.get("experiment", "Open set classifier")),
        class_names=names,
        image_size=int(content["image_size"]),
        rule=str(content["rule"]),
        threshold=threshold,
        threshold_range=(low, high),
        promise=promise,
        set_distance=content.get("set_distance"),
        attention_sharpness=float(content.get("attention_sharpness", 0.0)),
        centre_embeddings=bool(content.get("centre_embeddings", False)),
    )
