"""Reading prepared TensorFlow Datasets, without ever downloading."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from pmal_tf.data.images import LabelledImages
from pmal_tf.data.settings import SourceOptions
from pmal_tf.runtime.console import quiet_libraries
from pmal_tf.runtime.errors import PmalError, first_line

_READ_BATCH = 1000
# Name in TensorFlow Datasets -> the `--dataset` that prepares it.
_PREPARED_AS = {
    "mnist": "mnist",
    "svhn_cropped": "svhn",
    "cifar10": "cifar10",
    "cifar100": "cifar_plus_10",
    "tiny_imagenet": "tiny_imagenet",
    "imagenet2012": "imagenet100",
    "imagenet_lt": "imagenet_lt",
}


def resolve_data_dir(data_dir: str) -> Path:
    """Returns the folder of prepared datasets.

    `--data_dir` comes first, then the environment variable `TFDS_DATA_DIR`, then
    `~/tensorflow_datasets`, as in TensorFlow Datasets itself.
    """
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def find_prepared(name: str, data_dir: str) -> Path:
    """Returns the newest prepared version of a dataset.

    Raises:
        PmalError: If there is none.
    """
    root = resolve_data_dir(data_dir)
    versions = [info.parent for info in (root / name).glob("[0-9]*/dataset_info.json")]
    if not versions:
        way_out = "Prepare it with TensorFlow Datasets"
        if name in _PREPARED_AS:
            way_out = (
                "Run `python -m pmal_tf.data.prepare "
                f"--dataset={_PREPARED_AS[name]} --data_dir={root}`"
            )
        raise PmalError(
            f"Dataset {name!r} is not prepared: no {name}/<version>/dataset_info.json "
            f"under the data folder. Received: data_dir={str(root)!r}. {way_out}, or "
            "name the folder that holds it with --data_dir or TFDS_DATA_DIR."
        )
    return max(versions, key=lambda path: _version_key(path.name))


def check_prepared(names: Sequence[str], options: SourceOptions) -> None:
    """Looks for prepared datasets.

    Raises:
        PmalError: If one is missing.
    """
    for name in names:
        find_prepared(name, options.data_dir)


def _version_key(version: str) -> tuple[int, ...]:
    """Orders version folders by number: 3.0.10 after 3.0.9."""
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def open_split(folder: Path, split: str, *, decode: bool = True) -> Any:
    """Returns one split of a prepared dataset as a `tf.data.Dataset`.

    Args:
        folder: The prepared version.
        split: Name of the split.
        decode: Whether to decode the images; otherwise `image` is the bytes of a file.

    Returns:
        Single examples, in the order in which they are stored whatever the number of
        shards.

    Raises:
        PmalError: If there is no such split.
    """
    import tensorflow_datasets as tfds

    # One shard after the other, or the order would depend on their number.
    read_config = tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False)
    with quiet_libraries():
        builder = tfds.builder_from_directory(folder)
        if split not in builder.info.splits:
            raise PmalError(
                f"`split` of {folder.parent.name} must be one of "
                f"{', '.join(builder.info.splits)}. Received: {split!r}"
            )
        return builder.as_dataset(
            split=split,
            shuffle_files=False,
            read_config=read_config,
            decoders=None if decode else {"image": tfds.decode.SkipDecoding()},
        )


@contextmanager
def damage_told(name: str, folder: Path, split: str) -> Iterator[None]:
    """Turns what TensorFlow Datasets raises over a damaged copy into a `PmalError`."""
    import tensorflow as tf
    from google.protobuf.json_format import ParseError

    try:
        yield
    except PmalError:
        raise
    except (tf.errors.OpError, ParseError, OSError, KeyError, ValueError) as error:
        raise PmalError(
            f"Dataset {name!r} cannot be read; expected a complete copy as TensorFlow "
            f"Datasets prepares it. Received: {str(folder)!r}, split {split!r}: "
            f"{first_line(error)}. Remove that folder and prepare it again."
        ) from error


def load_split(
    name: str,
    split: str,
    options: SourceOptions,
    *,
    size: int,
    id_feature: str | None = None,
) -> LabelledImages:
    """Reads one split of a dataset of small images into memory, in its stored order.

    Args:
        name: Name of the TFDS dataset.
        split: `"train"` or `"test"`.
        options: Where the dataset lies.
        size: Side of the images to make, in pixels; grey ones become RGB.
        id_feature: Feature that names an example; without one, ids are `<split>_<n>`
            in dataset order, which sharding does not change.

    Raises:
        PmalError: If the dataset is not prepared, or cannot be read.
    """
    folder = find_prepared(name, options.data_dir)
    import tensorflow as tf

    from pmal_tf.data.decoding.resize import resize_images

    def square(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = tf.cast(resize_images(batch["image"], size), tf.uint8)
        if image.shape[-1] == 1:
            image = tf.image.grayscale_to_rgb(image)
        return {**batch, "image": image}

    with damage_told(name, folder, split):
        dataset = open_split(folder, split).batch(_READ_BATCH).map(square)
        batches = list(dataset.prefetch(2).as_numpy_iterator())
        image = np.concatenate([batch["image"] for batch in batches])
        label = np.concatenate([batch["label"] for batch in batches])
        if id_feature is None:
            example_id = np.array([f"{split}_{n}" for n in range(len(image))])
        else:
            raw = np.concatenate([batch[id_feature] for batch in batches])
            example_id = np.array([value.decode() for value in raw])
    return LabelledImages(image, label.astype(np.int32), example_id)


def load_encoded_split(
    name: str,
    split: str,
    options: SourceOptions,
    *,
    size: int,
    store: str,
    about: int,
    keep_label: Callable[[Any], Any] | None = None,
) -> LabelledImages:
    """Decodes one split of a dataset of large images once, onto the disk.

    Args:
        name: Name of the TFDS dataset.
        split: Name of the split.
        options: Where the dataset lies, and where decoded images go.
        size: Side of the images to make, in pixels.
        store: Name of the decoded images.
        about: How many images there are, for the room they need and the progress.
        keep_label: Tells for a label, as a tensor, whether its images are wanted.

    Returns:
        The images, named by their file names where the dataset has them, by
        `<split>_<n>` in dataset order otherwise; their pixels stay on disk.

    Raises:
        PmalError: If the dataset is not prepared, or an image cannot be decoded.
    """
    folder = find_prepared(name, options.data_dir)
    import tensorflow as tf

    from pmal_tf.data.decoding.decode_once import EncodedImages, decode_once

    def renamed(position: tf.Tensor, example: dict[str, tf.Tensor]) -> dict:
        numbered = tf.strings.join([f"{split}_", tf.strings.as_string(position)])
        return {
            "contents": example["image"],
            "label": example.get("label", -1),
            "example_id": example.get("file_name", numbered),
        }

    def stream() -> tf.data.Dataset:
        dataset = open_split(folder, split, decode=False).enumerate().map(renamed)
        if keep_label is not None:
            dataset = dataset.filter(lambda example: keep_label(example["label"]))
        return dataset

    with damage_told(name, folder, split):
        made_from = (
            f"{folder.resolve()} {split} {(folder / 'dataset_info.json').read_text()}"
        )
        encoded = EncodedImages(store, about, stream, made_from)
        return decode_once(encoded, size, options.cache_dir)
