"""The prototypes' images beside an exported model, so that a person can see why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from pmal_tf.methods.scorer import Scorer
from pmal_tf.runtime.files import save_arrays
from pmal_tf.serving.versions import EXTRA

_FILE = "prototypes.npz"
# 1,000 classes with 10 prototypes each take 123 MB at most.
_LARGEST_SIDE = 64


def save_prototype_images(folder: Path, scorer: Scorer) -> None:
    """Writes `prototypes.npz` into a model's folder of extra files, if it has any.

    Of P prototypes: `image` [P, h, w, 3] uint8, at most 64 pixels a side; `example_id`
    [P] strings; `class_index` [P]; and `embedding` [P, D] float32, which the model's
    distances are measured to.
    """
    prototypes, embedding = scorer.prototypes, scorer.prototype_embeddings()
    if prototypes is None or embedding is None:
        return
    mask = prototypes.mask
    arrays = {
        "image": _reduced(prototypes.image[mask].clip(0, 255).astype(np.uint8)),
        "example_id": prototypes.example_id[mask].astype(str),
        "class_index": np.nonzero(mask)[0].astype(np.int32),
        "embedding": embedding,
    }
    save_arrays(folder / _FILE, arrays)


def load_prototype_images(saved_model: Path) -> dict[str, np.ndarray]:
    """Returns the arrays of an exported model's prototypes, empty where it has none."""
    path = saved_model / EXTRA / _FILE
    if not path.exists():
        return {}
    with np.load(path) as arrays:
        return dict(arrays)


def _reduced(images: np.ndarray) -> np.ndarray:
    """Returns images of which no side is longer than allowed."""
    height, width = images.shape[1:3]
    scale = _LARGEST_SIDE / max(height, width)
    if scale >= 1:
        return images
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    box = Image.Resampling.BOX
    resized = [Image.fromarray(image).resize(size, box) for image in images]
    return np.stack([np.asarray(image) for image in resized])
