"""Reading prepared TensorFlow Datasets into memory, without ever downloading."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pmal_tf.data.images import LabelledImages
from pmal_tf.errors import PmalError, first_line
from pmal_tf.quiet import quiet_libraries

_READ_BATCH = 1000


def resolve_data_dir(data_dir: str | None) -> Path:
    """Returns the folder of prepared datasets.

    `--data_dir` comes first, then the environment variable `TFDS_DATA_DIR`, then
    `~/tensorflow_datasets`, as in TensorFlow Datasets itself.
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def find_prepared(name: str, data_dir: str | None) -> Path:
    """Returns the newest prepared version of a dataset.

    Raises:
        PmalError: If there is none.
    """
    root = resolve_data_dir(data_dir)
    versions = [info.parent for info in (root / name).glob("*/dataset_info.json")]
    if not versions:
        raise PmalError(
            f"Dataset {name!r} is not prepared: no {name}/<version>/dataset_info.json "
            f"under the data folder. Received: data_dir={str(root)!r}. Run `python -m "
            f"pmal_tf.data.prepare --dataset={name} --data_dir={root}`, or name the "
            "folder that holds it with --data_dir or TFDS_DATA_DIR."
        )
    return max(versions, key=lambda path: _version_key(path.name))


def _version_key(version: str) -> tuple[int, ...]:
    """Orders version folders by number: 3.0.10 after 3.0.9."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def load_split(
    name: str,
    split: str,
    data_dir: str | None,
    *,
    transform: Callable[[Any], Any] | None = None,
    id_feature: str | None = None,
) -> LabelledImages:
    """Reads one split of a prepared dataset, in its stored order.

    Args:
        name: Name of the TFDS dataset.
        split: `"train"` or `"test"`.
        data_dir: Folder of prepared datasets, or None for the default.
        transform: [batch, h, w, c] images to [batch, H, W, 3] images, as tensors.
        id_feature: Feature that names an example; without one, ids are `<split>_<n>`
            in dataset order, which sharding does not change.

    Raises:
        PmalError: If the dataset is not prepared, or cannot be read.
    """
    folder = find_prepared(name, data_dir)
    import tensorflow as tf
    import tensorflow_datasets as tfds
    from google.protobuf.json_format import ParseError

    # One shard after the other, or the order would depend on their number.
    read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    try:
        with quiet_libraries():
            dataset = tfds.builder_from_directory(folder).as_dataset(
                split=split, shuffle_files=False, read_config=read_config
            )
        dataset = dataset.batch(_READ_BATCH)
        if transform is not None:
            dataset = dataset.map(
                lambda batch: {**batch, "image": transform(batch["image"])}
            )
        batches = list(dataset.prefetch(2).as_numpy_iterator())
    except (tf.errors.OpError, ParseError, OSError, ValueError) as error:
        reason = first_line(error)
        raise PmalError(
            f"Dataset {name!r} cannot be read; expected a complete copy as TensorFlow "
            f"Datasets prepares it. Received: {str(folder)!r}, split {split!r}: "
            f"{reason}. Remove that folder and prepare it again."
        ) from error
    image = np.concatenate([batch["image"] for batch in batches])
    if id_feature is None:
        example_id = np.array([f"{split}_{n}" for n in range(len(image))])
    else:
        raw = np.concatenate([batch[id_feature] for batch in batches])
        example_id = np.array([value.decode() for value in raw])
    label = np.concatenate([batch["label"] for batch in batches]).astype(np.int32)
    return LabelledImages(image, label, example_id)


def download(name: str, data_dir: str | None) -> str:
    """Downloads and prepares a dataset, and returns a line on where it lies.

    Raises:
        PmalError: If the download fails.
    """
    import tensorflow_datasets as tfds

    root = resolve_data_dir(data_dir)
    try:
        builder = tfds.builder(name, data_dir=root)
        builder.download_and_prepare()
    except Exception as error:  # Many libraries lie between here and the network.
        raise PmalError(
            f"Dataset {name!r} could not be downloaded to {str(root)!r}. Received: "
            f"{type(error).__name__}: {first_line(error)}. Check the "
            "connection and run the command again, or copy a prepared "
            f"{name!r} folder there by hand."
        ) from error
    counts = {split: info.num_examples for split, info in builder.info.splits.items()}
    return f"{name} {builder.version} lies in {builder.data_path}: {counts}"
