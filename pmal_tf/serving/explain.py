"""An exported model's answer to one image file, with the reasons a person can see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from pmal_tf.data.decoding.decode import declared_size, decode_image
from pmal_tf.mining.distances import SET_DISTANCES
from pmal_tf.runtime.errors import PmalError
from pmal_tf.runtime.files import read_json
from pmal_tf.serving.client import Answer, ServedModel
from pmal_tf.serving.exported import ExportedModel, find_version, read_exported
from pmal_tf.serving.prototype_images import load_prototype_images
from pmal_tf.serving.versions import METADATA

_EMBED = "embed"
# Prototypes shown, of the nearest class.
_MOST_PROTOTYPES = 5
_LARGEST_PREVIEW = 320


@dataclass(frozen=True)
class WeighedPrototype:
    """A prototype of the nearest class.

    Attributes:
        image: [h, w, 3] uint8.
        class_name: Its class.
        example_id: The training image's id.
        weight: Its share in what the class's distance is measured to; the weights of
            all prototypes of a class sum to 1.
    """

    image: np.ndarray
    class_name: str
    example_id: str
    weight: float


@dataclass(frozen=True)
class Explanation:
    """What the model says of an image, and why.

    Attributes:
        class_name: A known class, or `unknown`.
        is_unknown: Whether the score is above the threshold.
        score: The unknown score, on the rule's scale.
        probabilities: Of the known classes, by name.
        nearest_class: The nearest class; None where the model measures no distances.
        distance: To that class, or None.
        nearest_prototype: Example id of the prototype that weighs most; None where the
            model has no prototypes.
        prototypes: Those of the nearest class, the weightiest first; empty where the
            export holds no images.
        preview: [side, side, 3] uint8, the image's central square.
        seen: [size, size, 3] uint8, what the network sees.
    """

    class_name: str
    is_unknown: bool
    score: float
    probabilities: dict[str, float]
    nearest_class: str | None
    distance: float | None
    nearest_prototype: str | None
    prototypes: tuple[WeighedPrototype, ...]
    preview: np.ndarray
    seen: np.ndarray


class Answerer:
    """Asks an exported model about image files, one at a time.

    Args:
        saved_model: A version's folder, or a folder of versions.

    Attributes:
        exported: What the model's folder says of it.
        title: The name of the experiment that it is from.
        remark: What a person should know of the choice of the version, or empty.

    Raises:
        PmalError: If there is no exported model, it is damaged, or it was exported by
            a version of this package that wrote less about it.
    """

    def __init__(self, saved_model: str | Path) -> None:
        folder, self.remark = find_version(Path(saved_model))
        self.exported: ExportedModel = read_exported(folder)
        metadata = read_json(folder / METADATA)
        self.title = str(metadata.get("experiment", "Open set classifier"))
        size = metadata.get("image_size")
        if not isinstance(size, int) or size < 1:
            raise PmalError(
                f"{METADATA} must tell the model's image size. Received: {folder} with "
                f"image_size={size!r}. Export the model anew with this version "
                "of pmal_tf."
            )
        # Earlier versions of this package did not tell.
        set_distance = metadata.get("set_distance", "attention")
        if set_distance not in SET_DISTANCES:
            raise PmalError(
                f"{METADATA} must tell how far an image is from prototypes, one of "
                f"{', '.join(SET_DISTANCES)}. Received: {folder} with "
                f"set_distance={set_distance!r}. Take the version of pmal_tf that "
                "exported the model."
            )
        self._size = size
        self._set_distance = SET_DISTANCES[set_distance]
        self._model = _EmbeddingModel(self.exported)
        self._prototypes = load_prototype_images(folder)

    def explain(self, contents: bytes) -> Explanation:
        """Answers for the bytes of one file, which the model gets as they are.

        Args:
            contents: A JPEG, PNG, GIF or BMP file.

        Raises:
            PmalError: If they cannot be read as an image, or the model fails.
        """
        answer = self._model.answer([contents])[0]
        score, probabilities = answer.unknown_score, answer.probabilities
        if score is None or probabilities is None:  # Both, of what cannot be read.
            raise _unreadable(contents, answer)
        seen = decode_image(tf.constant(contents), self._size)
        distances = answer.distance or {}
        nearest = min(distances, key=distances.__getitem__, default=None)
        return Explanation(
            class_name=answer.class_name,
            is_unknown=answer.is_unknown,
            score=score,
            probabilities=probabilities,
            nearest_class=nearest,
            distance=None if nearest is None else distances[nearest],
            nearest_prototype=answer.nearest_prototype,
            prototypes=self._weighed_prototypes(
                seen, nearest, answer.nearest_prototype
            ),
            preview=_preview(contents),
            seen=seen.numpy(),
        )

    def _weighed_prototypes(
        self, seen: tf.Tensor, class_name: str | None, nearest: str | None
    ) -> tuple[WeighedPrototype, ...]:
        """Returns a class's prototypes, the weightiest for an image first.

        Args:
            seen: The image, [size, size, 3].
            class_name: The class.
            nearest: Id of the prototype that the model names. It comes first, also
                where rounding makes others weigh as much.
        """
        stored = self._prototypes
        if stored is None or class_name is None:
            return ()
        class_index = self.exported.class_names.index(class_name)
        members = np.flatnonzero(stored.class_index == class_index)
        _, weights = self._set_distance(
            self._model.embed(seen)[None],
            stored.embedding[None, members],
            np.ones((1, len(members)), bool),
        )
        weight = weights.numpy()[0, 0]
        order = np.lexsort((-weight, stored.example_id[members] != nearest))
        return tuple(
            WeighedPrototype(
                image=stored.image[members[place]],
                class_name=class_name,
                example_id=str(stored.example_id[members[place]]),
                weight=float(weight[place]),
            )
            for place in order[:_MOST_PROTOTYPES]
        )


class _EmbeddingModel(ServedModel):
    """An exported model that tells embeddings too.

    Raises:
        PmalError: As `ServedModel`, or if it does not tell them.
    """

    def __init__(self, exported: ExportedModel) -> None:
        super().__init__(exported)
        if _EMBED not in self._loaded.signatures:
            raise PmalError(
                f"The model must have the signature {_EMBED!r}. Received: "
                f"{str(exported.folder)!r} with the signatures "
                f"{sorted(self._loaded.signatures)}. Export the model anew with this "
                "version of pmal_tf."
            )

    def embed(self, image: tf.Tensor) -> np.ndarray:
        """Returns the embedding [D] of an image [h, w, 3]."""
        images = tf.cast(image[None], tf.float32)
        return self._loaded.signatures[_EMBED](images=images)["embedding"].numpy()[0]


def _unreadable(contents: bytes, answer: Answer) -> PmalError:
    """Returns the error for a file that is no image."""
    return PmalError(
        "The file must be a sound JPEG, PNG, GIF or BMP image. Received: "
        f"{len(contents):,} bytes; {answer.error}. Try another file."
    )


def _preview(contents: bytes) -> np.ndarray:
    """Returns the central square, turned and coloured as the model takes it."""
    height, width = declared_size(tf.constant(contents))
    side = min(int(height), int(width), _LARGEST_PREVIEW)
    return decode_image(tf.constant(contents), side).numpy()
