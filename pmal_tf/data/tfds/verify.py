"""Checking that a prepared dataset is whole, record by record."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pmal_tf.runtime.console import quiet_libraries
from pmal_tf.runtime.errors import PmalError, first_line

_READ_BATCH = 1000
_PATIENCE_SECONDS = 1.0


def verify_prepared(folder: Path) -> dict[str, int]:
    """Reads all records of a prepared dataset with their checksums, and counts them.

    Images are not decoded; reading is as fast as the disk.

    Args:
        folder: Folder `<name>/<version>` of a dataset.

    Returns:
        The number of examples of each split, as its description states it.

    Raises:
        PmalError: If a record is damaged, or their number is another.
    """
    splits = _described_splits(folder)
    if missing := [
        path.name for split in splits for path in split.filepaths if not path.exists()
    ]:
        raise _damaged(folder, f"no {', '.join(missing)}")
    total = sum(split.num_examples for split in splits)
    # Small datasets are read before a bar could be of use.
    with tqdm(
        desc=f"Verifying {folder.parent.name}",
        total=total,
        unit=" images",
        delay=_PATIENCE_SECONDS,
    ) as bar:
        for split in splits:
            for path, stated in zip(split.filepaths, split.shard_lengths, strict=True):
                found = _count_records(folder, Path(path), bar)
                if found != stated:
                    raise _damaged(
                        folder, f"{found} records in {path.name}, not {stated}"
                    )
    return {split.name: split.num_examples for split in splits}


def _described_splits(folder: Path) -> list[Any]:
    """Reads what the dataset should hold.

    Raises:
        PmalError: If its description is damaged, or speaks of another kind of file.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    try:
        with quiet_libraries():
            info = tfds.builder_from_directory(folder).info
    except (tf.errors.OpError, ParseError, OSError, ValueError) as error:
        raise _damaged(folder, first_line(error)) from error
    if info.file_format != tfds.core.FileFormat.TFRECORD:
        raise _damaged(folder, f"files of the format {info.file_format}, not TFRecord")
    if not info.splits:
        raise _damaged(folder, "a description without splits")
    return list(info.splits.values())


def _count_records(folder: Path, path: Path, bar: Any) -> int:
    """Counts the records of a file.

    Raises:
        PmalError: If one is damaged.
    """
    import tensorflow as tf

    # The lengths stand for the records, so that no batch of images is held.
    records = tf.data.TFRecordDataset(os.fspath(path))
    batches: Iterable[Any] = records.map(tf.strings.length).batch(_READ_BATCH)
    count = 0
    try:
        for batch in batches:
            count += len(batch)
            bar.update(len(batch))
    except tf.errors.OpError as error:
        raise _damaged(folder, f"{path.name}: {first_line(error)}") from error
    return count


def _damaged(folder: Path, received: str) -> PmalError:
    return PmalError(
        f"The prepared dataset in {str(folder)!r} is damaged; expected a complete copy "
        f"as TensorFlow Datasets prepares it. Received: {received}. Remove that folder "
        "and prepare it again."
    )
