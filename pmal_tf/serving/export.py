"""Export of a SavedModel: images in, class or unknown out, prototypes inside."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pmal_tf.data.resize import resize_images
from pmal_tf.distances import point_to_set_distance
from pmal_tf.errors import PmalError
from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.quiet import quiet_libraries
from pmal_tf.training.model import PMALModel
from pmal_tf.workdir import checksum, read_json, write_json

UNKNOWN = "unknown"
METADATA = "metadata.json"


def export_saved_model(
    model: PMALModel,
    folder: str | Path,
    prototypes: Prototypes,
    *,
    class_names: Sequence[str],
    threshold: float,
    metadata: dict | None = None,
) -> None:
    """Writes a SavedModel that TF Serving loads as it is.

    The signature `serving_default`, also named `serving_images`, takes `images`
    [batch, None, None, 3] float32 on the 0-255 scale; other sizes than the model's are
    resized as in training. It gives, per image: `class_id` (int64, -1 for unknown),
    `class_name`, `is_unknown`, `unknown_score` (min_k distance, larger is more likely
    unknown), `distance` [batch, K], `probabilities` [batch, K] and `nearest_prototype`
    (example id of the training image that weighs most in the nearest class).

    Args:
        model: A trained model whose prototypes were refreshed.
        folder: The version folder to make, e.g. `saved_models/mine/1`.
        prototypes: The prototypes that the model's bank was refreshed with.
        class_names: K names.
        threshold: Scores above it are unknown, on the `dr` scale.
        metadata: Further facts for `metadata.json`.

    Raises:
        PmalError: If the folder exists, the names do not fit the model, or the bank is
            empty.
    """
    folder = Path(folder)
    num_classes = model.bank.shape[0]
    if len(class_names) != num_classes:
        raise PmalError(
            f"`class_names` must name the {num_classes} known classes. "
            f"Received: {list(class_names)}"
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
    facts: dict[str, Any] = {
        "class_names": list(class_names),
        "rule": "dr",
        "threshold": threshold,
        **(metadata or {}),
    }
    # TF Serving watches the parent: the version must appear whole. A name that is not
    # a number is not served.
    temporary = folder.with_name(f"writing_{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    _write(model, temporary, class_names, prototypes.example_id, threshold)
    facts["sha256"] = checksum(temporary)
    write_json(temporary / METADATA, facts)
    temporary.rename(folder)


def is_intact(folder: Path) -> bool:
    """Tells whether an exported version still is what was written."""
    try:
        facts = read_json(folder / METADATA)
    except (OSError, PmalError):
        return False
    return facts.get("sha256") == checksum(folder, leave_out=(METADATA,))


def _write(
    model: PMALModel,
    folder: Path,
    class_names: Sequence[str],
    prototype_id: np.ndarray,
    threshold: float,
) -> None:
    """Writes the graph and its variables."""
    network = model.network
    _, height, _, channels = network.input.shape
    bank = tf.constant(keras.ops.convert_to_numpy(model.bank), tf.float32)
    mask = tf.constant(keras.ops.convert_to_numpy(model.bank_mask))
    names = tf.constant([*class_names, UNKNOWN])
    ids = tf.constant(prototype_id.astype(str))

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        if height is not None:
            images = resize_images(images, height)
        outputs = network(images, training=False)
        embedding = tf.cast(outputs["embedding"], tf.float32)
        distance = point_to_set_distance(embedding, bank, mask)
        score = tf.reduce_min(distance, axis=1)
        is_unknown = score > threshold
        predicted = tf.argmax(outputs["logits"], axis=1)
        class_id = tf.where(is_unknown, tf.constant(-1, tf.int64), predicted)
        # Position K of the names is `unknown`.
        name_index = tf.where(
            is_unknown, tf.constant(len(class_names), tf.int64), predicted
        )
        return {
            "class_id": class_id,
            "class_name": tf.gather(names, name_index),
            "is_unknown": is_unknown,
            "unknown_score": score,
            "distance": distance,
            "probabilities": tf.nn.softmax(outputs["logits"]),
            "nearest_prototype": _nearest_prototype(
                embedding, distance, bank, mask, ids
            ),
        }

    archive = keras.export.ExportArchive()
    archive.track(network)
    signature = [tf.TensorSpec((None, None, None, channels), tf.float32, name="images")]
    for endpoint in ("serving_images", "serving_default"):
        archive.add_endpoint(endpoint, serve, input_signature=signature)
    with quiet_libraries():
        archive.write_out(str(folder), verbose=False)


def _nearest_prototype(
    embedding: tf.Tensor,
    distance: tf.Tensor,
    bank: tf.Tensor,
    mask: tf.Tensor,
    ids: tf.Tensor,
) -> tf.Tensor:
    """Returns [batch] ids: in the nearest class, the prototype attended to most."""
    nearest_class = tf.argmin(distance, axis=1)
    candidates = tf.gather(bank, nearest_class)
    similarity = tf.einsum("bd,btd->bt", embedding, candidates)
    similarity = tf.where(tf.gather(mask, nearest_class), similarity, -np.inf)
    position = tf.argmax(similarity, axis=1)
    return tf.gather(tf.gather(ids, nearest_class), position, batch_dims=1)
