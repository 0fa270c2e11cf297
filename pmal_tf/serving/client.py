"""Calling an exported model on image files, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from pmal_tf.runtime.errors import PmalError, first_line
from pmal_tf.serving.answers import UNKNOWN, UNKNOWN_ID
from pmal_tf.serving.exported import SIGNATURE, ExportedModel

_OUTPUTS = {"class_id", "error", "probabilities", "unknown_score"}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model says of one image.

    One that cannot be read is unknown, and has a threshold and the error alone.

    Attributes:
        class_id: Position of the class, -1 for unknown.
        class_name: Its name, or `unknown`.
        is_unknown: Whether the score is above the threshold, or there is none.
        unknown_score: Larger is more likely unknown.
        threshold: What the score was compared with.
        distance: To each class, by its name; None where the model measures none.
        probabilities: Of each known class, by its name.
        nearest_prototype: Example id of the training image that weighs most in the
            nearest class; None where distances rest on no images.
        error: Why the image cannot be read, or None.
    """

    class_id: int = UNKNOWN_ID
    class_name: str = UNKNOWN
    is_unknown: bool = True
    unknown_score: float | None = None
    threshold: float
    distance: dict[str, float] | None = None
    probabilities: dict[str, float] | None = None
    nearest_prototype: str | None = None
    error: str | None = None


class ServedModel:
    """An exported model, loaded; `threshold` takes the place of its own, if given.

    Raises:
        PmalError: If the threshold means nothing, or the SavedModel is damaged or is
            not the one that its metadata describe.
    """

    def __init__(self, exported: ExportedModel, threshold: float | None = None) -> None:
        low, high = exported.threshold_range
        # A comparison with NaN is false.
        if threshold is not None and not low <= threshold <= high:
            raise PmalError(
                f"`--threshold` must lie between {low:g} and {high:g} for the model's "
                f"rule {exported.rule}. Received: --threshold={threshold}. Leave it "
                "out for the model's own."
            )
        self.class_names = exported.class_names
        self.threshold = exported.threshold if threshold is None else threshold
        self._overrides = threshold is not None
        # Its variables live as long as the object that was loaded does.
        self._loaded = _load(exported)

    def answer(self, contents: Sequence[bytes]) -> list[Answer]:
        """Answers for the bytes of image files, whatever they are; none is fine too.

        Raises:
            PmalError: If the model fails, e.g. for lack of memory.
        """
        if not contents:
            return []
        signature = self._loaded.signatures[SIGNATURE]
        try:
            outputs = signature(image_bytes=tf.constant(list(contents)))
        except (tf.errors.OpError, MemoryError) as error:
            raise PmalError(
                "The model must be able to answer. Received: "
                f"{len(contents)} images at a time: {first_line(error)}. Try a smaller "
                "--batch_size."
            ) from error
        arrays = {name: value.numpy() for name, value in outputs.items()}
        return [self._one(arrays, row) for row in range(len(contents))]

    def embed(self, image: tf.Tensor) -> np.ndarray:
        """Returns the embedding [D] of an image [h, w, 3]."""
        images = tf.cast(image[None], tf.float32)
        return self._loaded.signatures["embed"](images=images)["embedding"].numpy()[0]

    def _one(self, arrays: dict[str, np.ndarray], row: int) -> Answer:
        """Returns the answer for one row of the model's outputs."""
        error = arrays["error"][row].decode()
        if error:
            return Answer(threshold=self.threshold, error=error)
        score = float(arrays["unknown_score"][row])
        probabilities = arrays["probabilities"][row]
        class_id = int(arrays["class_id"][row])
        if self._overrides:
            is_unknown = score > self.threshold
            class_id = UNKNOWN_ID if is_unknown else int(np.argmax(probabilities))
        is_unknown = class_id == UNKNOWN_ID
        distance, nearest = arrays.get("distance"), arrays.get("nearest_prototype")
        return Answer(
            class_id=class_id,
            class_name=UNKNOWN if is_unknown else self.class_names[class_id],
            is_unknown=is_unknown,
            unknown_score=score,
            threshold=self.threshold,
            distance=None if distance is None else self._by_class(distance[row]),
            probabilities=self._by_class(probabilities),
            nearest_prototype=None if nearest is None else nearest[row].decode(),
        )

    def _by_class(self, values: np.ndarray) -> dict[str, float]:
        """Returns [K] numbers by class name."""
        return dict(zip(self.class_names, values.tolist(), strict=True))


def _load(exported: ExportedModel) -> tf.Module:
    """Loads a SavedModel, and checks that it is the one described."""
    folder = str(exported.folder)
    try:
        loaded = tf.saved_model.load(folder)
    except Exception as error:  # A damaged file can raise anything.
        raise PmalError(
            "`--saved_model` must hold a sound SavedModel. Received: "
            f"{folder!r}: {first_line(error)}. Put a sound copy back, or export the "
            "model anew."
        ) from error
    signature = loaded.signatures.get(SIGNATURE)
    outputs = signature.structured_outputs if signature else {}
    missing = sorted(_OUTPUTS - set(outputs))
    classes = None if missing else outputs["probabilities"].shape[-1]
    if classes != len(exported.class_names):
        found = f"no {', '.join(missing)}" if missing else f"{classes} classes"
        raise PmalError(
            "The SavedModel must be the one that its metadata.json describes, with the "
            f"signature {SIGNATURE} and {len(exported.class_names)} classes. Received: "
            f"{folder!r} with {found}. Put a sound copy of both back."
        )
    return loaded
