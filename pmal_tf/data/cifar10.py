"""CIFAR-10 (Krizhevsky 2009): 32x32 colour photographs of ten classes."""

from __future__ import annotations

from pmal_tf.data import tfds_source
from pmal_tf.data.images import LabelledImages, Source


def _load(data_dir: str | None) -> tuple[LabelledImages, LabelledImages]:
    train, test = (
        tfds_source.load_split("cifar10", split, data_dir, id_feature="id")
        for split in ("train", "test")
    )
    return train, test


def _prepare(data_dir: str | None) -> str:
    return tfds_source.download("cifar10", data_dir)


SOURCE = Source(
    name="cifar10",
    class_names=(
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
    split_list="cifar10",
    natural=True,
    load=_load,
    prepare=_prepare,
)
