"""The benchmarks of 28- and 32-pixel images that TensorFlow Datasets has."""

from __future__ import annotations

import functools

from pmal_tf.data.images import Dataset, LabelledImages, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.prepare import prepare_all
from pmal_tf.data.tfds.read import check_prepared, load_split

DIGITS = tuple(str(digit) for digit in range(10))


def small_dataset(
    name: str,
    tfds_name: str,
    class_names: tuple[str, ...],
    *,
    natural: bool,
    id_feature: str | None,
) -> Dataset:
    """Makes the entry of a dataset that fits in memory, at 32 pixels by default.

    Args:
        name: The value of `--dataset`.
        tfds_name: Its name in TensorFlow Datasets.
        class_names: Name of each label.
        natural: Whether images may be mirrored and shifted in training.
        id_feature: See `pmal_tf.data.tfds.read.load_split`.
    """

    def load(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
        size = options.image_size or 32
        train, test = (
            load_split(tfds_name, split, options, size=size, id_feature=id_feature)
            for split in ("train", "test")
        )
        return train, test

    def open_dataset(options: SourceOptions) -> Source:
        return Source(
            name=name,
            class_names=class_names,
            natural=natural,
            load=functools.partial(load, options),
            check=functools.partial(check_prepared, (tfds_name,), options),
        )

    return Dataset(
        name=name,
        open=open_dataset,
        prepare=functools.partial(prepare_all, (tfds_name,)),
    )
