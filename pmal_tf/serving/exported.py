"""What an exported model's folder says of itself, read without TensorFlow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pmal_tf.results.scores.score import LARGEST
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import read_json
from pmal_tf.serving.versions import METADATA, is_intact, versions

SAVED_MODEL = "saved_model.pb"
SIGNATURE = "serving_bytes"


@dataclass(frozen=True)
class Promise:
    """What a model's own threshold was set to.

    Attributes:
        reject_rate: Share of known images that it rejects at most, on average over the
            sets of images that it could have been set on.
        highest_rate: What this one threshold may reject all the same, by the luck of
            the images that it was set on: 95 % of such sets give a lower rate.
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
        class_names: K names.
        rule: What files call the score that it rejects by.
        threshold: Scores above it are unknown.
        threshold_range: Lowest and highest threshold that means anything.
        promise: None where whoever exported the model chose the threshold.
    """

    folder: Path
    class_names: tuple[str, ...]
    rule: str
    threshold: float
    threshold_range: tuple[float, float]
    promise: Promise | None


def find_version(saved_model: Path) -> tuple[Path, str]:
    """Finds the version folder that is meant.

    Args:
        saved_model: A version folder, or a folder of version folders.

    Returns:
        The folder itself, or the newest intact version in it; and what a person should
        know of the choice, a sentence, or empty.

    Raises:
        PmalError: If there is no exported model.
    """
    if (saved_model / SAVED_MODEL).is_file():
        if _is_intact(saved_model):
            return saved_model, ""
        return saved_model, (
            f"The files in {str(saved_model)!r} are not those that were exported: "
            f"their checksum is not the one in {METADATA}."
        )
    found = versions(saved_model)
    for folder in reversed(found):
        if _is_intact(folder):
            damaged = [path.name for path in found[found.index(folder) + 1 :]]
            passed = f"; passed over as damaged: {', '.join(damaged)}"
            return folder, f"Model: {folder}{passed if damaged else ''}."
    if found:
        seen = f"whose versions {', '.join(path.name for path in found)} are damaged"
    else:
        seen = "without either" if saved_model.exists() else "which does not exist"
    raise PmalError(
        f"`--saved_model` must be the folder of an exported model (with {SAVED_MODEL}),"
        " or a folder of such versions, e.g. saved_models/cifar10/trial_0. Received: "
        f"{str(saved_model)!r}, {seen}. The export stage of pmal_tf.run writes one."
    )


def _is_intact(folder: Path) -> bool:
    """Tells whether a version is as it was written; what cannot be read is not."""
    try:
        return is_intact(folder)
    except OSError:
        return False


def read_exported(folder: Path) -> ExportedModel:
    """Reads a version's `metadata.json`.

    Args:
        folder: The version folder.

    Raises:
        PmalError: If there is none, it is damaged, or the model does not take the bytes
            of image files.
    """
    path = folder / METADATA
    try:
        content = read_json(path)
        signatures = content.get("signatures", [SIGNATURE])
        exported = _from_metadata(folder, content)
    except OSError as error:
        raise _no_metadata(path, error.strerror or str(error)) from error
    except PmalError as error:
        raise _no_metadata(path, str(error.__cause__ or error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise _no_metadata(path, f"{type(error).__name__}: {error}") from error
    if SIGNATURE not in signatures:
        raise no_signature(folder, signatures)
    return exported


def _from_metadata(folder: Path, content: dict[str, Any]) -> ExportedModel:
    """Reads the facts; raises KeyError, TypeError or ValueError where one is not so."""
    names = tuple(str(name) for name in content["class_names"])
    threshold = float(content["threshold"])
    if not names or not math.isfinite(threshold):
        raise ValueError(f"class_names={list(names)}, threshold={threshold}")
    low, high = map(float, content.get("threshold_range", (-LARGEST, LARGEST)))
    calibration, promise = content.get("calibration"), None
    if calibration is not None:
        rate = float(calibration["reject_rate"])
        # Exports of earlier versions have no interval.
        interval = calibration.get("rate_interval_90", [rate, rate])
        images = int(calibration["calibration_images"])
        promise = Promise(rate, float(interval[1]), images)
    return ExportedModel(
        *(folder, names, str(content["rule"])),
        threshold=threshold,
        threshold_range=(low, high),
        promise=promise,
    )


def _no_metadata(path: Path, reason: str) -> PmalError:
    """Returns the error for facts that are missing or damaged."""
    return PmalError(
        f"An exported model must have a sound {METADATA}, with its classes, rule and "
        f"threshold. Received: {str(path)!r}: {reason}. Export the model with "
        "pmal_tf, or put a sound copy back."
    )


def no_signature(folder: Path, signatures: list[str]) -> PmalError:
    """Returns the error for a model that does not take image files.

    Args:
        folder: The version folder.
        signatures: The names of those it has.
    """
    return PmalError(
        f"The model must have the signature {SIGNATURE!r}, which takes the bytes of "
        f"image files. Received: {str(folder)!r} with the signatures "
        f"{sorted(signatures)}. Models of square RGB images have it; export this one "
        "anew with this version of pmal_tf."
    )
