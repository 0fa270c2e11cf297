"""Labelled images, the form every data source delivers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pmal_tf.data.decoding.stored_images import StoredImages
from pmal_tf.data.settings import SourceOptions

# Bytes of images on disk that are read into memory for good.
_MOST_IN_MEMORY = 2**30


@dataclass(frozen=True)
class LabelledImages:
    """Images with a label and a stable name each.

    Attributes:
        image: [N, H, W, 3] uint8, in memory or on disk.
        label: [N] int32. From a source: the dataset's label. After the open-set split:
            the class index in [0, K), and -1 for unknown classes.
        example_id: [N] strings that do not depend on how a copy was stored.
    """

    image: np.ndarray | StoredImages
    label: np.ndarray
    example_id: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: np.ndarray) -> LabelledImages:
        """Returns the images at the given positions, or where a mask is True."""
        on_disk = isinstance(self.image, StoredImages)
        image = self.image.take(index) if on_disk else self.image[index]
        return LabelledImages(image, self.label[index], self.example_id[index])

    def followed_by(self, other: LabelledImages) -> LabelledImages:
        """Returns these images and then others; both in memory, or both on disk."""
        first, second = self.image, other.image
        if isinstance(first, StoredImages) and isinstance(second, StoredImages):
            image: np.ndarray | StoredImages = first.followed_by(second)
        else:
            image = np.concatenate([first[:], second[:]])
        return LabelledImages(
            image,
            np.concatenate([self.label, other.label]),
            np.concatenate([self.example_id, other.example_id]),
        )

    def in_memory(self) -> LabelledImages:
        """Returns the images in memory, unless they take more than 1 GiB there."""
        if isinstance(self.image, np.ndarray) or self.image.nbytes > _MOST_IN_MEMORY:
            return self
        return LabelledImages(self.image[:], self.label, self.example_id)

    @property
    def fingerprint(self) -> str:
        """Hash of pixels, labels and ids."""
        if isinstance(self.image, StoredImages):
            digest = hashlib.sha256(self.image.fingerprint.encode())
        else:
            digest = hashlib.sha256(self.image.tobytes())
        digest.update(self.label.tobytes())
        digest.update("\n".join(self.example_id).encode())
        return digest.hexdigest()

    @property
    def is_unknown(self) -> np.ndarray:
        """[N] boolean, True where the label is -1 (after the open-set split)."""
        return self.label < 0


@dataclass(frozen=True)
class Source:
    """A dataset, found by its options, that can be split into known and unknown.

    Attributes:
        name: The value of `--dataset`.
        class_names: Name of each dataset label, in ascending order of label.
        natural: Whether images may be mirrored and shifted in training.
        load: Reads the whole dataset, as train and test images.
        check: Raises a `PmalError` if the images are not there.
        state: Text that changes when any of the images may have; empty where the
            dataset's version says so.
        own_split: Known and unknown classes, where not the published lists apply.
        own_protocol: What results name as the protocol of that split.
        unknown_is_estimate: Whether the unknown classes are held out of those that a
            served model would know, so that rejecting them is only an estimate.
    """

    name: str
    class_names: tuple[str, ...]
    natural: bool
    load: Callable[[], tuple[LabelledImages, LabelledImages]]
    check: Callable[[], object] = lambda: None
    state: Callable[[], str] = lambda: ""
    own_split: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    own_protocol: str = ""
    unknown_is_estimate: bool = False


@dataclass(frozen=True)
class Dataset:
    """What `--dataset` names: how to open it, and how to get it.

    To add one, write a file in `pmal_tf/data/datasets` that lists it in `DATASETS`.

    Attributes:
        name: The value of `--dataset`.
        open: Opens it, without reading images yet.
        prepare: Downloads it, and returns a line on where it lies.
    """

    name: str
    open: Callable[[SourceOptions], Source]
    prepare: Callable[[SourceOptions], str]


def lowest_of_each_class(label: np.ndarray, rank: np.ndarray, count: int) -> np.ndarray:
    """Returns the positions, ascending, of the `count` lowest-ranked of each class."""
    order = np.lexsort((rank, label))
    _, first = np.unique(label[order], return_index=True)
    place = np.arange(len(label)) - np.repeat(first, np.diff([*first, len(label)]))
    return np.sort(order[place < count])


def proportional_share(
    label: np.ndarray, rank: np.ndarray, share: float, start: float
) -> np.ndarray:
    """Chooses a share of the images, of each class as nearly that share as can be.

    A systematic sample: of all images, class after class and by `rank` within each,
    every 1/share-th, from a random `start` in [0, 1) on. Each image is chosen with the
    same probability, however small its class, so that those chosen and those not are
    alike. `label` and `rank` are [N], `share` is in [0, 1).

    Returns:
        [N] booleans; all images of a class are never chosen, so of a single one none.
    """
    order = np.lexsort((rank, label))
    steps = np.floor(np.arange(len(label) + 1) * share + start)
    chosen = np.zeros(len(label), bool)
    chosen[order] = np.diff(steps) > 0
    for index in np.unique(label):
        members = label == index
        if chosen[members].all():
            chosen[members] = False
    return chosen
