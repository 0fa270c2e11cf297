"""Export of a SavedModel: images in, class or unknown out, prototypes inside."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.environment import library_versions
from pmal_tf.errors import PmalError
from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.quiet import quiet_libraries
from pmal_tf.serving.answers import UNKNOWN, UNKNOWN_ID, Answering
from pmal_tf.serving.model_card import MODEL_CARD, render_model_card
from pmal_tf.serving.prototype_images import save_prototype_images
from pmal_tf.serving.rules import THRESHOLD_RANGES
from pmal_tf.serving.signatures import build_signatures
from pmal_tf.serving.versions import EXTRA, METADATA
from pmal_tf.serving.warm_up import write_batching_parameters, write_warm_up_requests
from pmal_tf.training.model import PMALModel
from pmal_tf.workdir import checksum, write_json, write_text


def export_saved_model(
    model: PMALModel,
    folder: str | Path,
    prototypes: Prototypes,
    *,
    class_names: Sequence[str],
    threshold: float,
    rule: str = "dr",
    xla: bool = False,
    metadata: dict | None = None,
    add: Callable[[Path], dict[str, Any]] | None = None,
) -> None:
    """Writes a SavedModel that TF Serving loads as it is.

    Signatures, all for any number of images:

    * `serving_default`, also named `serving_images`: `images` [batch, h, w, 3] float32
      on the 0-255 scale; other sizes than the model's are resized as in training.
    * `serving_images_threshold`: also takes `threshold` [batch], in place of the
      model's own.
    * `serving_bytes`: `image_bytes` [batch], JPEG, PNG, GIF or BMP files. Gives also
      `error`, empty where a file could be read.
    * `embed`: `images` to `embedding` [batch, D].
    * `serving_images_xla`: as `serving_images`, if asked for.

    Outputs: `class_id` (int64, -1 for unknown), `class_name`, `is_unknown`,
    `unknown_score` (larger is more likely unknown), `distance` [batch, K],
    `probabilities` [batch, K] and `nearest_prototype` (example id of the training image
    that weighs most in the nearest class). What cannot be read, or has a pixel that is
    not a finite number, is unknown; no output is ever NaN or infinite.

    Args:
        model: A trained model whose prototypes were refreshed.
        folder: The version folder to make, e.g. `saved_models/mine/1`.
        prototypes: The prototypes that the model's bank was refreshed with.
        class_names: K names.
        threshold: Scores above it are unknown, on the rule's scale.
        rule: The rejection rule: `dr`, `pr` or `mls`; see `evaluation.scores`.
        xla: Whether to add `serving_images_xla`.
        metadata: Further facts for `metadata.json` and `model_card.md`.
        add: Called with the folder once the model is in it, to add files; returns facts
            for `metadata.json`.

    Raises:
        PmalError: If the folder exists, an argument does not fit the model, or the bank
            is empty.
    """
    folder = Path(folder)
    _check(model, folder, class_names, rule, threshold)
    network = model.network
    answering = Answering(
        network=lambda images: network(images, training=False),
        input_shape=tuple(network.input.shape[1:]),
        bank=tf.Variable(
            keras.ops.convert_to_numpy(model.bank).astype(np.float32),
            trainable=False,
            name="prototypes",
        ),
        mask=keras.ops.convert_to_numpy(model.bank_mask),
        prototype_id=prototypes.example_id,
        class_names=tuple(class_names),
        set_distance=model.set_distance,
        rule=rule,
        threshold=_not_below(threshold),
    )
    facts: dict[str, Any] = {
        "class_names": list(class_names),
        "unknown": {"class_id": UNKNOWN_ID, "class_name": UNKNOWN},
        "rule": rule,
        "threshold": answering.threshold,
        "threshold_range": THRESHOLD_RANGES[rule],
        "image_size": answering.input_shape[0],
        "prototypes": int(answering.mask.sum()),
        "versions": library_versions(),
        **(metadata or {}),
    }
    # TF Serving watches the parent: the version must appear whole. A name that is not
    # a number is not served.
    temporary = folder.with_name(f"writing_{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        facts["signatures"] = _write(answering, network, temporary, xla=xla)
        save_prototype_images(temporary / EXTRA, prototypes, answering)
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
    model: PMALModel,
    folder: Path,
    class_names: Sequence[str],
    rule: str,
    threshold: float,
) -> None:
    """Checks the arguments of `export_saved_model`, which see."""
    num_classes = model.bank.shape[0]
    if len(class_names) != num_classes or len(set(class_names)) != num_classes:
        raise PmalError(
            f"`class_names` must name the {num_classes} known classes, each by a name "
            f"of its own. Received: {list(class_names)}"
        )
    if UNKNOWN in class_names:
        raise PmalError(
            f"No known class may be named {UNKNOWN!r}, which is the answer for images "
            f"of no class. Received: class_names={list(class_names)}. Rename it."
        )
    if rule not in THRESHOLD_RANGES:
        raise PmalError(
            f"`rule` must be one of {', '.join(THRESHOLD_RANGES)}. "
            f"Received: rule={rule!r}"
        )
    low, high = THRESHOLD_RANGES[rule]
    if not low <= threshold <= high:
        raise PmalError(
            f"`threshold` must lie between {low:g} and {high:g} for the rule {rule}. "
            f"Received: threshold={threshold}"
        )
    if not keras.ops.convert_to_numpy(model.bank_mask).any():
        raise PmalError(
            "The model's prototypes are not embedded yet; call "
            "`model.refresh_prototypes(...)` after training. Received: an empty bank"
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


def _write(
    answering: Answering, network: keras.Model, folder: Path, *, xla: bool
) -> list[str]:
    """Writes the graph, its variables and what a server wants beside them.

    Returns:
        The names of the signatures.
    """
    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.track(answering.bank)
    signatures = build_signatures(answering, xla=xla)
    for name, (function, inputs) in signatures.items():
        archive.add_endpoint(name, function, input_signature=inputs)
    with quiet_libraries():
        archive.write_out(str(folder), verbose=False)
    loaded = tf.saved_model.load(str(folder))
    write_warm_up_requests(folder / EXTRA, loaded, answering.input_shape)
    write_batching_parameters(folder / EXTRA)
    return sorted(signatures)
