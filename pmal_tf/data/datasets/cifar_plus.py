"""CIFAR+10 and CIFAR+50: classes of CIFAR-10 known, classes of CIFAR-100 unknown.

Labels 0 to 9 are CIFAR-10's, 10 to 109 CIFAR-100's fine labels; no name is in both.
Only the test images of CIFAR-100 are used.
"""

from __future__ import annotations

import numpy as np

from pmal_tf.data.datasets import cifar10
from pmal_tf.data.images import LabelledImages
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.dataset import class_list, tfds_dataset
from pmal_tf.data.tfds.read import load_split

_CLASS_NAMES = (*cifar10.CLASS_NAMES, *class_list("cifar100_classes.txt"))


def _load(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
    train, known = cifar10.DATASETS[0].open(options).load()
    unknown = load_split("cifar100", "test", options, id_feature="id")
    # Both datasets call their images test_00000 and so on.
    ids = np.char.add("cifar100_", unknown.example_id)
    label = unknown.label + np.int32(len(cifar10.CLASS_NAMES))
    return train, known.followed_by(LabelledImages(unknown.image, label, ids))


# The two differ in their class lists only.
DATASETS = tuple(
    tfds_dataset(name, _CLASS_NAMES, _load, ("cifar10", "cifar100"))
    for name in ("cifar_plus_10", "cifar_plus_50")
)
