"""The benchmarks of 28- and 32-pixel images that TensorFlow Datasets has."""

from __future__ import annotations

from pmal_tf.data.images import Dataset, LabelledImages
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.dataset import tfds_dataset
from pmal_tf.data.tfds.read import load_split

DIGITS = tuple(str(digit) for digit in range(10))


def small_dataset(
    name: str,
    class_names: tuple[str, ...],
    *,
    natural: bool,
    tfds_name: str = "",
    id_feature: str | None = "id",
) -> Dataset:
    """Makes the entry of a dataset that fits in memory, at 32 pixels by default.

    `tfds_name` is its name in TensorFlow Datasets where that is another; see
    `tfds_dataset` and `load_split` for the rest.
    """

    def load(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
        train = load_split(tfds_name or name, "train", options, id_feature=id_feature)
        test = load_split(tfds_name or name, "test", options, id_feature=id_feature)
        return train, test

    return tfds_dataset(name, class_names, load, (tfds_name or name,), natural=natural)
