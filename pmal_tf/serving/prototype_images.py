"""The prototypes' images beside an exported model, so that a person can see why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pmal_tf.mining.prototypes import Prototypes
from pmal_tf.serving.answers import Answering
from pmal_tf.serving.versions import EXTRA
from pmal_tf.workdir import write_atomically

_FILE = "prototypes.npz"
# 1,000 classes with 10 prototypes each take 123 MB at most.
_LARGEST_SIDE = 64


@dataclass(frozen=True)
class PrototypeImages:
    """What `assets.extra/prototypes.npz` holds, of P prototypes.

    Attributes:
        image: [P, h, w, 3] uint8, at most 64 pixels a side.
        example_id: [P] strings.
        class_index: [P].
        embedding: [P, D] float32, in the model's bank.
    """

    image: np.ndarray
    example_id: np.ndarray
    class_index: np.ndarray
    embedding: np.ndarray

    def most_similar(
        self, embedding: np.ndarray, class_index: int, count: int
    ) -> np.ndarray:
        """Returns positions of a class's prototypes, the most attended to first.

        Args:
            embedding: [D] of an image.
            class_index: The class.
            count: How many at most.
        """
        positions = np.flatnonzero(self.class_index == class_index)
        similarity = self.embedding[positions] @ embedding
        return positions[np.argsort(-similarity, kind="stable")[:count]]


def save_prototype_images(
    folder: Path, prototypes: Prototypes, answering: Answering
) -> None:
    """Writes `prototypes.npz` into a model's folder of extra files."""
    mask = answering.mask
    image = prototypes.image[mask].clip(0, 255).astype(np.uint8)
    if max(image.shape[1:3]) > _LARGEST_SIDE:
        image = np.stack([_reduced(one) for one in image])
    arrays = PrototypeImages(
        image,
        prototypes.example_id[mask].astype(str),
        np.nonzero(mask)[0].astype(np.int32),
        answering.bank.numpy()[mask],
    )

    def save(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **vars(arrays))

    write_atomically(folder / _FILE, save)


def load_prototype_images(saved_model: Path) -> PrototypeImages | None:
    """Returns the prototypes of an exported model, None where it has none."""
    path = saved_model / EXTRA / _FILE
    if not path.exists():
        return None
    with np.load(path) as arrays:
        return PrototypeImages(**arrays)


def _reduced(image: np.ndarray) -> np.ndarray:
    """Returns an image whose longer side has the largest allowed length."""
    height, width = image.shape[:2]
    scale = _LARGEST_SIDE / max(height, width)
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))
