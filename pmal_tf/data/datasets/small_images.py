"""The benchmarks of 28- and 32-pixel images, at 32 pixels by default.

MNIST (LeCun et al. 1998), SVHN (Netzer et al. 2011) without its `extra` images,
CIFAR-10 (Krizhevsky 2009), and CIFAR+10 and CIFAR+50: classes of CIFAR-10 known and
test images of CIFAR-100 unknown. Digits are not mirror invariant, so they are not
augmented by default.
"""

from __future__ import annotations

import functools

import numpy as np

from pmal_tf.data.class_lists import class_names
from pmal_tf.data.images import Dataset, LabelledImages
from pmal_tf.data.settings import SourceOptions
from pmal_tf.data.tfds.prepare import tfds_dataset
from pmal_tf.data.tfds.read import load_split

_DIGITS = tuple(str(digit) for digit in range(10))
_CIFAR10 = tuple("airplane automobile bird cat deer dog frog horse ship truck".split())
# Labels 0 to 9 are CIFAR-10's, 10 to 109 CIFAR-100's fine labels; no name is in both.
_CIFAR_PLUS = (*_CIFAR10, *class_names("cifar100_classes.txt"))


def _small_dataset(
    name: str,
    classes: tuple[str, ...],
    *,
    natural: bool,
    tfds_name: str = "",
    id_feature: str | None = "id",
) -> Dataset:
    """Makes the entry of a dataset; `tfds_name` is its other name in TFDS, if any."""
    tfds_name = tfds_name or name

    def load(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
        read = functools.partial(load_split, tfds_name, id_feature=id_feature)
        return read("train", options), read("test", options)

    return tfds_dataset(name, classes, load, (tfds_name,), natural=natural)


_cifar10 = _small_dataset("cifar10", _CIFAR10, natural=True)


def _load_cifar_plus(options: SourceOptions) -> tuple[LabelledImages, LabelledImages]:
    train, known = _cifar10.open(options).load()
    unknown = load_split("cifar100", "test", options, id_feature="id")
    # Both datasets call their images test_00000 and so on.
    ids = np.char.add("cifar100_", unknown.example_id)
    label = unknown.label + np.int32(len(_CIFAR10))
    return train, known.followed_by(LabelledImages(unknown.image, label, ids))


DATASETS = (
    _small_dataset("mnist", _DIGITS, natural=False, id_feature=None),
    # Label 10 of the original files is digit 0 in TensorFlow Datasets.
    _small_dataset("svhn", _DIGITS, natural=False, tfds_name="svhn_cropped"),
    _cifar10,
    # The two differ in their class lists only.
    *(
        tfds_dataset(name, _CIFAR_PLUS, _load_cifar_plus, ("cifar10", "cifar100"))
        for name in ("cifar_plus_10", "cifar_plus_50")
    ),
)
