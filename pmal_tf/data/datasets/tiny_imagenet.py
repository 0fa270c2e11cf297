"""TinyImageNet (Stanford CS231N): 200 classes of ImageNet at 64 pixels.

500 training images a class; the 50 validation images a class are the test split, since
the official test images have no labels. Classes go by wnid, ascending.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import logging

from pmal_tf.data.images import LabelledImages
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.fetch import check_reachable, download
from pmal_tf.data.tfds.prepare import (
    by_hand,
    check_space,
    manual_folder,
    prepare_dataset,
    tfds_dataset,
)
from pmal_tf.data.tfds.read import load_encoded_split
from pmal_tf.data.tiny_imagenet import WNIDS, ZIP_NAME

URL = f"http://cs231n.stanford.edu/{ZIP_NAME}"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIZE = 248_100_043

_OFFICIAL_COUNTS = (100_000, 10_000)


def _load(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
    train, test = (
        load_encoded_split("tiny_imagenet", split, options, size=64, about=about)
        for split, about in zip(("train", "test"), _OFFICIAL_COUNTS, strict=True)
    )
    return train, test


def prepare(options: SourceOptions) -> str:
    """Prepares it from its zip, which is downloaded where it is missing."""
    # Importing it registers the builder with TFDS; both are slow to import.
    from pmal_tf.data.tiny_imagenet import tiny_imagenet_dataset_builder  # noqa: F401

    return prepare_dataset("tiny_imagenet", options, _collect)


def _collect(builder: Any, root: Path) -> None:
    """Makes sure that a sound zip is at hand for the builder.

    The checksum holds for a download. A zip that was placed by hand is the user's
    choice, such as one with fewer images, and is checked by its layout.
    """
    path = manual_folder(root) / ZIP_NAME
    if not path.exists():
        way_out = by_hand(builder, root, {ZIP_NAME: URL})
        # What is prepared from the zip takes about as much again.
        check_space(root, 2 * SIZE)
        check_reachable([URL], way_out)
        download(URL, path, MD5, way_out)
    train, test, _ = builder.read_layout(path)
    counts = (len(train), len(test))
    if counts != _OFFICIAL_COUNTS:
        logging.warning(
            "%s holds %d training and %d validation images; the official Tiny ImageNet "
            "has %d and %d. Results on it cannot be compared with published ones.",
            path,
            *counts,
            *_OFFICIAL_COUNTS,
        )


DATASETS = (
    tfds_dataset("tiny_imagenet", WNIDS, _load, ("tiny_imagenet",), prepare=prepare),
)
