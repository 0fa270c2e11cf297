"""CIFAR+10 and CIFAR+50: classes of CIFAR-10 known, classes of CIFAR-100 unknown.

Labels 0 to 9 are CIFAR-10's, 10 to 109 CIFAR-100's fine labels; no name is in both.
Only the test images of CIFAR-100 are used.
"""

from __future__ import annotations

import functools
from importlib import resources

import numpy as np

from pmal_tf.data.datasets import cifar10
from pmal_tf.data.images import Dataset, LabelledImages, Source
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.prepare import prepare_all
from pmal_tf.data.tfds.read import check_prepared, load_split

_TFDS_NAMES = ("cifar10", "cifar100")


@functools.cache
def _class_names() -> tuple[str, ...]:
    """Returns the names of all 110 classes in order of label."""
    file = resources.files("pmal_tf.data") / "cifar100_classes.txt"
    return (*cifar10.CLASS_NAMES, *file.read_text().split())


def _load(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
    train, known = cifar10.DATASETS[0].open(options).load()
    unknown = load_split(
        "cifar100", "test", options, size=known.image.shape[1], id_feature="id"
    )
    # Both datasets call their images test_00000 and so on.
    ids = np.char.add("cifar100_", unknown.example_id)
    label = unknown.label + np.int32(len(cifar10.CLASS_NAMES))
    return train, known.followed_by(LabelledImages(unknown.image, label, ids))


def _dataset(name: str) -> Dataset:
    """Makes the entry of one of the two; they differ in their class lists only."""

    def open_dataset(options: SourceOptions) -> Source:
        return Source(
            name=name,
            class_names=_class_names(),
            natural=True,
            load=functools.partial(_load, options),
            check=functools.partial(check_prepared, _TFDS_NAMES, options),
        )

    return Dataset(
        name=name,
        open=open_dataset,
        prepare=functools.partial(prepare_all, _TFDS_NAMES),
    )


CIFAR_PLUS_10 = _dataset("cifar_plus_10")
CIFAR_PLUS_50 = _dataset("cifar_plus_50")
DATASETS = (CIFAR_PLUS_10, CIFAR_PLUS_50)
