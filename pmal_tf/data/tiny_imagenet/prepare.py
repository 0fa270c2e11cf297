"""Downloading and preparing Tiny ImageNet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import logging

from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.data_folder import check_space, manual_folder
from pmal_tf.data.tfds.fetch import check_reachable, download
from pmal_tf.data.tfds.prepare import by_hand, prepare_dataset
from pmal_tf.data.tiny_imagenet.archive import ZIP_NAME, Layout, read_layout

URL = f"http://cs231n.stanford.edu/{ZIP_NAME}"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIZE = 248_100_043

_OFFICIAL_COUNTS = (100_000, 10_000)


def prepare(options: SourceOptions) -> str:
    """Prepares Tiny ImageNet from its zip, which is downloaded where it is missing.

    Args:
        options: `data_dir` is the folder of prepared datasets.

    Returns:
        A line on where the images lie.

    Raises:
        PmalError: If the zip cannot be got, or is not what it should be.
    """
    return prepare_dataset("tiny_imagenet", options, _make_builder, _collect)


def _make_builder(root: Path) -> Any:
    """Returns the TFDS builder; TFDS is slow to import."""
    from pmal_tf.data.tiny_imagenet.tiny_imagenet_dataset_builder import Builder

    return Builder(data_dir=root)


def _collect(builder: Any, root: Path) -> None:
    """Makes sure that a sound zip is at hand.

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
    _warn_of_counts(path, read_layout(path))


def _warn_of_counts(path: Path, layout: Layout) -> None:
    """Warns of a zip that holds fewer or more images than the official one."""
    counts = (len(layout.train), len(layout.test))
    if counts != _OFFICIAL_COUNTS:
        logging.warning(
            "%s holds %d training and %d validation images; the official Tiny ImageNet "
            "has %d and %d. Results on it cannot be compared with published ones.",
            path,
            *counts,
            *_OFFICIAL_COUNTS,
        )
