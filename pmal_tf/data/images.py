"""Labelled images in memory, the form every data source delivers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pmal_tf.errors import PmalError


@dataclass(frozen=True)
class LabelledImages:
    """Images with a label and a stable name each.

    Attributes:
        image: [N, H, W, 3] uint8.
        label: [N] int32. From a source: the dataset's label. After the open-set split:
            the class index in [0, K), and -1 for unknown classes.
        example_id: [N] strings that do not depend on how a copy was stored.
    """

    image: np.ndarray
    label: np.ndarray
    example_id: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: np.ndarray) -> LabelledImages:
        """Returns the images at the given positions, or where a mask is True."""
        return LabelledImages(
            self.image[index], self.label[index], self.example_id[index]
        )

    @property
    def is_unknown(self) -> np.ndarray:
        """[N] boolean, True where the label is -1 (after the open-set split)."""
        return self.label < 0


@dataclass(frozen=True)
class Source:
    """A dataset that can be split into known and unknown classes.

    To add one, write a file that makes a `Source` and name it in
    `pmal_tf.data.sources`.

    Attributes:
        name: The value of `--dataset`.
        class_names: Name of each dataset label, in ascending order of label.
        split_list: Dataset whose published split lists apply.
        natural: Whether images may be mirrored and shifted in training.
        load: `load(data_dir)` reads the whole dataset, as train and test images.
        prepare: `prepare(data_dir)` downloads it, and returns a line on where it is.
    """

    name: str
    class_names: tuple[str, ...]
    split_list: str
    natural: bool
    load: Callable[[str | None], tuple[LabelledImages, LabelledImages]]
    prepare: Callable[[str | None], str]


def take_per_class(
    images: LabelledImages, count: int, rank: np.ndarray
) -> LabelledImages:
    """Keeps at most `count` images of each class, those of lowest rank.

    Args:
        images: The images; their order is kept.
        count: Images per class; 0 keeps all.
        rank: [N] numbers, usually seeded hashes of the example ids.
    """
    if count == 0:
        return images
    keep = np.zeros(len(images), bool)
    for label in np.unique(images.label):
        members = np.flatnonzero(images.label == label)
        keep[members[np.argsort(rank[members], kind="stable")[:count]]] = True
    return images.take(keep)


def check_arrays(image: np.ndarray, label: np.ndarray) -> None:
    """Checks images and class indices that a user hands in.

    Raises:
        PmalError: If shapes or types do not fit together.
    """
    if image.ndim != 4 or image.shape[-1] != 3:
        raise PmalError(
            "`images` must have shape [N, H, W, 3]; repeat a grey channel three times "
            f"first. Received: images.shape={image.shape}"
        )
    if np.issubdtype(image.dtype, np.floating):
        low, high = float(image.min()), float(image.max())
        if not (np.isfinite([low, high]).all() and 0.0 <= low and 1.0 < high <= 255.0):
            raise PmalError(
                "`images` of floating-point numbers must lie on the 0-255 scale; the "
                f"model scales them itself. Received: values from {low:g} to {high:g}"
            )
    if label.shape != image.shape[:1] or not np.issubdtype(label.dtype, np.integer):
        raise PmalError(
            "`labels` must hold one integer per image. Received: "
            f"labels of shape {label.shape} and type {label.dtype} for {len(image)} "
            "images"
        )
    present = np.unique(label)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        raise PmalError(
            "`labels` must hold every class index from 0 to K - 1, K >= 2; a class "
            f"without images cannot be learnt. Received: labels={present.tolist()}"
        )
