"""Reading and verifying prepared TensorFlow Datasets, without ever downloading."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from pmal_tf.data.images import LabelledImages
from pmal_tf.data.settings import SourceOptions
from pmal_tf.runtime.console import quiet_libraries
from pmal_tf.runtime.errors import PmalError, first_line

_READ_BATCH = 1000
_PATIENCE_SECONDS = 1.0
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
    """Returns the folder of prepared datasets, by the order that TFDS itself has."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def prepared_versions(name: str, root: Path) -> list[Path]:
    """Returns the folders of a dataset's prepared versions, the newest last."""
    infos = (root / name).glob("[0-9]*/dataset_info.json")
    # 3.0.10 comes after 3.0.9.
    return sorted(
        (info.parent for info in infos),
        key=lambda folder: [int(n) for n in folder.name.split(".") if n.isdigit()],
    )


def find_prepared(name: str, data_dir: str) -> Path:
    """Returns the newest prepared version of a dataset; a `PmalError` without any."""
    root = resolve_data_dir(data_dir)
    if versions := prepared_versions(name, root):
        return versions[-1]
    way_out = "Prepare it with TensorFlow Datasets"
    if dataset := _PREPARED_AS.get(name):
        command = f"pmal_tf.data.prepare --dataset={dataset} --data_dir={root}"
        way_out = f"Run `python -m {command}`"
    raise PmalError(
        f"Dataset {name!r} is not prepared: no {name}/<version>/dataset_info.json "
        f"under the data folder. Received: data_dir={str(root)!r}. {way_out}, or "
        "name the folder that holds it with --data_dir or TFDS_DATA_DIR."
    )


def open_split(folder: Path, split: str, *, decode: bool = True) -> Any:
    """Returns one split as a `tf.data.Dataset` of examples, in their stored order.

    Without `decode`, their `image` is the bytes of a file.

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
def _damage_explained(folder: Path, place: str = "") -> Iterator[None]:
    """Turns what is raised over a damaged copy into a `PmalError`."""
    import tensorflow as tf
    from google.protobuf.json_format import ParseError

    try:
        yield
    except PmalError:
        raise
    except (tf.errors.OpError, ParseError, OSError, KeyError, ValueError) as error:
        reason = f"{place}: {first_line(error)}" if place else first_line(error)
        raise PmalError(
            f"The prepared dataset in {str(folder)!r} is damaged; expected a complete "
            f"copy as TensorFlow Datasets prepares it. Received: {reason}. Remove that "
            "folder and prepare it again."
        ) from error


def verify_prepared(folder: Path) -> dict[str, int]:
    """Reads all records below `<name>/<version>`, and returns their number by split.

    Images are not decoded; reading is as fast as the disk.

    Raises:
        PmalError: If a record does not have its checksum, or their number is another.
    """
    import tensorflow as tf
    import tensorflow_datasets as tfds

    with _damage_explained(folder), quiet_libraries():
        info = tfds.builder_from_directory(folder).info
        if info.file_format != tfds.core.FileFormat.TFRECORD:
            raise ValueError(f"files of the format {info.file_format}, not TFRecord")
        if not info.splits:
            raise ValueError("a description without splits")
        shards = {
            Path(path): stated
            for split in info.splits.values()
            for path, stated in zip(split.filepaths, split.shard_lengths, strict=True)
        }
        if missing := [path.name for path in shards if not path.exists()]:
            raise ValueError(f"no {', '.join(missing)}")
    # Small datasets are read before a bar could be of use.
    with tqdm(
        desc=f"Verifying {folder.parent.name}",
        total=sum(shards.values()),
        unit=" images",
        delay=_PATIENCE_SECONDS,
    ) as bar:
        for path, stated in shards.items():
            found = 0
            # The lengths stand for the records, so that no batch of images is held.
            records = tf.data.TFRecordDataset(os.fspath(path)).map(tf.strings.length)
            with _damage_explained(folder, path.name):
                for batch in records.batch(_READ_BATCH):
                    found += len(batch)
                    bar.update(len(batch))
                if found != stated:
                    raise ValueError(f"{found} records, not {stated}")
    return {name: split.num_examples for name, split in info.splits.items()}


def load_split(
    name: str, split: str, options: SourceOptions, *, id_feature: str | None = None
) -> LabelledImages:
    """Reads one split of a dataset of small images into memory, in its stored order.

    Images become RGB of `options.image_size`, by default 32 pixels. `id_feature` is
    what names an example; without one, ids are `<split>_<n>`.

    Raises:
        PmalError: If the dataset is not prepared, or cannot be read.
    """
    folder = find_prepared(name, options.data_dir)
    import tensorflow as tf

    from pmal_tf.data.decoding.decode import resize_images

    def square(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        image = resize_images(batch["image"], options.image_size or 32)
        image = tf.cast(image, tf.uint8)
        if image.shape[-1] == 1:
            image = tf.image.grayscale_to_rgb(image)
        return {**batch, "image": image}

    with _damage_explained(folder, f"split {split!r}"):
        dataset = open_split(folder, split).batch(_READ_BATCH).map(square)
        batches = list(dataset.prefetch(2).as_numpy_iterator())

        def column(feature: str) -> np.ndarray:
            return np.concatenate([batch[feature] for batch in batches])

        image, label = column("image"), column("label").astype(np.int32)
        if id_feature is None:
            names = [f"{split}_{n}" for n in range(len(image))]
        else:
            names = [value.decode() for value in column(id_feature)]
    return LabelledImages(image, label, np.array(names))


def load_encoded_split(
    name: str,
    split: str,
    options: SourceOptions,
    *,
    size: int,
    about: int,
    store: str = "",
    keep_label: Callable[[Any], Any] | None = None,
) -> LabelledImages:
    """Decodes one split of a dataset of large images once, onto the disk.

    Images are named by their files where the dataset has these, by `<split>_<n>` in its
    stored order otherwise; their pixels stay on disk.

    Args:
        name: Name of the dataset in TFDS.
        split: Its split.
        options: Where the dataset lies, and where decoded images go.
        size: Side of the images in pixels where `options.image_size` is 0.
        about: How many images there are, for the room they need and the progress.
        store: Name of the decoded images; by default that of dataset and split.
        keep_label: Whether a label's images are wanted, from tensor to tensor.

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

    with _damage_explained(folder, f"split {split!r}"):
        description = (folder / "dataset_info.json").read_text()
        provenance = f"{folder.resolve()} {split} {description}"
        encoded = EncodedImages(
            name=store or f"{name}_{split}",
            about=about,
            size=options.image_size or size,
            stream=stream,
            provenance=provenance,
        )
        return decode_once(encoded, options.cache_dir)
