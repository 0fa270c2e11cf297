"""The prototypes' images beside an exported model, so that a person can see why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pmal_tf.methods.scorer import Scorer
from pmal_tf.runtime.files import save_arrays
from pmal_tf.serving.versions import EXTRA

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
        embedding: [P, D] float32, as the model's distances are measured to them.
    """

    image: np.ndarray
    example_id: np.ndarray
    class_index: np.ndarray
    embedding: np.ndarray


def save_prototype_images(folder: Path, scorer: Scorer) -> None:
    """Writes `prototypes.npz` into a model's folder of extra files, if it has any."""
    prototypes, embedding = scorer.prototypes, scorer.prototype_embeddings()
    if prototypes is None or embedding is None:
        return
    mask = prototypes.mask
    image = prototypes.image[mask].clip(0, 255).astype(np.uint8)
    if max(image.shape[1:3]) > _LARGEST_SIDE:
        image = np.stack([_reduced(one) for one in image])
    arrays = PrototypeImages(
        image,
        prototypes.example_id[mask].astype(str),
        np.nonzero(mask)[0].astype(np.int32),
        embedding,
    )
    save_arrays(folder / _FILE, vars(arrays))


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
